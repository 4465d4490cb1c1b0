package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// from has a server send events of a room.
func (r *gapRig) from(server string, events ...*event.Event) {
	r.t.Helper()
	results, err := r.s.Receive(r.t.Context(), server, rawsOf(events))
	for _, e := range events {
		if err != nil || results[e.EventID()] != "" {
			r.t.Fatalf("%v: %q", err, results[e.EventID()])
		}
	}
}

func (r *gapRig) drainOnce() {
	r.t.Helper()
	if _, err := r.s.drainOnce(r.t.Context(), r.key); err != nil {
		r.t.Fatal(err)
	}
}

// TestAFloodDelaysItself has one server fill a room's queue, and another one send an event behind that: it is placed in
// the first batch.
func TestAFloodDelaysItself(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		r.s.Inbound.RoomWaits = 1000
		flood := []*event.Event{r.say(nil, "lost")}
		for i := range 2 * drainBatch {
			flood = append(flood, r.say(flood[i], fmt.Sprint(i)))
		}
		for part := range slices.Chunk(flood[1:], 50) {
			r.from("b.example", part...)
		}
		honest := r.say(nil, "honest")
		r.from("c.example", honest)
		r.far.history = flood
		r.drainOnce()
		if !r.placed(honest) {
			t.Errorf("the event of another server waits; %d are queued", r.queued())
		}
		if waits := r.queued(); waits != drainBatch+1 {
			t.Errorf("%d wait after a batch", waits)
		}
		r.s.drainRoom(t.Context(), r.key)
		if last := flood[len(flood)-1]; !r.placed(last) || r.queued() != 0 {
			t.Errorf("%d wait in the end", r.queued())
		}
	})
}

func TestTakeTurns(t *testing.T) {
	line := func(origins string) (rows []store.Inbound) {
		for i, o := range origins {
			rows = append(rows, store.Inbound{Seq: int64(i + 1), Origin: string(o)})
		}
		return rows
	}
	for _, c := range []struct {
		line string
		n    int
		want []int64
	}{
		{"", 5, nil}, {"aaaa", 3, []int64{1, 2, 3}}, {"aaaabb", 4, []int64{1, 5, 2, 6}}, {"aabc", 9, []int64{1, 3, 4, 2}}, {"abc", 2, []int64{1, 2}},
	} {
		if got := takeTurns(line(c.line), c.n); !slices.Equal(got, c.want) {
			t.Errorf("%d of %q: %v, want %v", c.n, c.line, got, c.want)
		}
	}
}

// mute is a server that does not answer what one of its events needs.
type mute struct{ *far }

func (m mute) MissingEvents(ctx context.Context, server, room string, earliest, latest []string, limit int, depth int64) ([]json.RawMessage, error) {
	if server == "mute.example" {
		m.note("mute", latest[0])
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m.far.MissingEvents(ctx, server, room, earliest, latest, limit, depth)
}

// TestASilentServerDelaysItself has a server send events and not answer what they need: each costs it a try in the end,
// and after each the others have their turn.
func TestASilentServerDelaysItself(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		r.s.Inbound.Turn, r.s.Inbound.Place = time.Nanosecond, 50*time.Millisecond
		r.s.Remote = mute{r.far}
		lost := r.say(nil, "lost")
		r.from("mute.example", r.say(lost, "1"), r.say(lost, "2"), r.say(lost, "3"))
		honest := r.say(nil, "honest")
		r.from("c.example", honest)
		r.drainOnce()
		if !r.placed(honest) || r.queued() != 3 || r.far.count("mute") != 1 {
			t.Fatalf("honest: %v; %d wait; the silent server was asked %d times", r.placed(honest), r.queued(), r.far.count("mute"))
		}
		for range 3 {
			r.s.drainRoom(t.Context(), r.key)
			r.s.retryInbound()
		}
		if aside := asideOf(t, r); r.queued() != 0 || len(aside) != 3 {
			t.Errorf("%d wait, %d are left aside", r.queued(), len(aside))
		}
	})
}

// TestBusyIsNoFault has an event come while answers of other servers take all the memory for them.
func TestBusyIsNoFault(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		bob := farBob
		renamed := r.next(nil, "m.room.member", &bob, `{"membership":"join","displayname":"B"}`, r.auths(true, r.base.state.Lookup("m.room.member", bob))...)
		e := r.say(nil, "cites it", r.auths(false, renamed)...)
		r.far.chains[e.EventID()] = []*event.Event{renamed}
		r.s.held.Add(maxHeldBytes)
		r.from("b.example", e)
		for range maxTries {
			r.s.drainRoom(t.Context(), r.key)
			r.s.retryInbound()
		}
		if r.queued() != 1 || r.placed(e) {
			t.Fatalf("%d wait, placed %v, left aside: %v", r.queued(), r.placed(e), asideOf(t, r))
		}
		r.s.held.Add(-maxHeldBytes)
		r.s.drainRoom(t.Context(), r.key)
		if !r.placed(e) || r.queued() != 0 {
			t.Errorf("%d wait, placed %v", r.queued(), r.placed(e))
		}
	})
}

// maxTries is more often than an event may fail.
const maxTries = 5
