package links

import (
	"context"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/cmd/knock/node"
	"knock/test/hstest"
)

// findings are the doctor's results by the names of checks.
func findings(t *testing.T, ctx context.Context, n *hstest.Node, server, room string) map[string]node.Check {
	t.Helper()
	result, err := n.Do(ctx, node.Command{Do: "doctor federation", Server: server, Room: room})
	must(t, err)
	out := map[string]node.Check{}
	for _, c := range result.Checks {
		out[c.Name] = c
	}
	return out
}

// TestDoctor examines a server that is well, one that is cut off, and one that there is not.
func TestDoctor(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a := s.Start("a.test")
		b := s.Start("b.test")
		alice, _, room := shared(t, s)
		ctx, cancel := s.Context()
		defer cancel()
		want := func(n *hstest.Node, server, repair string, results map[string]string) {
			t.Helper()
			var got map[string]node.Check
			err := lab.Poll(ctx, func() error {
				got = findings(t, ctx, n, server, repair)
				for name, result := range results {
					if got[name].Result != result {
						return errNotYet
					}
				}
				return nil
			})
			if err != nil {
				t.Fatalf("want %v\ngot %+v", results, got)
			}
		}
		well := map[string]string{"name": "ok", "certificate": "ok", "version": "ok", "clock": "ok", "keys": "ok", "signed request": "ok", "queue": "ok", "rooms": "ok"}
		want(a, "b.test", "", well)
		want(b, "a.test", "", well)
		want(b, "a.test", room, map[string]string{"repair": "ok"})
		want(b, "a.test", "!none:a.test", map[string]string{"repair": "failed"})

		s.Cut("a.test", "b.test")
		_, err := alice.Say(ctx, room, "missed")
		must(t, err)
		want(a, "b.test", "", map[string]string{"name": "ok", "connection": "failed", "queue": "warning", "room " + room: "warning"})
		if c := findings(t, ctx, a, "b.test", "")["connection"]; c.Advice == "" {
			t.Error("there is no advice")
		}
		want(a, "not a name", "", map[string]string{"name": "failed"})
	})
}
