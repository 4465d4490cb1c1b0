package push

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestNotifications(t *testing.T) {
	each(t, func(w *world) {
		list := func(query ...string) gjson.Result {
			v := url.Values{}
			for i := 0; i+1 < len(query); i += 2 {
				v.Set(query[i], query[i+1])
			}
			return w.call(w.bob, http.MethodGet, lab.V3("notifications")+"?"+v.Encode(), nil)
		}
		words := func(res gjson.Result) string {
			var out []string
			for _, n := range res.Get("notifications").Array() {
				read := ""
				if n.Get("read").Bool() {
					read = "/read"
				}
				out = append(out, n.Get("event.content.body").Str+n.Get("event.content.membership").Str+read)
			}
			return strings.Join(out, " ")
		}
		other, tea := w.create("Cake", "@bob:a.test"), w.room
		_, err := w.bob.Join(w.ctx, other)
		w.must(err)
		id := w.say("one")
		w.room = other
		w.say("two")
		w.room = tea
		_, err = w.alice.Send(w.ctx, tea, "m.room.message", map[string]any{"msgtype": "m.text", "body": "three",
			"m.mentions": map[string]any{"user_ids": []string{"@bob:a.test"}}})
		w.must(err)
		_, err = w.alice.Send(w.ctx, tea, "m.room.message", map[string]any{"msgtype": "m.notice", "body": "quiet"})
		w.must(err)
		w.read(w.bob, id)
		_, err = w.bob.Say(w.ctx, other, "own")
		w.must(err)

		expect := func(what, got, want string) {
			w.t.Helper()
			if got != want {
				w.t.Errorf("%s: got %q, want %q", what, got, want)
			}
		}
		all := list()
		expect("all", words(all), "three two/read one/read invite/read invite/read")
		expect("the end", all.Get("next_token").Raw, "")
		expect("room", all.Get("notifications.1.room_id").Str, other)
		expect("no room in the event", all.Get("notifications.0.event.room_id").Raw, "")
		expect("actions", all.Get("notifications.0.actions").Raw,
			`["notify",{"set_tweak":"highlight","value":true},{"set_tweak":"sound","value":"default"}]`)
		expect("highlights", words(list("only", "highlight")), "three")
		var pages []string
		for from, n := "", 0; n < 10; n++ {
			q := []string{"limit", "1"}
			if from != "" {
				q = append(q, "from", from)
			}
			res := list(q...)
			pages = append(pages, words(res))
			if from = res.Get("next_token").Str; from == "" {
				break
			}
		}
		expect("pages", strings.TrimSpace(strings.Join(pages, " ")), "three two/read one/read invite/read invite/read")
		var e *lab.Error
		if err := w.bob.Call(w.ctx, http.MethodGet, lab.V3("notifications")+"?from=x", nil, nil); !asError(err, &e) || e.Code != "M_INVALID_PARAM" {
			w.t.Error(err)
		}
	})
}

// TestEncryptedEverywhere turns MSC4028's rule on: encrypted events of a room that is
// restricted to mentions notify all the same, so that the client can decide.
func TestEncryptedEverywhere(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", map[string]any{"format": "event_id_only"})
		w.call(w.bob, http.MethodPut, lab.V3("pushrules", "global", "room", w.room), map[string]any{"actions": []any{}})
		secret := func() string {
			id, err := w.alice.Send(w.ctx, w.room, "m.room.encrypted", map[string]any{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"})
			w.must(err)
			return id
		}
		secret()
		w.create("Cake", "@bob:a.test") // of an invite bob is told: what was before it was looked at with his rules as they were
		w.eventually("the invite", 1, func() any { return len(w.g.all()) })
		invite := w.g.last().Get("event_id").Str
		w.call(w.bob, http.MethodPut, lab.V3("pushrules", "global", "override", ".org.matrix.msc4028.encrypted_event", "enabled"),
			map[string]any{"enabled": true})
		w.arrived(invite, secret())
		if !w.call(w.bob, http.MethodGet, "/_matrix/client/versions", nil).Get("unstable_features.org\\.matrix\\.msc4028").Bool() {
			w.t.Error("the feature is not listed")
		}
	})
}

// TestInviteFromAnotherServer notifies of a room that this server is not in.
func TestInviteFromAnotherServer(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		w := &world{t: t, ctx: ctx, n: s.Start("a.test", local), g: newGateway(t)}
		w.bob, w.alice = w.n.MustRegister("bob"), s.Start("b.test").MustRegister("alice")
		w.pusher(w.bob, "key", nil)
		room := w.create("Far", "@bob:a.test")
		w.eventually("an invite", room+" invite true @alice:b.test", func() any {
			n := w.g.last()
			return n.Get("room_id").Str + " " + n.Get("content.membership").Str + " " + n.Get("user_is_target").Raw + " " + n.Get("sender").Str
		})
	})
}
