package push

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestFullFormat(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", map[string]any{"default_payload": map[string]any{"aps": 1}}, "profile_tag", "tag")
		id := w.say("hello")
		w.arrived("hello")
		n := w.g.last()
		for path, want := range map[string]string{
			"event_id": id, "room_id": w.room, "type": "m.room.message", "sender": "@alice:a.test", "sender_display_name": "alice",
			"room_name": "Tea", "prio": "high", "content.body": "hello", "counts.unread": "1", "devices.#": "1",
			"devices.0.app_id": "org.test", "devices.0.pushkey": "key", "devices.0.tweaks.sound": "default",
			"devices.0.data.default_payload.aps": "1", "devices.0.data.url": "", "user_is_target": "",
		} {
			if got := n.Get(path).String(); got != want {
				t := w.t
				t.Errorf("%s: got %q, want %q in %s", path, got, want, n.Raw)
			}
		}
		if ts := n.Get("devices.0.pushkey_ts").Int(); ts < 1_500_000_000 || ts > 100_000_000_000 {
			w.t.Errorf("pushkey_ts %d is not in seconds", ts)
		}
	})
}

func TestEventIDOnly(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", map[string]any{"format": "event_id_only"})
		id := w.say("a secret")
		w.arrived(id)
		n := w.g.last()
		if strings.Contains(n.Raw, "secret") || n.Get("sender").Exists() || n.Get("room_id").Str != w.room ||
			n.Get("counts.unread").Int() != 1 || n.Get("devices.0.data.format").Str != "event_id_only" {
			w.t.Error(n.Raw)
		}
	})
}

// TestOrderThroughFailures has the gateway fail in several ways: all arrive, in order, once.
func TestOrderThroughFailures(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", nil)
		w.g.misbehave(answer(500, "broken"), answer(http.StatusFound, ""), func(w http.ResponseWriter, _ *http.Request) {
			panic(http.ErrAbortHandler) // the connection breaks
		})
		w.say("one")
		w.say("two")
		w.say("three")
		w.arrived("one", "two", "three")
	})
}

