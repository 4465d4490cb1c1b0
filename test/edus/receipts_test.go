package edus

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

type object = map[string]any

type world struct {
	*testing.T
	ctx        context.Context
	alice, bob *lab.Client
	room       string
}

// each has alice of one server and bob of another in a room.
func each(t *testing.T, fn func(w *world)) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		a, b := s.Start("a.test"), s.Start("b.test")
		w := &world{T: t, ctx: ctx, alice: a.MustRegister("alice"), bob: b.MustRegister("bob")}
		var err error
		w.room, err = w.alice.CreateRoom(ctx, object{"preset": "public_chat"})
		w.must(err)
		_, err = w.bob.Join(ctx, w.room, "a.test")
		w.must(err)
		fn(w)
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// say sends a message, in a thread unless root is "", and waits until the reader has it.
func (w *world) say(from, to *lab.Client, root, text string) string {
	w.Helper()
	content := object{"msgtype": "m.text", "body": text}
	if root != "" {
		content["m.relates_to"] = object{"rel_type": "m.thread", "event_id": root}
	}
	id, err := from.Send(w.ctx, w.room, "m.room.message", content)
	w.must(err)
	w.must(to.Until(w.ctx, func(v *lab.View) error {
		if _, ok := v.Room(w.room).Message(text); !ok {
			return errors.New(text + " did not come")
		}
		return nil
	}))
	return id
}

func (w *world) read(who *lab.Client, event, thread string) {
	w.Helper()
	body := object{}
	if thread != "" {
		body["thread_id"] = thread
	}
	w.must(who.Call(w.ctx, http.MethodPost, lab.V3("rooms", w.room, "receipt", "m.read", event), body, nil))
}

// receipts are those of a user as another one sees them in a first sync: "event thread".
func (w *world) receipts(of, by *lab.Client) map[string]bool {
	w.Helper()
	var raw gjsonRaw
	w.must(by.Call(w.ctx, http.MethodGet, lab.V3("sync"), nil, &raw))
	found := map[string]bool{}
	for _, e := range gjson.GetBytes(raw, "rooms.join."+gjson.Escape(w.room)+".ephemeral.events.#(type==\"m.receipt\")#.content").Array() {
		e.ForEach(func(event, kinds gjson.Result) bool {
			if r := kinds.Get(`m\.read.` + gjson.Escape(of.UserID)); r.Exists() {
				found[event.Str+" "+r.Get("thread_id").Str] = true
			}
			return true
		})
	}
	return found
}

type gjsonRaw []byte

// UnmarshalJSON keeps the text.
func (g *gjsonRaw) UnmarshalJSON(data []byte) error {
	*g = append((*g)[:0], data...)
	return nil
}

func (w *world) sees(of, by *lab.Client, want ...string) {
	w.Helper()
	w.must(lab.Poll(w.ctx, func() error {
		got := w.receipts(of, by)
		for _, r := range want {
			if !got[r] {
				return fmt.Errorf("%s sees of %s: %v, and not %s", by.UserID, of.UserID, got, r)
			}
		}
		return nil
	}))
}

// TestReceiptsInThreads: each thread has a receipt of its own, beside the one of no thread.
func TestReceiptsInThreads(t *testing.T) {
	each(t, func(w *world) {
		root := w.say(w.alice, w.bob, "", "root")
		other := w.say(w.alice, w.bob, "", "another root")
		inside := w.say(w.alice, w.bob, root, "in the thread")
		beside := w.say(w.bob, w.alice, other, "in the other thread")
		last := w.say(w.alice, w.bob, "", "last")
		w.read(w.bob, inside, root)
		w.read(w.bob, beside, other)
		w.read(w.bob, other, "main")
		w.read(w.bob, last, "")
		w.sees(w.bob, w.alice, inside+" "+root, beside+" "+other, other+" main", last+" ")
		w.read(w.alice, beside, other)
		w.read(w.alice, last, "")
		w.sees(w.alice, w.bob, beside+" "+other, last+" ")
	})
}

// TestReceiptsOfDeniedServers: who is denied by the room tells it of nothing; what does not belong to a room still comes.
func TestReceiptsOfDeniedServers(t *testing.T) {
	each(t, func(w *world) {
		first := w.say(w.alice, w.bob, "", "first")
		second := w.say(w.alice, w.bob, "", "second")
		w.read(w.bob, first, "")
		w.sees(w.bob, w.alice, first+" ")
		_, err := w.alice.SetState(w.ctx, w.room, "m.room.server_acl", "", object{"allow": []string{"*"}, "deny": []string{"b.test"}})
		w.must(err)
		w.must(w.bob.Call(w.ctx, http.MethodPut, lab.V3("rooms", w.room, "typing", w.bob.UserID), object{"typing": true, "timeout": 30_000}, nil))
		w.read(w.bob, second, "")
		w.sees(w.bob, w.bob, second+" ")
		w.must(w.bob.Call(w.ctx, http.MethodPut, lab.V3("presence", w.bob.UserID, "status"), object{"presence": "online", "status_msg": "after it"}, nil))
		w.must(lab.Poll(w.ctx, func() error {
			var raw gjsonRaw
			w.must(w.alice.Call(w.ctx, http.MethodGet, lab.V3("presence", w.bob.UserID, "status"), nil, &raw))
			if got := gjson.GetBytes(raw, "status_msg").Str; got != "after it" {
				return fmt.Errorf("bob is %q", got)
			}
			return nil
		}))
		if got := w.receipts(w.bob, w.alice); got[second+" "] {
			w.Errorf("the receipt of a denied server came: %v", got)
		}
		w.must(w.alice.Until(w.ctx, func(v *lab.View) error {
			if typing := v.Room(w.room).Typing; len(typing) > 0 {
				w.Errorf("of a denied server %v type", typing)
			}
			return nil
		}))
	})
}
