package calls

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// stick sends a sticky event and returns its id.
func (w *world) stick(c *lab.Client, room, body string) string {
	w.t.Helper()
	return w.call(c, http.MethodPut, lab.V3("rooms", room, "send", "x.sticky", body)+"?org.matrix.msc4354.sticky_duration_ms=600000",
		map[string]any{"body": body}).Get("event_id").Str
}

// bury sends so many messages that a timeline does not reach back.
func (w *world) bury(c *lab.Client, room string) {
	w.t.Helper()
	for i := range 25 {
		_, err := c.Say(w.ctx, room, fmt.Sprint("message ", i))
		w.must(err)
	}
}

// look is what an answer of /sync tells of a room.
type look struct {
	timeline, sticky map[string]gjson.Result
	next             string
}

func byID(events gjson.Result) map[string]gjson.Result {
	out := map[string]gjson.Result{}
	for _, e := range events.Array() {
		out[e.Get("event_id").Str] = e
	}
	return out
}

func (w *world) sync(c *lab.Client, room, since, more string) look {
	w.t.Helper()
	path := lab.V3("sync") + "?timeout=0" + more
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	news := w.call(c, http.MethodGet, path, nil)
	in := news.Get("rooms.join." + escape(room))
	return look{byID(in.Get("timeline.events")), byID(in.Get("msc4354_sticky.events")), news.Get("next_batch").Str}
}

// slide is sync for sliding sync; since is the token of the extension.
func (w *world) slide(c *lab.Client, room, pos, since string, limit int) (l look, token string) {
	w.t.Helper()
	extension := map[string]any{"enabled": true, "limit": limit}
	if since != "" {
		extension["since"] = since
	}
	body := map[string]any{"extensions": map[string]any{"org.matrix.msc4354.sticky_events": extension},
		"lists": map[string]any{"a": map[string]any{"ranges": [][]int{{0, 9}}, "timeline_limit": 5, "required_state": [][]string{}}}}
	path := "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"
	if pos != "" {
		path += "&pos=" + url.QueryEscape(pos)
	}
	news := w.call(c, http.MethodPost, path, body)
	part := news.Get(`extensions.org\.matrix\.msc4354\.sticky_events`)
	return look{byID(news.Get("rooms." + escape(room) + ".timeline")), byID(part.Get("rooms." + escape(room) + ".events")), news.Get("pos").Str}, part.Get("next_batch").Str
}

