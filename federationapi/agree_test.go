package federationapi_test

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"knock/federationapi/agree"
	"knock/internal/sqldb"
	"knock/roomserver"
)

var forgetBacklog = sqldb.Register("test.forgetBacklog", `UPDATE destinations SET sent_pos = $1`)

// drifted are two nodes of which b never gets the last words of a, for a believes that it has them.
func drifted(t *testing.T, w *world) (a, b *node, room string, lost []string) {
	t.Helper()
	a, b = w.add("a.test"), w.add("b.test")
	room = a.create(roomserver.CreateRequest{Preset: "public_chat"})
	a.say(room, a.user("alice"), "before bob came")
	must(t, b.join(room, b.user("bob"), a))
	b.sees(room, a.say(room, a.user("alice"), "before"))
	eventually(t, "a knows that it arrived", func() bool {
		r, ok, err := a.sender.Destination(t.Context(), "b.test")
		must(t, err)
		return ok && r.State == "idle" && r.LastSuccess > 0
	})
	b.down.Store(true)
	for _, text := range []string{"one", "two", "three"} {
		lost = append(lost, a.say(room, a.user("alice"), text))
	}
	a.stop()
	db, err := sqldb.Open(t.Context(), sqldb.Options{URL: a.url})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	db.Start(ctx)
	must(t, db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(forgetBacklog, int64(1_000_000_000))
		return err
	}}))
	must(t, db.Close())
	cancel()
	a.start()
	b.down.Store(false)
	return a, b, room, lost
}

func TestReconcile(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, room, lost := drifted(t, w)
		c, err := a.rooms.Compare(t.Context(), "b.test", room)
		must(t, err)
		if c.Same() || len(c.Missing) != 0 || len(c.Ours) != 1 || c.Ours[0] != lost[2] {
			t.Fatalf("a sees %+v", c)
		}
		if b.has(room, lost[0]) {
			t.Fatal("the test is wrong: b has what it was not sent")
		}
		c, err = b.rooms.Reconcile(t.Context(), "a.test", room)
		must(t, err)
		if len(c.Missing) != 1 || c.Missing[0] != lost[2] {
			t.Errorf("b misses %v", c.Missing)
		}
		for _, id := range lost {
			b.sees(room, id)
		}
		b.inOrder(room, lost)
		if c, err = b.rooms.Reconcile(t.Context(), "a.test", room); err != nil || !c.Same() {
			t.Errorf("%+v %v", c, err)
		}
	})
}

// TestGapsEndWhereTheyBegan has a server answer with all history, for it has not heard what we have: only what lies in the
// gap is taken, and what came before us does not come as new.
func TestGapsEndWhereTheyBegan(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, room, lost := drifted(t, w)
		door := *a.door.Load()
		var deaf http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/send/") {
				w.WriteHeader(http.StatusForbidden)
				_, _ = w.Write([]byte(`{"errcode":"M_FORBIDDEN","error":"Not now"}`))
				return
			}
			door.ServeHTTP(w, r)
		})
		a.door.Store(&deaf)
		b.say(room, b.user("bob"), "unheard")
		_, err := b.rooms.Reconcile(t.Context(), "a.test", room)
		must(t, err)
		b.sees(room, lost[2])
		b.inOrder(room, lost)
		a.door.Store(&door)
		a.sees(room, b.say(room, b.user("bob"), "five"))
		if c, err := a.rooms.Compare(t.Context(), "b.test", room); err != nil || !c.Same() {
			t.Errorf("%+v %v", c, err)
		}
		events, _, err := b.rooms.Timeline(t.Context(), room, 0, b.hub.Published(), 1000)
		must(t, err)
		for _, e := range events {
			if e.Event.ContentString("body") == "before bob came" {
				t.Error("what was said before bob came counts as new")
			}
		}
	})
}

// TestReconcileByATemplate compares with a server that does not know the question: the template of a leave says the same,
// in the rooms of all versions, and nobody leaves.
func TestReconcileByATemplate(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		for _, version := range []string{"1", "11"} {
			a, b := w.add("a"+version+".test"), w.add("b"+version+".test")
			room := a.create(roomserver.CreateRequest{Version: version, Preset: "public_chat"})
			must(t, b.join(room, b.user("bob"), a))
			b.down.Store(true)
			said := a.say(room, a.user("alice"), "unheard")
			door := *a.door.Load()
			var templates atomic.Int64
			var older http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.Contains(r.URL.Path, "org.matrix.msc4370"):
					w.WriteHeader(http.StatusNotFound)
					_, _ = w.Write([]byte(`{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}`))
					return
				case strings.Contains(r.URL.Path, "/make_leave/"):
					templates.Add(1)
				}
				door.ServeHTTP(w, r)
			})
			a.door.Store(&older)
			c, err := b.rooms.Reconcile(t.Context(), a.name, room)
			must(t, err)
			if len(c.Missing) != 1 || c.Missing[0] != said || templates.Load() != 1 {
				t.Errorf("version %s: b misses %v; %d templates", version, c.Missing, templates.Load())
			}
			b.sees(room, said)
			if c, err = b.rooms.Reconcile(t.Context(), a.name, room); err != nil || !c.Same() {
				t.Errorf("version %s: %+v %v", version, c, err)
			}
			if got := a.is(room, b.user("bob")); got != "join" {
				t.Errorf("version %s: bob is %q where he did not leave", version, got)
			}
		}
	})
}

// TestTheRoundFindsWhatNobodySends has b look around while nothing is sent at all.
func TestTheRoundFindsWhatNobodySends(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		_, b, room, lost := drifted(t, w)
		k := agree.New(agree.Options{Rooms: b.rooms, Pace: time.Millisecond, Reachable: func(server string) bool { return server == "a.test" }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		for _, id := range lost {
			b.sees(room, id)
		}
		cancel()
		must(t, <-done)
	})
}

// TestReturnsAreCompared has b look when it hears that a is back.
func TestReturnsAreCompared(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		_, b, room, lost := drifted(t, w)
		k := agree.New(agree.Options{Rooms: b.rooms, Pace: time.Hour, Settle: time.Millisecond, Reachable: func(string) bool { return true }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		k.Back("nobody.test")
		k.Back("a.test")
		b.sees(room, lost[2])
		cancel()
		must(t, <-done)
	})
}

// TestExtremitiesAreForMembers answers those in the room only.
func TestExtremitiesAreForMembers(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		const base = "/_matrix/federation/unstable/org.matrix.msc4370/extremities/"
		for _, ask := range []struct {
			from *node
			room string
			code int
		}{{b, room, http.StatusOK}, {c, room, http.StatusForbidden}, {b, "!none:a.test", http.StatusNotFound}} {
			if code, answer := ask.from.call(a, "GET", base+ask.room, ""); code != ask.code {
				t.Errorf("%s asks about %s: %d %s", ask.from.name, ask.room, code, answer)
			}
		}
		ids, err := b.client.Extremities(t.Context(), "a.test", room, b.user("bob"))
		if err != nil || len(ids) == 0 {
			t.Errorf("%v %v", ids, err)
		}
	})
}
