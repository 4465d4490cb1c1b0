package journeys

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"knock/cmd/knock/demo/lab"
)

// fits says whether a command takes n arguments.
func (c command) fits(n int) bool {
	words := strings.Fields(c.usage)
	least := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, "[") })
	if least < 0 {
		least = len(words)
	}
	return n >= least && (n <= len(words) || strings.HasSuffix(c.usage, "…]"))
}

// act is a command of a user in a room.
func act(usage string, do func(ctx context.Context, s *story, u *user, room string, args []string) error) command {
	return command{"user room " + usage, func(ctx context.Context, s *story, args []string) error {
		u, err := must("user", s.users, args[0])
		if err != nil {
			return err
		}
		return do(ctx, s, u, s.room(args[1]), args[2:])
	}}
}

// room is the id of a name; what has none is an id or an alias itself.
func (s *story) room(name string) string {
	if id := s.rooms[name]; id != "" {
		return id
	}
	return name
}

// userID is that of a user of the script, or a literal one.
func (s *story) userID(name string) string {
	if u := s.users[name]; u != nil {
		return u.UserID
	}
	return name
}

func table() map[string]command {
	all := map[string]command{
		"code": {"M_CODE", func(_ context.Context, s *story, args []string) error {
			if s.code != args[0] {
				return fmt.Errorf("the error code was %s", s.code)
			}
			return nil
		}},
	}
	for _, more := range []map[string]command{nodeCommands(), userCommands(), roomCommands(), talkCommands(), lookCommands(), compareCommands(), sharedCommands()} {
		for name, c := range more {
			all[name] = c
		}
	}
	return all
}

func codeOf(err error) string {
	var e *lab.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func nodeCommands() map[string]command {
	return map[string]command{
		// up runs nodes, "a" being the server a.test; -process in processes of their own.
		"up": {"node [node…]", func(_ context.Context, s *story, args []string) error {
			process := args[0] == "-process"
			if process {
				args = args[1:]
			}
			for _, name := range args {
				n := s.site.Node(name + ".test")
				if n == nil {
					n = s.site.Add(name + ".test")
				}
				start := n.Start
				if process {
					start = n.StartProcess
				}
				if err := start(); err != nil {
					return err
				}
			}
			return nil
		}},
		"down":  {"node", func(_ context.Context, s *story, args []string) error { return s.site.Node(args[0] + ".test").Stop() }},
		"kill9": {"node", func(_ context.Context, s *story, args []string) error { return s.site.Node(args[0] + ".test").Kill() }},
		"cut": {"node node", func(_ context.Context, s *story, args []string) error {
			s.site.Cut(args[0]+".test", args[1]+".test")
			return nil
		}},
		"heal": {"node node", func(_ context.Context, s *story, args []string) error {
			s.site.Heal(args[0]+".test", args[1]+".test")
			return nil
		}},
	}
}

func userCommands() map[string]command {
	return map[string]command{
		// user makes accounts: alice@a.
		"user": {"name@node [name@node…]", func(_ context.Context, s *story, args []string) error {
			for _, arg := range args {
				name, node, _ := strings.Cut(arg, "@")
				n := s.site.Node(node + ".test")
				if n == nil {
					return fmt.Errorf("there is no node %s", node)
				}
				c, err := n.Register(name)
				if err != nil {
					return err
				}
				s.users[name] = &user{c, n}
			}
			return nil
		}},
		// device logs a user in again under another name.
		"device": {"user name", func(ctx context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			c := u.node.Client()
			s.users[args[1]] = &user{c, u.node}
			return c.Login(ctx, args[0], u.Password)
		}},
		"whoami": {"user", func(ctx context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			return u.Call(ctx, http.MethodGet, lab.V3("account", "whoami"), nil, nil)
		}},
		// name sets a display name.
		"name": {"user displayname", func(ctx context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			return u.Call(ctx, http.MethodPut, lab.V3("profile", u.UserID, "displayname"), map[string]string{"displayname": args[1]}, nil)
		}},
		// forget makes the next sync an initial one.
		"forget-sync": {"user", func(_ context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err == nil {
				u.Forget()
			}
			return err
		}},
		// upload stores size random bytes, or a given text, under a name.
		"upload": {"user name size", func(ctx context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			size, err := strconv.Atoi(args[2])
			if err != nil {
				return err
			}
			data := make([]byte, size)
			rand.Read(data)
			uri, err := u.Upload(ctx, args[1], "application/octet-stream", data)
			s.files[args[1]], s.events[uri] = uri, string(data)
			return err
		}},
		// download fetches a file through the user's node and compares its bytes.
		"download": {"user name", func(ctx context.Context, s *story, args []string) error {
			u, err := must("user", s.users, args[0])
			if err != nil {
				return err
			}
			uri, err := must("file", s.files, args[1])
			if err != nil {
				return err
			}
			data, _, err := u.Download(ctx, uri)
			if err == nil && string(data) != s.events[uri] {
				err = fmt.Errorf("%d other bytes than the %d that were uploaded", len(data), len(s.events[uri]))
			}
			return err
		}},
	}
}

func roomCommands() map[string]command {
	all := map[string]command{
		// create makes a room; the request is JSON.
		"create": act("[request]", func(ctx context.Context, s *story, u *user, name string, args []string) (err error) {
			request := json.RawMessage(`{"preset":"private_chat"}`)
			if len(args) > 0 {
				request = json.RawMessage(args[0])
			}
			s.rooms[name], err = u.CreateRoom(ctx, request)
			return err
		}),
		"join": act("[via…]", func(ctx context.Context, s *story, u *user, room string, via []string) error {
			for i := range via {
				via[i] += ".test"
			}
			joined, err := u.Join(ctx, room, via...)
			if err == nil && !strings.HasPrefix(room, "#") && joined != room {
				err = fmt.Errorf("joined %s instead of %s", joined, room)
			}
			return err
		}),
		"knock": act("[via…]", func(ctx context.Context, s *story, u *user, room string, via []string) error {
			query := ""
			for _, v := range via {
				query += "&via=" + v + ".test&server_name=" + v + ".test"
			}
			return u.Call(ctx, http.MethodPost, lab.V3("knock", room)+"?"+strings.TrimPrefix(query, "&"), struct{}{}, nil)
		}),
		"leave": act("", func(ctx context.Context, _ *story, u *user, room string, _ []string) error {
			return u.Act(ctx, room, "leave", struct{}{})
		}),
		"forget": act("", func(ctx context.Context, _ *story, u *user, room string, _ []string) error {
			return u.Act(ctx, room, "forget", struct{}{})
		}),
		"alias": act("alias", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			return u.Call(ctx, http.MethodPut, lab.V3("directory", "room", args[0]), map[string]string{"room_id": room}, nil)
		}),
		"set": act("type key content", func(ctx context.Context, _ *story, u *user, room string, args []string) error {
			_, err := u.SetState(ctx, room, args[0], args[1], json.RawMessage(args[2]))
			return err
		}),
	}
	for _, action := range []string{"invite", "kick", "ban", "unban"} {
		all[action] = act("other [reason]", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			body := map[string]string{"user_id": s.userID(args[0])}
			if len(args) > 1 {
				body["reason"] = args[1]
			}
			return u.Act(ctx, room, action, body)
		})
	}
	return all
}