// TestSticky finds sticky events in either kind of sync: in the timeline, or beside it, never twice.
func TestSticky(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		room := w.room(alice)
		if !w.call(alice, http.MethodGet, "/_matrix/client/versions", nil).Get(`unstable_features.org\.matrix\.msc4354`).Bool() {
			t.Error("the feature is not named")
		}
		for _, bad := range []string{"-1", "3600001", "x"} {
			w.refused(400, "M_INVALID_PARAM", alice, http.MethodPut, lab.V3("rooms", room, "send", "x", "bad")+"?org.matrix.msc4354.sticky_duration_ms="+bad, map[string]any{})
		}
		first := w.sync(alice, room, "", "")
		one := w.stick(alice, room, "one")
		seen := w.sync(alice, room, first.next, "")
		e := seen.timeline[one]
		if e.Get("msc4354_sticky.duration_ms").Int() != 600_000 || len(seen.sticky) != 0 {
			t.Errorf("in the timeline: %s; beside it: %v", e, seen.sticky)
		}
		if left := e.Get("unsigned.msc4354_sticky_duration_ttl_ms").Int(); left <= 0 || left > 600_000 {
			t.Errorf("it stays for %d ms", left)
		}
		if again := w.sync(alice, room, seen.next, ""); len(again.timeline)+len(again.sticky) != 0 {
			t.Errorf("told again: %v %v", again.timeline, again.sticky)
		}
		// What the filter keeps out of the timeline is beside it.
		if kept := w.sync(alice, room, first.next, "&filter="+url.QueryEscape(`{"room":{"timeline":{"types":["m.room.message"]}}}`)); kept.sticky[one].Raw == "" {
			t.Errorf("filtered: %v", kept)
		}

		w.bury(alice, room)
		two := w.stick(alice, room, "two")
		w.bury(alice, room)
		late := w.sync(alice, room, seen.next, "")
		if late.sticky[two].Raw == "" || late.sticky[one].Raw != "" || late.timeline[two].Raw != "" {
			t.Errorf("after a gap: %v", late.sticky)
		}
		if begin := w.sync(alice, room, "", ""); len(begin.sticky) != 2 {
			t.Errorf("at the beginning: %v", begin.sticky)
		}

		// Whoever comes into the room gets all, whatever its history's visibility.
		_, err := alice.SetState(w.ctx, room, "m.room.history_visibility", "", map[string]string{"history_visibility": "joined"})
		w.must(err)
		three := w.stick(alice, room, "three")
		before := w.sync(bob, room, "", "")
		pos, token := w.slide(bob, room, "", "", 100)
		if token != "" || len(pos.sticky) != 0 {
			t.Errorf("outside: %v", pos)
		}
		_, err = bob.Join(w.ctx, room)
		w.must(err)
		came := w.sync(bob, room, before.next, "")
		if len(came.sticky) != 3 || came.sticky[three].Raw == "" || came.timeline[three].Raw != "" {
			t.Errorf("who came sees %v and %v", came.sticky, came.timeline)
		}
		slid, token := w.slide(bob, room, pos.next, token, 100)
		if len(slid.sticky) != 3 || token == "" {
			t.Errorf("sliding, who came sees %v", slid.sticky)
		}
		if again, more := w.slide(bob, room, slid.next, token, 100); len(again.sticky) != 0 || more != "" {
			t.Errorf("sliding, told again: %v", again.sticky)
		}

		// A few at a time.
		got := map[string]bool{}
		for begin, since, at := true, "", ""; begin || since != ""; begin = false {
			var page look
			page, since = w.slide(alice, room, at, since, 1)
			at = page.next
			for id := range page.sticky {
				got[id] = true
			}
			for id := range page.timeline {
				got[id] = true
			}
		}
		if !got[one] || !got[two] || !got[three] {
			t.Errorf("by pages: %v", got)
		}

		// Redacted, an event is as others are.
		w.call(alice, http.MethodPut, lab.V3("rooms", room, "redact", one, "r"), map[string]any{})
		if begin := w.sync(alice, room, "", ""); len(begin.sticky) != 1 || begin.sticky[one].Raw != "" {
			t.Errorf("after the redaction: %v", begin.sticky)
		}
		// Those of ignored users are not told.
		w.call(bob, http.MethodPut, lab.V3("user", bob.UserID, "account_data", "m.ignored_user_list"), map[string]any{"ignored_users": map[string]any{alice.UserID: map[string]any{}}})
		if begin := w.sync(bob, room, "", ""); len(begin.sticky) != 0 {
			t.Errorf("of an ignored user: %v", begin.sticky)
		}
		if begin, _ := w.slide(bob, room, "", "", 100); len(begin.sticky) != 0 {
			t.Errorf("sliding, of an ignored user: %v", begin.sticky)
		}

		// A restart forgets none.
		w.must(w.n.Stop())
		w.start()
		if begin := w.sync(alice, room, "", ""); begin.sticky[two].Raw == "" {
			t.Errorf("after a restart: %v", begin.sticky)
		}
	})
}

// TestStickyPages tells many sticky events over several answers, each once or twice, none of them never; and all at once to
// who comes into the room.
func TestStickyPages(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		alice, bob, carol := w.n.MustRegister("alice"), w.n.MustRegister("bob"), w.n.MustRegister("carol")
		room := w.room(alice)
		_, err := bob.Join(w.ctx, room)
		w.must(err)
		since, before := w.sync(bob, room, "", "").next, w.sync(carol, room, "", "").next
		all := map[string]bool{}
		for i := range 250 {
			all[w.stick(alice, room, fmt.Sprint(i))] = true
		}
		w.bury(alice, room)
		_, err = carol.Join(w.ctx, room)
		w.must(err)
		if came := w.sync(carol, room, before, ""); len(came.sticky) != 250 {
			t.Errorf("who came is told of %d", len(came.sticky))
		}
		for _, begin := range []string{since, ""} {
			seen := map[string]bool{}
			for at, first := begin, true; first || at != ""; first = false {
				l := w.sync(bob, room, at, "")
				if len(l.sticky) > 200 {
					t.Errorf("%d at once", len(l.sticky))
				}
				for id := range l.sticky {
					seen[id] = true
				}
				if at = l.next; len(l.sticky) == 0 {
					break
				}
			}
			if len(seen) != len(all) {
				t.Errorf("from %q: %d of %d", begin, len(seen), len(all))
			}
		}
	})
}

// TestDelayedSticky delays a sticky event, and refreshes sticky state that does not change.
func TestDelayedSticky(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		alice := w.n.MustRegister("alice")
		room := w.room(alice)
		id := w.call(alice, http.MethodPut, lab.V3("rooms", room, "send", "x", "1")+"?org.matrix.msc4354.sticky_duration_ms=60000&org.matrix.msc4140.delay=3600000",
			map[string]any{}).Get("delay_id").Str
		w.call(alice, http.MethodPost, stable+"/"+id+"/send", nil)
		if e := w.until(alice, room, "x"); e.Get("msc4354_sticky.duration_ms").Int() != 60_000 {
			t.Errorf("it became %s", e)
		}
		put := func() string {
			return w.call(alice, http.MethodPut, lab.V3("rooms", room, "state", "x", "k")+"?org.matrix.msc4354.sticky_duration_ms=60000", map[string]any{"a": 1}).Get("event_id").Str
		}
		if first, second := put(), put(); first == second {
			t.Error("the state is sticky for no longer than before")
		}
	})
}

