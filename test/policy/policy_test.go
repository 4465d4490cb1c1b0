package policy

import (
	"context"
	"encoding/json"
	"errors"
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
	a, b       *hstest.Node
	alice, bob *lab.Client
}

// each has a.test be a policy server.
func each(t *testing.T, fn func(w *world)) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		w := &world{T: t, ctx: ctx, a: s.Start("a.test", "policy_server.enabled=true", "policy_server.deny_phrases=[Buy now]", "policy_server.max_mentions=2"), b: s.Start("b.test")}
		w.alice, w.bob = w.a.MustRegister("alice"), w.b.MustRegister("bob")
		fn(w)
	})
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func code(err error) string {
	var e *lab.Error
	if errors.As(err, &e) {
		return e.Code
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// policed makes a room of bob's whose policy server a.test is, by the key that it publishes.
func (w *world) policed() string {
	w.Helper()
	var published json.RawMessage
	w.must(w.alice.Call(w.ctx, http.MethodGet, "/.well-known/matrix/policy_server", nil, &published))
	key := gjson.GetBytes(published, "public_keys.ed25519").Str
	room, err := w.bob.CreateRoom(w.ctx, object{"preset": "public_chat", "room_alias_name": "policed"})
	w.must(err)
	_, err = w.alice.Join(w.ctx, "#policed:b.test")
	w.must(err)
	w.must(w.bob.Until(w.ctx, func(v *lab.View) error {
		if v.Room(room).Member(w.alice.UserID) != "join" {
			return errors.New("alice is not in the room")
		}
		return nil
	}))
	_, err = w.bob.SetState(w.ctx, room, "m.room.policy", "", object{"via": "a.test", "public_keys": object{"ed25519": key}})
	w.must(err)
	return room
}

// hears waits until a user has a message.
func (w *world) hears(c *lab.Client, room, text string) {
	w.Helper()
	w.must(c.Until(w.ctx, func(v *lab.View) error {
		if _, ok := v.Room(room).Message(text); !ok {
			return errors.New(text + " did not come")
		}
		return nil
	}))
}

func TestOurPolicyServer(t *testing.T) {
	each(t, func(w *world) {
		room := w.policed()
		_, err := w.bob.Say(w.ctx, room, "hello")
		w.must(err)
		_, err = w.alice.Say(w.ctx, room, "and hello back")
		w.must(err)
		w.hears(w.alice, room, "hello")
		w.hears(w.bob, room, "and hello back")
		for _, c := range []*lab.Client{w.alice, w.bob} {
			if _, err := c.Say(w.ctx, room, "BUY NOW or never"); code(err) != "M_FORBIDDEN" {
				w.Errorf("a phrase of %s: %v", c.UserID, err)
			}
			if _, err := c.Send(w.ctx, room, "m.room.message", object{"body": "hey", "m.mentions": object{"user_ids": []string{"@a:x", "@b:x", "@c:x"}}}); code(err) != "M_FORBIDDEN" {
				w.Errorf("mentions of %s: %v", c.UserID, err)
			}
		}
	})
}

// TestPolicyLists has the policy server believe a list in a room of its own.
func TestPolicyLists(t *testing.T) {
	each(t, func(w *world) {
		list, err := w.alice.CreateRoom(w.ctx, object{})
		w.must(err)
		w.must(w.a.Stop())
		w.a.Set("policy_server.lists=[\"" + list + "\"]")
		w.must(w.a.Start())
		room := w.policed()
		mallory := w.b.MustRegister("mallory")
		_, err = mallory.Join(w.ctx, room)
		w.must(err)
		_, err = mallory.Say(w.ctx, room, "not banned yet")
		w.must(err)
		ban := func(key, kind string, content object) {
			_, err := w.alice.SetState(w.ctx, list, "m.policy.rule."+kind, key, content)
			w.must(err)
		}
		ban("1", "user", object{"entity": "@mal*:b.test", "recommendation": "m.ban", "reason": "spam"})
		ban("2", "user", object{"entity": w.bob.UserID, "recommendation": "m.watch"})
		if _, err := mallory.Say(w.ctx, room, "banned"); code(err) != "M_FORBIDDEN" {
			w.Errorf("whom a list bans: %v", err)
		}
		_, err = w.bob.Say(w.ctx, room, "not banned")
		w.must(err)
		ban("1", "user", object{})
		_, err = mallory.Say(w.ctx, room, "not any more")
		w.must(err)
		ban("3", "server", object{"entity": "b.test", "recommendation": "m.ban"})
		if _, err := w.bob.Say(w.ctx, room, "banned"); code(err) != "M_FORBIDDEN" {
			w.Errorf("whose server a list bans: %v", err)
		}
		w.must(w.bob.Act(w.ctx, room, "leave", object{})) // nobody is kept
	})
}

// TestPolicyServerAway has a room whose policy server does not answer.
func TestPolicyServerAway(t *testing.T) {
	each(t, func(w *world) {
		room := w.policed()
		w.must(w.a.Stop())
		if _, err := w.bob.Say(w.ctx, room, "refused"); code(err) != "M_UNKNOWN" {
			w.Errorf("while nobody signs: %v", err)
		}
		w.must(w.b.Stop())
		w.b.Set("room.policy_optional=true")
		w.must(w.b.Start())
		_, err := w.bob.Say(w.ctx, room, "without a signature")
		w.must(err)
		w.hears(w.bob, room, "without a signature")
		w.must(w.a.Start())
		w.hears(w.alice, room, "without a signature") // the policy server judges itself what it gets
	})
}
