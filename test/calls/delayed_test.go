package calls

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/cmd/knock/node"
)

const (
	stable   = "/_matrix/client/v1/delayed_events"
	unstable = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	hour     = 3_600_000
)

// delayed is the body of the endpoint of MSC4140's merged text.
func delayed(ms int, content map[string]any) map[string]any {
	return map[string]any{"delay_ms": ms, "content": content}
}

func (w *world) start() {
	w.t.Helper()
	w.must(w.n.Start())
}

// TestDelayedMessage schedules by either generation of endpoints, and sends at once and by the clock.
func TestDelayedMessage(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		alice, bob, nobody := w.n.MustRegister("alice"), w.n.MustRegister("bob"), w.n.Client()
		room := w.room(alice)
		_, err := bob.Join(w.ctx, room)
		w.must(err)
		if !w.call(nobody, http.MethodGet, "/_matrix/client/versions", nil).Get(`unstable_features.org\.matrix\.msc4140`).Bool() {
			t.Error("the feature is not named")
		}
		limits := w.call(alice, http.MethodGet, lab.V3("capabilities"), nil).Get(`capabilities.m\.delayed_events`)
		if limits.Get("max_delay_ms").Int() != 24*hour || limits.Get("max_scheduled").Int() != 100 {
			t.Errorf("the capability is %s", limits)
		}

		// Once a transaction, whatever the body is then.
		put := lab.V3("rooms", room, "send", "x.param", "1") + "?org.matrix.msc4140.delay=3600000"
		byParam := w.call(alice, http.MethodPut, put, map[string]any{"n": 1}).Get("delay_id").Str
		if again := w.call(alice, http.MethodPut, put, nil).Get("delay_id").Str; again != byParam {
			t.Errorf("repeated, it is %s instead of %s", again, byParam)
		}
		byBody := w.call(alice, http.MethodPut, lab.V3("rooms", room, "delayed_event", "x.body", "1"), delayed(hour/2, map[string]any{"n": 2})).Get("delay_id").Str
		for i, path := range []string{stable, unstable} {
			list := w.call(alice, http.MethodGet, path, nil).Get("delayed_events")
			first, second := list.Get("0"), list.Get("1")
			if list.Get("#").Int() != 2 || first.Get("delay_id").Str != byBody || second.Get("delay_id").Str != byParam || second.Get("delay_ms").Int() != hour ||
				first.Get("content.n").Int() != 2 || first.Get("type").Str != "x.body" || first.Get("room_id").Str != room || first.Get("state_key").Exists() ||
				first.Get("scheduled_at").Int() == 0 || first.Get("finalised_ts").Exists() || first.Get("running_since").Exists() != (i == 1) {
				t.Errorf("%s: %s", path, list)
			}
			if others := w.call(bob, http.MethodGet, path, nil).Get("delayed_events.#").Int(); others != 0 {
				t.Errorf("bob has %d", others)
			}
		}
		w.refused(401, "M_MISSING_TOKEN", nobody, http.MethodGet, unstable, nil)
		w.refused(401, "M_MISSING_TOKEN", nobody, http.MethodPost, stable+"/"+byBody+"/send", map[string]any{})
		w.refused(404, "M_NOT_FOUND", bob, http.MethodPost, stable+"/"+byBody+"/send", map[string]any{})
		w.refused(404, "M_NOT_FOUND", bob, http.MethodGet, stable+"/"+byBody, nil)

		w.call(alice, http.MethodPost, stable+"/"+byBody+"/send", nil)
		w.call(alice, http.MethodPost, stable+"/"+byBody+"/send", map[string]any{})
		w.call(nobody, http.MethodPost, unstable+"/"+byParam, map[string]any{"action": "send"})
		w.refused(409, "M_UNKNOWN", alice, http.MethodPost, stable+"/"+byBody+"/cancel", map[string]any{})
		w.refused(404, "M_NOT_FOUND", nobody, http.MethodPost, unstable+"/"+byBody+"/restart", map[string]any{})
		seen := w.until(alice, room, "x.body")
		if seen.Get("unsigned.delay_id").Str != byBody || seen.Get(`unsigned.org\.matrix\.msc4140\.delay_id`).Str != byBody || seen.Get("content.n").Int() != 2 {
			t.Errorf("alice sees %s", seen)
		}
		if seen := w.until(bob, room, "x.body"); strings.Contains(seen.Raw, "delay_id") {
			t.Errorf("bob sees %s", seen)
		}
		one := w.call(alice, http.MethodGet, stable+"/"+byBody, nil)
		if one.Get("event_id").Str != seen.Get("event_id").Str || one.Get("finalised_ts").Int() >= one.Get("scheduled_at").Int()+one.Get("delay_ms").Int() {
			t.Errorf("it became %s", one)
		}
		w.call(alice, http.MethodPut, lab.V3("rooms", room, "send", "x.timed", "1")+"?org.matrix.msc4140.delay=1", map[string]any{})
		w.until(bob, room, "x.timed")

		// What became of them, as earlier texts list it.
		id := w.call(alice, http.MethodPut, lab.V3("rooms", room, "state", "x.cancelled", "k")+"?org.matrix.msc4140.delay=5000", map[string]any{}).Get("delay_id").Str
		w.call(nobody, http.MethodPost, unstable+"/"+id+"/restart", map[string]any{})
		w.call(nobody, http.MethodPost, unstable+"/"+id+"/cancel", map[string]any{})
		w.call(alice, http.MethodPost, stable+"/"+id+"/cancel", map[string]any{})
		w.refused(409, "M_UNKNOWN", alice, http.MethodPost, stable+"/"+id+"/send", nil)
		all := w.call(alice, http.MethodGet, unstable+"?status=finalised", nil)
		outcomes := map[string]string{}
		for _, f := range all.Get("finalised").Array() {
			outcomes[f.Get("delayed_event.type").Str] = f.Get("outcome").Str + " " + f.Get("reason").Str
		}
		if want := map[string]string{"x.body": "send action", "x.param": "send action", "x.timed": "send delay", "x.cancelled": "cancel action"}; fmt.Sprint(want) != fmt.Sprint(outcomes) {
			t.Errorf("outcomes: %v", outcomes)
		}
		if all.Get("scheduled").Exists() || all.Get("next_batch").Exists() {
			t.Errorf("more than was asked for: %s", all)
		}
		if one := w.call(alice, http.MethodGet, unstable+"?delay_id="+id+"&status=finalised&status=scheduled", nil); one.Get("finalised.#").Int() != 1 || one.Get("scheduled.#").Int() != 0 {
			t.Errorf("asked for one: %s", one)
		}
	})
}

