package links

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/cmd/knock/node"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

var errNotYet = errors.New("not yet")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// admin makes an administrator and logs them in.
func admin(t *testing.T, n *hstest.Node) *lab.Client {
	t.Helper()
	_, err := n.Do(t.Context(), node.Command{Do: "user add", User: "boss", Password: "password of boss", Admin: true})
	must(t, err)
	c := n.Client()
	must(t, c.Login(t.Context(), "boss", "password of boss"))
	return c
}

// shared has alice at a and bob at b in one room.
func shared(t *testing.T, s *hstest.Site) (alice, bob *lab.Client, room string) {
	t.Helper()
	alice, bob = s.Node("a.test").MustRegister("alice"), s.Node("b.test").MustRegister("bob")
	ctx, cancel := s.Context()
	defer cancel()
	room, err := alice.CreateRoom(ctx, map[string]any{"preset": "public_chat"})
	must(t, err)
	_, err = bob.Join(ctx, room, "a.test")
	must(t, err)
	return alice, bob, room
}

type destination struct {
	Server  string
	State   string
	Waiting int64  `json:"waiting_events"`
	Oldest  int64  `json:"oldest_waiting_ts"`
	Failing int64  `json:"failing_since_ts"`
	Retry   int64  `json:"retry_at_ts"`
	Error   string `json:"last_error"`
}

func (d destination) is(state string, waiting int64) error {
	if d.State == state && d.Waiting == waiting && (d.Oldest > 0) == (waiting > 0) && (state != "down" || d.Error != "" && d.Failing > 0) {
		return nil
	}
	return errNotYet
}

// TestDestinations watches a server go down and come back through the endpoints for administrators.
func TestDestinations(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a := s.Start("a.test")
		s.Start("b.test")
		boss := admin(t, a)
		alice, _, room := shared(t, s)
		ctx, cancel := s.Context()
		defer cancel()
		const base = "/_knock/admin/v1/destinations"
		one := func(state string, waiting int64) {
			t.Helper()
			var d destination
			err := lab.Poll(ctx, func() error {
				d = destination{}
				if err := boss.Call(ctx, http.MethodGet, base+"/b.test", nil, &d); err != nil {
					return err
				}
				return d.is(state, waiting)
			})
			if err != nil {
				t.Fatalf("%v, want %s with %d: %+v", err, state, waiting, d)
			}
		}
		say := func(text string) {
			t.Helper()
			_, err := alice.Say(ctx, room, text)
			must(t, err)
		}
		say("before")
		one("idle", 0)
		s.Cut("a.test", "b.test")
		say("one")
		say("two")
		one("down", 2)
		var list struct{ Destinations []destination }
		must(t, boss.Call(ctx, http.MethodGet, base+"?limit=1", nil, &list))
		if len(list.Destinations) != 1 || list.Destinations[0].Server != "b.test" {
			t.Errorf("%+v", list)
		}
		s.Heal("a.test", "b.test")
		must(t, boss.Call(ctx, http.MethodPost, base+"/b.test/retry", nil, nil))
		one("idle", 0)

		refused(t, ctx, boss, http.MethodGet, base+"/"+url.PathEscape("unknown.test"), "M_NOT_FOUND")
		refused(t, ctx, boss, http.MethodPost, base+"/unknown.test/retry", "M_NOT_FOUND")
		refused(t, ctx, alice, http.MethodGet, base, "M_FORBIDDEN")
	})
}

func refused(t *testing.T, ctx context.Context, c *lab.Client, method, path, code string) {
	t.Helper()
	var e *lab.Error
	if err := c.Call(ctx, method, path, nil, nil); !errors.As(err, &e) || e.Code != code {
		t.Errorf("%s %s: %v, want %s", method, path, err, code)
	}
}