// TestOddAnswers has answers that nobody can read: the gateway took what it got.
func TestOddAnswers(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", nil)
		huge := func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"rejected":["key",`)
			for range 10_000 {
				if _, err := io.WriteString(w, strings.Repeat(`"x",`, 100)); err != nil {
					return
				}
			}
		}
		w.g.misbehave(huge, answer(200, "no JSON"))
		w.say("one")
		w.say("two")
		w.say("three")
		w.arrived("three")
		if got := w.call(w.bob, http.MethodGet, lab.V3("pushers"), nil).Get("pushers.#").Int(); got != 1 {
			w.t.Error("the pusher must stay")
		}
	})
}

func TestRejectedKeyIsRemoved(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", nil)
		w.g.misbehave(answer(200, `{"rejected":["another","key"]}`))
		w.say("one")
		w.eventually("pushers", 0, func() any { return w.call(w.bob, http.MethodGet, lab.V3("pushers"), nil).Get("pushers.#").Int() })
		w.say("two")
		w.pusher(w.bob, "new", nil)
		w.say("three")
		w.arrived("three")
	})
}

// TestRestart stops and kills nodes while the gateway is out of order.
func TestRestart(t *testing.T) {
	for _, kill := range []bool{false, true} {
		hstest.Each(t, func(t *testing.T, s *hstest.Site) {
			ctx, cancel := s.Context()
			defer cancel()
			w := &world{t: t, ctx: ctx, n: s.Add("a.test", local), g: newGateway(t)}
			begin, stop := w.n.Start, w.n.Stop
			if kill {
				begin, stop = w.n.StartProcess, w.n.Kill
			}
			w.must(begin())
			w.alice, w.bob = w.n.MustRegister("alice"), w.n.MustRegister("bob")
			w.room = w.create("Tea", "@bob:a.test")
			_, err := w.bob.Join(ctx, w.room)
			w.must(err)
			w.pusher(w.bob, "key", nil)
			broken := make([]http.HandlerFunc, 1000)
			for i := range broken {
				broken[i] = answer(502, "")
			}
			w.g.misbehave(broken...)
			w.say("one")
			w.say("two")
			w.must(stop())
			w.g.misbehave()
			w.must(begin())
			w.arrived("one", "two")
			w.say("three")
			w.arrived("one", "two", "three")
			if !kill {
				w.must(stop())
				w.must(begin())
				w.say("four")
				w.arrived("one", "two", "three", "four")
			}
		})
	}
}

// TestBadge has another device read, which the gateway hears of without an event.
func TestBadge(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", nil)
		w.say("one")
		id := w.say("two")
		w.arrived("one", "two")
		w.eventually("unread", 2, func() any { return w.g.last().Get("counts.unread").Int() })
		w.read(w.bob, id)
		w.eventually("a badge", "0 false", func() any {
			n := w.g.last()
			return n.Get("counts.unread").Raw + " " + map[bool]string{true: "true", false: "false"}[n.Get("event_id").Exists()]
		})
		w.say("three")
		w.eventually("unread", 1, func() any { return w.g.last().Get("counts.unread").Int() })
		// Muting changes it too, and so does leaving.
		w.call(w.bob, http.MethodPut, lab.V3("pushrules", "global", "override", w.room), map[string]any{"actions": []any{},
			"conditions": []any{map[string]any{"kind": "event_match", "key": "room_id", "pattern": w.room}}})
		w.eventually("muted", "0", func() any { return w.g.last().Get("counts.unread").Raw })
		w.call(w.bob, http.MethodDelete, lab.V3("pushrules", "global", "override", w.room), nil)
		w.eventually("loud again", "1", func() any { return w.g.last().Get("counts.unread").Raw })
		w.must(w.bob.Act(w.ctx, w.room, "leave", map[string]any{}))
		w.eventually("left", "0", func() any { return w.g.last().Get("counts.unread").Raw })
	})
}

func TestNoBadge(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", map[string]any{"org.matrix.msc4076.disable_badge_count": true})
		id := w.say("one")
		w.arrived("one")
		if w.g.last().Get("counts").Exists() {
			w.t.Error(w.g.last().Raw)
		}
		w.read(w.bob, id)
		w.say("two")
		w.arrived("one", "two")
		if n := len(w.g.all()); n != 2 {
			w.t.Errorf("%d notifications", n)
		}
	})
}

// TestInvite notifies somebody who is not in the room; nobody hears of their own events.
func TestInvite(t *testing.T) {
	each(t, func(w *world) {
		w.pusher(w.bob, "key", nil)
		w.pusher(w.alice, "alice", nil)
		w.create("Cake", "@bob:a.test")
		w.eventually("an invite", "m.room.member invite true @bob:a.test", func() any {
			n := w.g.last()
			return n.Get("type").Str + " " + n.Get("content.membership").Str + " " + n.Get("user_is_target").Raw + " @bob:a.test"
		})
		for _, n := range w.g.all() {
			if n.Get("devices.0.pushkey").Str == "alice" {
				w.t.Error("somebody heard of their own event: " + n.Raw)
			}
		}
	})
}

func TestSettingPushers(t *testing.T) {
	each(t, func(w *world) {
		set := lab.V3("pushers", "set")
		for what, change := range map[string][]any{
			"M_MISSING_PARAM kind":  {"kind", missing{}},
			"M_MISSING_PARAM key":   {"pushkey", missing{}},
			"M_MISSING_PARAM lang":  {"lang", missing{}},
			"M_MISSING_PARAM data":  {"data", nil},
			"M_INVALID_PARAM kind":  {"kind", "pigeon"},
			"M_INVALID_PARAM key":   {"pushkey", strings.Repeat("x", 513)},
			"M_INVALID_PARAM app":   {"app_id", strings.Repeat("x", 65)},
			"M_INVALID_PARAM path":  {"data", map[string]any{"url": "https://gateway.test/notify"}},
			"M_INVALID_PARAM file":  {"data", map[string]any{"url": "file:///_matrix/push/v1/notify"}},
			"M_INVALID_PARAM user":  {"data", map[string]any{"url": "https://u:p@gateway.test/_matrix/push/v1/notify"}},
			"M_INVALID_PARAM none":  {"data", map[string]any{}},
			"M_TOO_LARGE data":      {"data", map[string]any{"url": "https://gateway.test/_matrix/push/v1/notify", "x": strings.Repeat("x", 9000)}},
			"M_BAD_JSON kind shape": {"kind", 5},
		} {
			body := pusherBody(w.g.URL, "key", nil, change...)
			if _, gone := change[1].(missing); gone {
				delete(body, change[0].(string))
			}
			err := w.bob.Call(w.ctx, http.MethodPost, set, body, nil)
			var e *lab.Error
			if code, _, _ := strings.Cut(what, " "); !asError(err, &e) || e.Code != code {
				w.t.Errorf("%s: %v", what, err)
			}
		}
		list := func(c *lab.Client) string {
			var keys []string
			for _, p := range w.call(c, http.MethodGet, lab.V3("pushers"), nil).Get("pushers").Array() {
				keys = append(keys, p.Get("pushkey").Str+"/"+p.Get("kind").Str+"/"+p.Get("lang").Str+"/"+p.Get("profile_tag").Str)
			}
			return strings.Join(keys, " ")
		}
		expect := func(what, got, want string) {
			w.t.Helper()
			if got != want {
				w.t.Errorf("%s: got %q, want %q", what, got, want)
			}
		}
		w.pusher(w.bob, "key", nil)
		w.pusher(w.bob, "two", nil)
		w.pusher(w.bob, "key", nil, "lang", "eo", "profile_tag", "x")
		expect("changed", list(w.bob), "key/http/eo/x two/http/en/")
		w.pusher(w.alice, "two", nil, "append", true)
		expect("appended", list(w.bob), "key/http/eo/x two/http/en/")
		w.pusher(w.alice, "key", nil)
		expect("taken over", list(w.bob), "two/http/en/")
		w.call(w.bob, http.MethodPost, set, map[string]any{"app_id": "org.test", "pushkey": "two", "kind": nil})
		expect("deleted", list(w.bob), "")
		expect("others", list(w.alice), "two/http/en/ key/http/en/")
	})
}

// missing leaves a member out of a body.
type missing struct{}

// TestPushersDieWithTheirDevice logs a device out and changes the password.
func TestPushersDieWithTheirDevice(t *testing.T) {
	each(t, func(w *world) {
		count := func() any { return w.call(w.bob, http.MethodGet, lab.V3("pushers"), nil).Get("pushers.#").Int() }
		other := func() *lab.Client {
			c := w.n.Client()
			w.must(c.Login(w.ctx, "bob", w.bob.Password))
			return c
		}
		phone := other()
		w.pusher(w.bob, "here", nil)
		w.pusher(phone, "phone", nil)
		w.eventually("two", 2, count)
		w.call(phone, http.MethodPost, lab.V3("logout"), map[string]any{})
		w.eventually("logged out", 1, count)
		tablet := other()
		w.pusher(tablet, "tablet", nil)
		w.call(w.bob, http.MethodPost, lab.V3("account", "password"), map[string]any{"new_password": "something new", "logout_devices": true,
			"auth": map[string]any{"type": "m.login.password", "password": w.bob.Password, "identifier": map[string]any{"type": "m.id.user", "user": "bob"}}})
		w.eventually("password changed", 1, count)
		w.say("one")
		w.arrived("one")
	})
}

// TestPrivateGateway is refused unless its network is allowed.
func TestPrivateGateway(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		w := &world{t: t, ctx: ctx, n: s.Add("a.test", "logging.levels={push: debug}"), g: newGateway(t)}
		w.must(w.n.Start())
		w.alice, w.bob = w.n.MustRegister("alice"), w.n.MustRegister("bob")
		w.room = w.create("Tea", "@bob:a.test")
		_, err := w.bob.Join(ctx, w.room)
		w.must(err)
		w.pusher(w.bob, "key", nil)
		w.say("a secret")
		w.eventually("refused", true, func() any { return strings.Contains(w.n.Log(), "is private or reserved") })
		if w.g.tries != 0 || strings.Contains(w.n.Log(), "secret") {
			t.Error("it was called, or content was logged")
		}
	})
}
