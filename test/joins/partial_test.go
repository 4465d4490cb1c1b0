package joins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// gate holds requests for the state of rooms back until it is opened.
type gate struct {
	open, asked chan struct{}
	once        sync.Once
}

func newGate(t *testing.T) *gate {
	g := &gate{open: make(chan struct{}), asked: make(chan struct{}, 100)}
	t.Cleanup(g.Open)
	return g
}

func (g *gate) Open() { g.once.Do(func() { close(g.open) }) }

func (g *gate) around(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/federation/v1/state") {
			select {
			case g.asked <- struct{}{}:
			default:
			}
			select {
			case <-g.open:
			case <-r.Context().Done():
				return
			}
		}
		h.ServeHTTP(w, r)
	})
}

const lazy = `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":50}}}`

// lazily syncs until seen has nothing to complain about, with members loaded lazily, and returns the last answer.
func lazily(ctx context.Context, c *lab.Client, since string, seen func(sync gjson.Result) error) (string, error) {
	for {
		var raw json.RawMessage
		query := url.Values{"filter": {lazy}, "timeout": {"2000"}}
		if since != "" {
			query.Set("since", since)
		}
		if err := c.Call(ctx, http.MethodGet, lab.V3("sync")+"?"+query.Encode(), nil, &raw); err != nil {
			return since, err
		}
		answer := gjson.ParseBytes(raw)
		since = answer.Get("next_batch").Str
		err := seen(answer)
		if err == nil || ctx.Err() != nil {
			return since, err
		}
	}
}

// slid returns the rooms of a first sliding sync that asks for some state.
func slid(ctx context.Context, t *testing.T, c *lab.Client, required string) map[string]gjson.Result {
	t.Helper()
	var raw json.RawMessage
	body := json.RawMessage(`{"lists":{"all":{"ranges":[[0,20]],"timeline_limit":1,"required_state":[` + required + `]}}}`)
	must(t, c.Call(ctx, http.MethodPost, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", body, &raw))
	return gjson.GetBytes(raw, "rooms").Map()
}

func inRoom(room string) func(gjson.Result) error {
	return func(sync gjson.Result) error {
		if !sync.Get("rooms.join").Map()[room].Exists() {
			return errors.New("the room is not in the answer")
		}
		return nil
	}
}

func says(room, body string) func(gjson.Result) error {
	return func(sync gjson.Result) error {
		for _, e := range sync.Get("rooms.join").Map()[room].Get("timeline.events").Array() {
			if e.Get("content.body").Str == body {
				return nil
			}
		}
		return fmt.Errorf("%q is not in the answer", body)
	}
}

// joinedMembers asks for all members in the background.
func joinedMembers(ctx context.Context, c *lab.Client, room string) <-chan int {
	out := make(chan int, 1)
	go func() {
		var raw json.RawMessage
		err := c.Call(ctx, http.MethodGet, lab.V3("rooms", room, "joined_members"), nil, &raw)
		n := len(gjson.GetBytes(raw, "joined").Map())
		if err != nil {
			n = -1
		}
		out <- n
	}()
	return out
}

// TestUsedBeforeComplete uses a room while its members do not come, kills the node that joined, goes on using it, and then
// lets them come.
func TestUsedBeforeComplete(t *testing.T) {
	const members = 200
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		a, b := s.Start("a.test"), s.Add("b.test", "federation.partial_joins=true")
		room := populated(t, a, members)
		g := newGate(t)
		a.Around(g.around)
		must(t, a.Start())
		must(t, b.StartProcess())
		bob := b.MustRegister("bob")
		alice := a.Client()
		must(t, alice.Login(ctx, "alice", "password of alice"))
		_, err := bob.Join(ctx, room, "a.test")
		must(t, err)
		<-g.asked
		since, err := lazily(ctx, bob, "", inRoom(room))
		must(t, err)
		must(t, bob.Until(ctx, func(v *lab.View) error {
			if v.Rooms[room] != nil {
				t.Error("a client that loads all members is told of the room before they are known")
			}
			return nil
		}))
		for required, want := range map[string]bool{`["m.room.member","$LAZY"]`: true, `["m.room.member","*"]`: false} {
			if got := slid(ctx, t, bob, required)[room].Exists(); got != want {
				t.Errorf("sliding sync with %s tells of the room: %t, want %t", required, got, want)
			}
		}
		waiting := joinedMembers(ctx, bob, room)
		_, err = alice.Say(ctx, room, "to b")
		must(t, err)
		since, err = lazily(ctx, bob, since, says(room, "to b"))
		must(t, err)
		_, err = bob.Say(ctx, room, "to a")
		must(t, err)
		must(t, alice.Until(ctx, said(room, "to a")))
		select {
		case n := <-waiting:
			t.Errorf("%d members are told of before they are known", n)
		default:
		}

		must(t, b.Kill())
		<-waiting
		must(t, b.StartProcess())
		bob.BaseURL = b.URL()
		_, err = alice.Say(ctx, room, "to b again")
		must(t, err)
		since, err = lazily(ctx, bob, since, says(room, "to b again"))
		must(t, err)
		waiting = joinedMembers(ctx, bob, room)
		g.Open()
		if n := <-waiting; n != members+1 {
			t.Errorf("%d members are in the room, want %d", n, members+1)
		}
		if n := len(slid(ctx, t, bob, `["m.room.member","*"]`)[room].Get("required_state").Array()); n != members+1 {
			t.Errorf("sliding sync tells of %d members, want %d", n, members+1)
		}
		must(t, bob.Until(ctx, func(v *lab.View) error {
			if err := said(room, "to b again")(v); err != nil {
				return err
			}
			n := 0
			for key := range v.Room(room).State {
				if key.Type == "m.room.member" {
					n++
				}
			}
			if n != members+1 {
				t.Errorf("a client that loads all members is told of %d, want %d", n, members+1)
			}
			return nil
		}))
		_, err = alice.Say(ctx, room, "whole")
		must(t, err)
		_, err = lazily(ctx, bob, since, func(sync gjson.Result) error {
			if n := len(sync.Get("rooms.join").Map()[room].Get("state.events").Array()); n > 10 {
				t.Errorf("a client that loads members lazily is told of %d when all are known", n)
			}
			return says(room, "whole")(sync)
		})
		must(t, err)
		expectMembers(t, bob, room, members+1)
	})
}