func talkCommands() map[string]command {
	return map[string]command{
		// send sends messages; their text is their name.
		"send": act("text [text…]", func(ctx context.Context, s *story, u *user, room string, texts []string) error {
			for _, text := range texts {
				id, err := u.Say(ctx, room, text)
				if err != nil {
					return err
				}
				s.events[text] = id
			}
			return nil
		}),
		// flood sends text 1, text 2, … count.
		"flood": act("text count", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			count, err := strconv.Atoi(args[1])
			for i := 0; i < count && err == nil; i++ {
				_, err = u.Say(ctx, room, fmt.Sprintf("%s %d", args[0], i+1))
			}
			return err
		}),
		"redact": act("text", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			return u.Call(ctx, http.MethodPut, lab.V3("rooms", room, "redact", s.events[args[0]], "redact "+args[0]), map[string]string{"reason": "test"}, nil)
		}),
		"type": act("[off]", func(ctx context.Context, _ *story, u *user, room string, args []string) error {
			return u.Call(ctx, http.MethodPut, lab.V3("rooms", room, "typing", u.UserID),
				map[string]any{"typing": len(args) == 0, "timeout": 30000}, nil)
		}),
		"read": act("text", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			return u.Call(ctx, http.MethodPost, lab.V3("rooms", room, "receipt", "m.read", s.events[args[0]]), struct{}{}, nil)
		}),
		// crash floods from several senders, kills the node in the middle and remembers what was acknowledged.
		"crash": act("text node after", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			after, err := strconv.Atoi(args[2])
			if err != nil {
				return err
			}
			return s.crash(ctx, u, room, args[0], s.site.Node(args[1]+".test"), after)
		}),
		// survived wants each message of a crash once, after all were sent again with their transaction ids.
		"survived": act("text", func(ctx context.Context, s *story, u *user, room string, args []string) error {
			return s.survived(ctx, u, room, args[0])
		}),
	}
}