// TestDelayedRefusals schedules what cannot be.
func TestDelayedRefusals(t *testing.T) {
	each(t, func(w *world) {
		w.n.Set("calls.max_delayed_events=2", "calls.max_event_delay=1h")
		w.start()
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		room := w.room(alice)
		in := func(kind string) string { return lab.V3("rooms", room, "delayed_event", kind, "t") }
		send := func(query string) string {
			return lab.V3("rooms", room, "send", "x", "t") + "?org.matrix.msc4140." + query
		}
		empty := map[string]any{}
		w.refused(403, "M_FORBIDDEN", alice, http.MethodPut, in("x"), delayed(hour+1, empty))
		tooLong := w.refused(400, "M_UNKNOWN", alice, http.MethodPut, send("delay=3600001"), empty)
		if tooLong.Get(`org\.matrix\.msc4140\.errcode`).Str != "M_MAX_DELAY_EXCEEDED" || tooLong.Get(`org\.matrix\.msc4140\.max_delay`).Int() != hour {
			t.Errorf("too long: %s", tooLong)
		}
		for _, query := range []string{"delay=0", "delay=-1", "delay=x", "delay=99999999999999999999", "parent_delay_id=abc"} {
			w.refused(400, "M_INVALID_PARAM", alice, http.MethodPut, send(query), empty)
		}
		w.refused(400, "M_INVALID_PARAM", alice, http.MethodPut, in("x"), delayed(0, empty))
		w.refused(400, "M_MISSING_PARAM", alice, http.MethodPut, in("x"), map[string]any{"delay_ms": 1})
		w.refused(400, "M_MISSING_PARAM", alice, http.MethodPut, in("x"), map[string]any{"content": empty})
		w.refused(400, "M_BAD_JSON", alice, http.MethodPut, in("x"), map[string]any{"content": []int{}, "delay_ms": 1})
		w.refused(400, "M_BAD_JSON", alice, http.MethodPut, in("x"), delayed(1, map[string]any{"half": 0.5}))
		w.refused(413, "M_TOO_LARGE", alice, http.MethodPut, in("x"), delayed(1, map[string]any{"a": strings.Repeat("x", 65_300)}))
		w.refused(413, "M_TOO_LARGE", alice, http.MethodPut, in(strings.Repeat("x", 256)), delayed(1, empty))
		w.refused(403, "M_FORBIDDEN", bob, http.MethodPut, in("x"), delayed(1, empty))
		w.refused(400, "M_INVALID_PARAM", alice, http.MethodPut, lab.V3("rooms", room, "state", "m.room.create")+"?org.matrix.msc4140.delay=1", empty)
		w.refused(400, "M_MISSING_PARAM", w.n.Client(), http.MethodPost, unstable+"/abc", empty)
		w.refused(400, "M_INVALID_PARAM", w.n.Client(), http.MethodPost, unstable+"/abc", map[string]any{"action": "oops"})
		w.refused(404, "M_UNRECOGNIZED", w.n.Client(), http.MethodPost, unstable+"/abc/oops", empty)
		w.refused(400, "M_INVALID_PARAM", alice, http.MethodGet, unstable+"?status=oops", nil)
		w.refused(400, "M_INVALID_PARAM", alice, http.MethodGet, unstable+"?from=oops", nil)
		if n := w.call(alice, http.MethodGet, unstable, nil).Get("delayed_events.#").Int(); n != 0 {
			t.Fatalf("%d were scheduled", n)
		}

		for i := range 2 {
			w.call(alice, http.MethodPut, lab.V3("rooms", room, "state", "x", fmt.Sprint(i))+"?org.matrix.msc4140.delay=3600000", empty)
		}
		w.refused(429, "M_LIMIT_EXCEEDED", alice, http.MethodPut, in("x"), delayed(1, empty))
		w.must(w.n.Stop())
		w.n.Set("calls.max_delayed_events=0")
		w.start()
		w.refused(403, "M_FORBIDDEN", alice, http.MethodPut, in("x"), delayed(1, empty))
		if w.call(alice, http.MethodGet, "/_matrix/client/versions", nil).Get(`unstable_features.org\.matrix\.msc4140`).Exists() {
			t.Error("the feature is named where it is off")
		}
	})
}

