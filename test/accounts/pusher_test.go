package accounts

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/internal/mail/mailtest"
)

func emailPusher(address string) map[string]any {
	return map[string]any{"kind": "email", "app_id": "m.email", "pushkey": address, "app_display_name": "Email Notifications",
		"device_display_name": address, "lang": "en", "data": map[string]string{"brand": "App"}}
}

var unsubscribeHeader = regexp.MustCompile(`(?s)List-Unsubscribe: <(https://matrix\.a\.test\S+?)>\r\n`)

// TestEmailPusher lets messages lie, reads one, and gets an e-mail about the other.
func TestEmailPusher(t *testing.T) {
	withMail(t, func(w *world, box *mailtest.Server) {
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		w.addEmail(box, alice, "alice@example.com")
		set := lab.V3("pushers", "set")
		w.refused(400, "M_INVALID_PARAM", bob, http.MethodPost, set, emailPusher("alice@example.com"))
		w.refused(400, "M_INVALID_PARAM", alice, http.MethodPost, set, emailPusher("other@example.com"))
		w.call(alice, http.MethodPost, set, emailPusher("alice@example.com"))
		room, err := bob.CreateRoom(w.ctx, map[string]any{"preset": "private_chat", "name": "Tea\u202e\nTo: eve@example.com", "invite": []string{alice.UserID}})
		w.must(err)
		_, err = alice.Join(w.ctx, room)
		w.must(err)
		first, err := bob.Say(w.ctx, room, "this is read")
		w.must(err)
		_, err = bob.Say(w.ctx, room, "this is not\nread")
		w.must(err)
		w.call(alice, http.MethodPost, lab.V3("rooms", room, "receipt", "m.read", first), map[string]any{})
		box.NothingTaken(t)

		w.must(w.n.Stop())
		w.n.Set("push.email_delay=1ms")
		w.must(w.n.Start())
		var got mailtest.Received
		select {
		case got = <-box.Mails:
		case <-w.ctx.Done():
			t.Fatal("no e-mail came: " + w.n.Log())
		}
		if len(got.To) != 1 || got.To[0] != "alice@example.com" || !strings.Contains(got.Data, "bob: this is not read") ||
			strings.Contains(got.Data, "this is read") || strings.Contains(got.Data, "\nTo: eve") {
			t.Error(got.Data)
		}
		link := unsubscribeHeader.FindStringSubmatch(unfold(got.Data))
		if link == nil || !strings.Contains(got.Data, "List-Unsubscribe-Post: List-Unsubscribe=One-Click") {
			t.Fatal(got.Data)
		}
		u, err := url.Parse(link[1])
		w.must(err)
		if status, shown := w.page(u.RequestURI(), nil); status != 200 || !strings.Contains(shown, "alice@example.com") {
			t.Error(status, shown)
		}
		alice = w.again(alice)
		if n := w.call(alice, http.MethodGet, lab.V3("pushers"), nil).Get("pushers.#").Int(); n != 1 {
			t.Errorf("looking at the page left %d pushers", n)
		}
		if status, shown := w.page(u.RequestURI(), url.Values{"List-Unsubscribe": {"One-Click"}}); status != 200 {
			t.Error(status, shown)
		}
		if n := w.call(alice, http.MethodGet, lab.V3("pushers"), nil).Get("pushers.#").Int(); n != 0 {
			t.Errorf("%d pushers are left", n)
		}
		if status, _ := w.page(u.RequestURI(), url.Values{}); status != 404 {
			t.Error(status)
		}
	}, "push.email_delay=24h")
}

// unfold joins the lines of long headers.
func unfold(data string) string { return strings.ReplaceAll(data, "\r\n ", " ") }

// again is a client of the same session after another start of the node.
func (w *world) again(c *lab.Client) *lab.Client {
	other := w.n.Client()
	other.UserID, other.DeviceID, other.Token, other.Password = c.UserID, c.DeviceID, c.Token, c.Password
	return other
}

// TestEmailPusherOfLostAddress removes the address: nothing goes there any more.
func TestEmailPusherOfLostAddress(t *testing.T) {
	withMail(t, func(w *world, box *mailtest.Server) {
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		w.addEmail(box, alice, "alice@example.com")
		w.call(alice, http.MethodPost, lab.V3("pushers", "set"), emailPusher("Alice@example.com"))
		w.call(alice, http.MethodPost, lab.V3("account", "3pid", "delete"), map[string]string{"medium": "email", "address": "alice@example.com"})
		room, err := bob.CreateRoom(w.ctx, map[string]any{"preset": "private_chat", "invite": []string{alice.UserID}})
		w.must(err)
		_, err = alice.Join(w.ctx, room)
		w.must(err)
		_, err = bob.Say(w.ctx, room, "hello")
		w.must(err)
		w.must(lab.Poll(w.ctx, func() error {
			var list struct{ Pushers []any }
			if err := alice.Call(w.ctx, http.MethodGet, lab.V3("pushers"), nil, &list); err != nil || len(list.Pushers) > 0 {
				return errOr(err, "the pusher is still there")
			}
			return nil
		}))
		box.NothingTaken(t)
	}, "push.email_delay=1ms")
}

func errOr(err error, text string) error {
	if err != nil {
		return err
	}
	return errors.New(text)
}
