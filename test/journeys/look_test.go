package journeys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// sight is something that "see" waits for in a room.
type sight struct {
	args int
	seen func(s *story, r *lab.Room, args []string) error
}

// want complains when got is not want.
func want(what, got, wanted string) error {
	if got != wanted {
		return fmt.Errorf("%s is %q, not %q", what, got, wanted)
	}
	return nil
}

var sights = map[string]sight{
	// me is the user's own membership: join, invite, knock or leave.
	"me": {1, func(_ *story, r *lab.Room, args []string) error {
		return want("the own membership", r.Membership, args[0])
	}},
	"member": {2, func(s *story, r *lab.Room, args []string) error {
		return want("the membership of "+args[0], r.Member(s.userID(args[0])), args[1])
	}},
	"name": {2, func(s *story, r *lab.Room, args []string) error {
		return want("the name of "+args[0], r.State[lab.Key{Type: "m.room.member", StateKey: s.userID(args[0])}].Text("displayname"), args[1])
	}},
	"state": {4, func(_ *story, r *lab.Room, args []string) error {
		return want(args[0]+" "+args[2], r.State[lab.Key{Type: args[0], StateKey: args[1]}].Text(args[2]), args[3])
	}},
	"topic": {1, func(_ *story, r *lab.Room, args []string) error {
		return want("the topic", r.State[lab.Key{Type: "m.room.topic"}].Text("topic"), args[0])
	}},
	// flood is text 1 to text count, each once and in order.
	"flood": {2, func(_ *story, r *lab.Room, args []string) error { return inOrder(r.Timeline, args[0], args[1]) }},
	"typing": {1, func(s *story, r *lab.Room, args []string) error {
		if !slices.Contains(r.Typing, s.userID(args[0])) {
			return fmt.Errorf("those who type are %v", r.Typing)
		}
		return nil
	}},
	"silence": {0, func(_ *story, r *lab.Room, _ []string) error {
		if len(r.Typing) > 0 {
			return fmt.Errorf("those who type are %v", r.Typing)
		}
		return nil
	}},
	"read": {2, func(s *story, r *lab.Room, args []string) error {
		return want("what "+args[0]+" read last", r.Receipts[s.userID(args[0])], s.events[args[1]])
	}},
	"unread": {1, func(_ *story, r *lab.Room, args []string) error {
		return want("the unread count", strconv.Itoa(r.Unread), args[0])
	}},
	"redacted": {1, func(s *story, r *lab.Room, args []string) error {
		for _, e := range r.Timeline {
			if e.Type == "m.room.redaction" && (e.Redacts == s.events[args[0]] || e.Text("redacts") == s.events[args[0]]) {
				return nil
			}
		}
		return fmt.Errorf("no redaction of %q came", args[0])
	}},
}

func seeTexts(r *lab.Room, texts []string) error {
	for _, text := range texts {
		if _, ok := r.Message(text); !ok {
			return fmt.Errorf("the message %q is not there", text)
		}
	}
	return nil
}

// inOrder wants the messages text 1, text 2, … each once and in order.
func inOrder(timeline []lab.Event, text, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	next := 1
	for _, e := range timeline {
		if !strings.HasPrefix(e.Text("body"), text+" ") {
			continue
		}
		if err := want(fmt.Sprintf("message %d of %s", next, text), e.Text("body"), fmt.Sprintf("%s %d", text, next)); err != nil {
			return err
		}
		next++
	}
	return want("the number of messages", strconv.Itoa(next-1), strconv.Itoa(n))
}

func lookCommands() map[string]command {
	return map[string]command{
		// see syncs until a sight is there; without a known sight, until the messages with these texts are.
		"see": act("sight [more…]", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			look, known := sights[args[0]]
			if known && len(args) != look.args+1 {
				return fmt.Errorf("%s wants %d arguments", args[0], look.args)
			}
			return u.Until(ctx, func(v *lab.View) error {
				if known {
					return look.seen(s, v.Room(room), args[1:])
				}
				return seeTexts(v.Room(room), args)
			})
		}),
		// unseen syncs once and wants that these messages have not come.
		"unseen": act("text [text…]", func(ctx context.Context, s *story, u *user, room string, texts []string) error {
			return u.Until(ctx, func(v *lab.View) error {
				for _, text := range texts {
					if _, ok := v.Room(room).Message(text); ok {
						return fmt.Errorf("the message %q came", text)
					}
				}
				return nil
			})
		}),
		// history pages back from the end to the room's beginning and looks for a flood.
		"history": act("text count", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			timeline, err := hstest.History(ctx, u.Client, room)
			if err != nil {
				return err
			}
			return inOrder(timeline, args[0], args[1])
		}),
		// content waits until the server shows a message's content as this JSON.
		"content": act("text json", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			id, err := must("event", s.events, args[0])
			if err != nil {
				return err
			}
			return lab.Poll(ctx, func() error {
				var e lab.Event
				if err := u.Call(ctx, http.MethodGet, lab.V3("rooms", room, "event", id), nil, &e); err != nil {
					return err
				}
				return want("the content", string(e.Content), args[1])
			})
		}),
		// profile waits until another user's profile has this display name.
		"profile": {"user other displayname", func(ctx context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			return lab.Poll(ctx, func() error {
				var p struct{ DisplayName string }
				err := u.Call(ctx, http.MethodGet, lab.V3("profile", s.userID(args[1])), nil, &p)
				return errors.Join(err, want("the display name", p.DisplayName, args[2]))
			})
		}},
	}
}

func compareCommands() map[string]command {
	return map[string]command{
		// same waits until two users' nodes have the same state, forward extremities and messages of a room.
		"same": {"user other room", func(ctx context.Context, s *story, args []string) error {
			a, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			b, err := must("user", s.users, args[1])
			if err != nil {
				return err
			}
			return lab.Poll(ctx, func() error { return same(ctx, a, b, s.room(args[2])) })
		}},
	}
}

func same(ctx context.Context, a, b *user, room string) error {
	return hstest.Same(ctx, room, hstest.Witness{Client: a.Client, Node: a.node}, hstest.Witness{Client: b.Client, Node: b.node})
}