// TestDelayedLeave lives through the end of a call: state that is put off by heart-beats, then by who may not send any more.
func TestDelayedLeave(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		room := w.room(alice)
		_, err := bob.Join(w.ctx, room)
		w.must(err)
		key := "_" + bob.UserID + "_" + bob.DeviceID
		at := func(c string, delay int) string {
			return lab.V3("rooms", room, "state", c, key) + "?org.matrix.msc4140.delay=" + fmt.Sprint(delay)
		}
		const member = "org.matrix.msc3401.call.member"
		_, err = bob.SetState(w.ctx, room, member, key, map[string]any{"application": "m.call"})
		w.must(err)
		leave := w.call(bob, http.MethodPut, at(member, 100_000), map[string]any{}).Get("delay_id").Str
		w.call(bob, http.MethodPost, unstable+"/"+leave+"/restart", map[string]any{})
		w.call(w.n.Client(), http.MethodPost, unstable+"/"+leave+"/send", map[string]any{})
		w.must(alice.Until(w.ctx, func(v *lab.View) error {
			if left := v.Room(room).State[lab.Key{Type: member, StateKey: key}]; string(left.Content) != "{}" {
				return fmt.Errorf("the membership is %s", left.Content)
			}
			return nil
		}))

		// A member event, and a redaction.
		said, err := bob.Say(w.ctx, room, "soon gone")
		w.must(err)
		w.call(bob, http.MethodPut, lab.V3("rooms", room, "delayed_event", "m.room.redaction", "r"), delayed(1, map[string]any{"redacts": said}))
		w.until(alice, room, "m.room.redaction")

		// Who may not send any more sends nothing.
		id := w.call(bob, http.MethodPut, at("x", 100_000), map[string]any{"a": 1}).Get("delay_id").Str
		gone := w.call(bob, http.MethodPut, at("y", 100_000), map[string]any{"a": 1}).Get("delay_id").Str
		w.must(alice.Act(w.ctx, room, "ban", map[string]any{"user_id": bob.UserID}))
		w.refused(403, "M_FORBIDDEN", bob, http.MethodPost, stable+"/"+id+"/send", nil)
		if one := w.call(bob, http.MethodGet, stable+"/"+id, nil); one.Get("finalised_ts").Exists() {
			t.Errorf("it is not scheduled any more: %s", one)
		}
		w.call(bob, http.MethodPost, lab.V3("account", "deactivate"), map[string]any{"auth": map[string]any{"type": "m.login.password", "password": bob.Password,
			"identifier": map[string]any{"type": "m.id.user", "user": bob.UserID}}})
		w.refused(404, "M_NOT_FOUND", w.n.Client(), http.MethodPost, unstable+"/"+gone+"/send", map[string]any{})
	})
}

