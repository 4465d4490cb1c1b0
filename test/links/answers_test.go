package links

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// TestLostAnswers has transactions be taken and their answers lost: they come again, also to a node that has started
// again since and does not know them, and nothing comes twice.
func TestLostAnswers(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a, b := s.Start("a.test"), s.Start("b.test")
		boss := admin(t, a)
		alice, bob, room := shared(t, s)
		ctx, cancel := s.Context()
		defer cancel()
		said := []string{}
		for _, restart := range []bool{false, true} {
			var lost atomic.Int64
			s.LoseAnswers(func(r *http.Request) bool {
				loses := strings.Contains(r.URL.Path, "/federation/v1/send/") && strings.HasPrefix(r.Host, b.Name)
				if loses {
					lost.Add(1)
				}
				return loses
			})
			text := fmt.Sprintf("restart %v", restart)
			said = append(said, text)
			must(t, post(ctx, alice, bob.UserID, text))
			must(t, bob.Until(ctx, func(v *lab.View) error { // it is taken, and a does not know
				if len(v.ToDevice) == len(said) {
					return nil
				}
				return errNotYet
			}))
			if restart {
				must(t, b.Stop())
				must(t, b.Start())
			}
			_, err := alice.Say(ctx, room, text)
			must(t, err)
			must(t, lab.Poll(ctx, func() error {
				if lost.Load() < 2 {
					return errNotYet
				}
				return nil
			}))
			s.LoseAnswers(nil)
			must(t, lab.Poll(ctx, func() error {
				var d destination
				err := boss.Call(ctx, http.MethodGet, "/_knock/admin/v1/destinations/b.test", nil, &d)
				return errors.Join(err, d.is("idle", 0))
			}))
		}
		must(t, bob.Until(ctx, func(v *lab.View) error {
			if _, ok := v.Room(room).Message(said[1]); !ok {
				return errNotYet
			}
			return nil
		}))
		must(t, bob.Look(func(v *lab.View) error {
			for _, text := range said {
				n := 0
				for _, e := range v.Room(room).Timeline {
					if e.Text("body") == text {
						n++
					}
				}
				for _, e := range v.ToDevice {
					if e.Text("text") == text {
						n++
					}
				}
				if n != 2 || len(v.ToDevice) != 2 {
					t.Errorf("%q came %d times; %d came to the device", text, n, len(v.ToDevice))
				}
			}
			return nil
		}))
		must(t, lab.Poll(ctx, func() error {
			return hstest.Same(ctx, room, hstest.Witness{Client: alice, Node: a}, hstest.Witness{Client: bob, Node: b})
		}))
	})
}
