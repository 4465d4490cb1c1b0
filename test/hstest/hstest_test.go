package hstest

import (
	"errors"
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
		bob := s.Start("b.test").MustRegister("bob")
		profile := func() error {
			return alice.Call(t.Context(), http.MethodGet, lab.V3("profile", bob.UserID), nil, nil)
		}
		s.Cut("a.test", "b.test")
		var e *lab.Error
		if err := profile(); !errors.As(err, &e) {
			t.Errorf("over a cut: %v", err)
		}
		s.Heal("a.test", "b.test")
		ctx, cancel := s.Context()
		defer cancel()
		if err := lab.Poll(ctx, profile); err != nil {
			t.Error(err)
		}
	})
}