// TestDelayedStanding sends nothing for people who may not do anything now.
func TestDelayedStanding(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		alice := w.n.MustRegister("alice")
		room := w.room(alice)
		id := w.call(alice, http.MethodPut, lab.V3("rooms", room, "delayed_event", "x", "1"), delayed(hour, map[string]any{})).Get("delay_id").Str
		for what, refusal := range map[string]string{"suspend": "403 M_USER_SUSPENDED", "lock": "401 M_USER_LOCKED"} {
			_, err := w.n.Do(w.ctx, node.Command{Do: "user " + what, User: "alice"})
			w.must(err)
			err = w.n.Client().Call(w.ctx, http.MethodPost, unstable+"/"+id+"/send", map[string]any{}, nil)
			if err == nil || !strings.Contains(err.Error(), refusal) {
				t.Errorf("%sed: %v", what, err)
			}
			_, err = w.n.Do(w.ctx, node.Command{Do: "user un" + what, User: "alice"})
			w.must(err)
		}
		w.call(w.n.Client(), http.MethodPost, unstable+"/"+id+"/send", map[string]any{})
		w.until(alice, room, "x")
	})
}

// TestDelayedCrash kills a node while events fall due: each goes once, in the order in which they were due.
func TestDelayedCrash(t *testing.T) {
	each(t, func(w *world) {
		w.must(w.n.StartProcess())
		alice := w.n.MustRegister("alice")
		room := w.room(alice)
		type scheduled struct {
			id  string
			due int64
		}
		var all []scheduled
		for i := range 40 {
			id := w.call(alice, http.MethodPut, lab.V3("rooms", room, "delayed_event", "x", fmt.Sprint(i)), delayed(1000+(i*37)%40*20, map[string]any{"i": i})).Get("delay_id").Str
			all = append(all, scheduled{id: id})
		}
		list := w.call(alice, http.MethodGet, stable, nil).Get("delayed_events")
		for i, s := range all {
			one := list.Get(`#(delay_id=="` + s.id + `")`)
			if !one.Exists() {
				one = w.call(alice, http.MethodGet, stable+"/"+s.id, nil)
			}
			all[i].due = one.Get("scheduled_at").Int() + one.Get("delay_ms").Int()
		}
		for w.call(alice, http.MethodGet, stable, nil).Get("delayed_events.#").Int() > 20 {
		}
		w.must(w.n.Kill())
		w.must(w.n.StartProcess())
		var sent []gjson.Result
		for len(sent) < len(all) {
			sent = w.call(alice, http.MethodGet, lab.V3("rooms", room, "messages")+"?dir=f&limit=500&filter="+url.QueryEscape(`{"types":["x"]}`), nil).Get("chunk").Array()
			w.must(w.ctx.Err())
		}
		for w.call(alice, http.MethodGet, stable, nil).Get("delayed_events.#").Int() > 0 {
		}
		slices.SortStableFunc(all, func(a, b scheduled) int { return cmp.Compare(a.due, b.due) })
		for i, e := range sent {
			if i >= len(all) || e.Get("unsigned.delay_id").Str != all[i].id {
				t.Fatalf("event %d is %s", i, e)
			}
		}
	})
}

// TestDelayedElsewhere has another server hear of an event that was due while nobody ran.
func TestDelayedElsewhere(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		other := w.s.Start("b.test", "registration.mode=open")
		alice, bob := w.n.MustRegister("alice"), other.MustRegister("bob")
		room := w.room(alice)
		_, err := bob.Join(w.ctx, room, "a.test")
		w.must(err)
		w.call(alice, http.MethodPut, lab.V3("rooms", room, "delayed_event", "x", "1"), delayed(1, map[string]any{}))
		w.must(w.n.Stop())
		w.start()
		w.until(bob, room, "x")
	})
}
