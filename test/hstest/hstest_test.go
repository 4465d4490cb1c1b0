package hstest

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"knock/cmd/knock/demo/lab"
)

func TestMain(m *testing.M) { Main(m) }

// TestRestart keeps accounts over a stop, a start in a child process, and its end by SIGKILL.
func TestRestart(t *testing.T) {
	Each(t, func(t *testing.T, s *Site) {
		n := s.Start("a.test")
		c := n.MustRegister("alice")
		for _, again := range []func() error{n.Stop, n.StartProcess, n.Kill, n.Start, n.Stop, n.StartProcess, n.Stop, n.Start} {
			if err := again(); err != nil {
				t.Fatal(err)
			}
			if n.target() == "" {
				continue
			}
			if err := c.Call(t.Context(), http.MethodGet, lab.V3("account", "whoami"), nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.Kill(); err == nil {
			t.Error("a node of this process was killed")
		}
	})
}

// TestCut sees that a cut parts two nodes and that healing joins them again.
func TestCut(t *testing.T) {
	Each(t, func(t *testing.T, s *Site) {
		alice := s.Start("a.test").MustRegister("alice")
		s.Start("b.test")
		// ask wants the answer of b, which knows no such room.
		ask := func() error {
			err := alice.Call(t.Context(), http.MethodGet, lab.V3("directory", "room", "#none:b.test"), nil, nil)
			var e *lab.Error
			if errors.As(err, &e) && e.Code == "M_NOT_FOUND" {
				return nil
			}
			return fmt.Errorf("b did not answer: %w", err)
		}
		s.Cut("a.test", "b.test")
		if ask() == nil {
			t.Error("the cut does not part them")
		}
		s.Heal("a.test", "b.test")
		ctx, cancel := s.Context()
		defer cancel()
		if err := lab.Poll(ctx, ask); err != nil {
			t.Error(err)
		}
	})
}