// TestStickyElsewhere has servers that come into a room get what is sticky there, from the servers whose users sent it,
// also when those were stopped meanwhile; and servers that were away for long.
func TestStickyElsewhere(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		b, c := w.s.Start("b.test", "registration.mode=open"), w.s.Start("c.test", "registration.mode=open", "logging.level=debug", "logging.levels={http: warn}")
		alice, bob, carol := w.n.MustRegister("alice"), b.MustRegister("bob"), c.MustRegister("carol")
		room := w.room(alice)
		_, err := bob.Join(w.ctx, room, "a.test")
		w.must(err)
		ours := w.stick(alice, room, "ours")
		w.until(bob, room, "x.sticky")
		theirs := w.stick(bob, room, "theirs")
		w.must(alice.Until(w.ctx, func(v *lab.View) error {
			for _, e := range v.Room(room).Timeline {
				if e.ID == theirs {
					return nil
				}
			}
			return fmt.Errorf("theirs is not there")
		}))
		w.bury(alice, room)

		_, err = carol.Join(w.ctx, room, "a.test")
		w.must(err)
		w.untilSticky(carol, room, ours)
		w.untilSticky(carol, room, theirs)

		// A server that was away gets the newest events alone, and what is sticky.
		w.must(c.Stop())
		missed := w.stick(alice, room, "missed")
		for range 21 { // more than other servers are sent after an outage
			w.bury(alice, room)
		}
		w.must(c.Start())
		w.untilSticky(carol, room, missed)
	})
}

// TestStickyRefused has a sticky event that was refused told when its sender is back in the room.
func TestStickyRefused(t *testing.T) {
	each(t, func(w *world) {
		w.start()
		b := w.s.Start("b.test", "registration.mode=open")
		alice, bob := w.n.MustRegister("alice"), b.MustRegister("bob")
		room := w.room(alice)
		_, err := bob.Join(w.ctx, room, "a.test")
		w.must(err)
		w.until(bob, room, "m.room.member")
		w.s.Cut("a.test", "b.test")
		w.must(alice.Act(w.ctx, room, "ban", map[string]any{"user_id": bob.UserID}))
		refused := w.stick(bob, room, "refused")
		w.s.Heal("a.test", "b.test")
		w.must(bob.Until(w.ctx, func(v *lab.View) error {
			if me := v.Room(room).State[lab.Key{Type: "m.room.member", StateKey: bob.UserID}]; me.Text("membership") != "ban" && me.ID != "" {
				return fmt.Errorf("bob is not banned yet")
			}
			return nil
		}))
		w.untilHere(refused)
		if l := w.sync(alice, room, "", ""); l.sticky[refused].Raw != "" || l.timeline[refused].Raw != "" {
			t.Error("what a banned user sent is told")
		}
		w.must(alice.Act(w.ctx, room, "unban", map[string]any{"user_id": bob.UserID}))
		for {
			if _, err = bob.Join(w.ctx, room, "a.test"); err == nil || w.ctx.Err() != nil {
				break // b may hear of the end of the ban later
			}
		}
		w.must(err)
		w.untilSticky(alice, room, refused)
	})
}

// untilHere waits until the database of a server has an event.
func (w *world) untilHere(id string) {
	w.t.Helper()
	db, err := sqldb.Open(w.ctx, sqldb.Options{URL: w.n.DatabaseURL})
	w.must(err)
	defer db.Close()
	st := store.New(store.Options{DB: db})
	for found := false; !found; {
		w.must(w.ctx.Err())
		w.must(db.Read(w.ctx, func(tx *sqldb.Tx) error {
			_, err := st.EventByID(tx, id)
			if found = err == nil; errors.Is(err, store.ErrNotFound) {
				return nil
			}
			return err
		}))
	}
}

// untilSticky syncs from the beginning until a user is told of a sticky event.
func (w *world) untilSticky(c *lab.Client, room, id string) {
	w.t.Helper()
	for {
		l := w.sync(c, room, "", "")
		if l.sticky[id].Raw != "" || l.timeline[id].Raw != "" {
			return
		}
		if w.ctx.Err() != nil {
			w.t.Fatalf("%s is not there: %v", id, l.sticky)
		}
	}
}
