package links

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// post sends a message to all devices of a user; its text is its name, for the transaction too.
func post(ctx context.Context, from *lab.Client, to, text string) error {
	return from.Call(ctx, http.MethodPut, lab.V3("sendToDevice", "org.example.note", text),
		map[string]any{"messages": map[string]any{to: map[string]any{"*": map[string]string{"text": text}}}}, nil)
}

// TestDenied has what is for a server that is denied wait until it is allowed again.
func TestDenied(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		a := s.Start("a.test")
		s.Start("b.test")
		alice, bob, room := shared(t, s)
		ctx, cancel := s.Context()
		defer cancel()
		restart := func(deny string) {
			t.Helper()
			must(t, a.Stop())
			a.Set("federation.deny_domains=[" + deny + "]")
			must(t, a.Start())
		}
		restart("b.test")
		must(t, post(ctx, alice, bob.UserID, "key"))
		_, err := alice.Say(ctx, room, "while denied")
		must(t, err)
		boss := admin(t, a)
		must(t, lab.Poll(ctx, func() error {
			var d destination
			return errors.Join(boss.Call(ctx, http.MethodGet, "/_knock/admin/v1/destinations/b.test", nil, &d), d.is("down", 1))
		}))
		must(t, bob.Sync(ctx, 0))
		restart("")
		must(t, bob.Until(ctx, func(v *lab.View) error {
			_, said := v.Room(room).Message("while denied")
			if !said || len(v.ToDevice) != 1 || v.ToDevice[0].Text("text") != "key" {
				return fmt.Errorf("said: %v; to the device: %v", said, v.ToDevice)
			}
			return nil
		}))
	})
}