func said(room, body string) func(*lab.View) error {
	return func(v *lab.View) error {
		if _, ok := v.Room(room).Message(body); !ok {
			return fmt.Errorf("%q was not heard", body)
		}
		return nil
	}
}

// TestMembersFromAnotherServer has the server go that a room was joined through, before it gives the members.
func TestMembersFromAnotherServer(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		g := newGate(t)
		a, b, c := s.Add("a.test"), s.Start("b.test", "federation.partial_joins=true"), s.Start("c.test")
		a.Around(g.around)
		must(t, a.Start())
		alice, bob, carol := a.MustRegister("alice"), b.MustRegister("bob"), c.MustRegister("carol")
		room, err := alice.CreateRoom(ctx, map[string]any{"preset": "public_chat"})
		must(t, err)
		c.Set("federation.partial_joins=false")
		must(t, c.Stop())
		must(t, c.Start())
		_, err = carol.Join(ctx, room, "a.test")
		must(t, err)
		_, err = bob.Join(ctx, room, "a.test")
		must(t, err)
		<-g.asked
		_, err = bob.Say(ctx, room, "to c")
		must(t, err)
		must(t, carol.Until(ctx, said(room, "to c")))
		s.Cut("a.test", "b.test")
		must(t, bob.Until(ctx, said(room, "to c")))
		if n := <-joinedMembers(ctx, bob, room); n != 3 {
			t.Errorf("%d members are in the room, want 3", n)
		}
		_, err = carol.Say(ctx, room, "to b")
		must(t, err)
		must(t, bob.Until(ctx, said(room, "to b")))
	})
}
