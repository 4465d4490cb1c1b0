package pushrules

import (
	"math/rand/v2"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// warm reports for how many users the newest counts are known without a statement.
func (w *world) warm() (n int) {
	at := w.events[len(w.events)-1].pos
	for _, u := range w.users {
		for _, r := range w.rooms {
			if _, ok := w.s.tallies.count(u, r.NID, at, w.ignore[u], joinNames(w.ignore[u])); ok {
				n++
			}
		}
	}
	return n
}

// TestWarmCountsAreCounted has rooms with more events than are kept, receipts in
// the middle of them, and users who come back after that: the counts from memory
// must be those of the database, and come from memory.
func TestWarmCountsAreCounted(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := &world{t: t, s: newService(t, db, nil), db: db, rng: rand.New(rand.NewPCG(7, 8)),
			rooms: []RoomKey{{"!a:x", 7}}, reads: map[string]int64{}, users: []string{"@alice:x", "@bob:x"}}
		w.join()
		w.send()
		w.settle()
		w.compare()
		for range 12 {
			for range 50 {
				w.send()
			}
			w.settle()
			if got := w.warm(); got != 2 {
				t.Fatalf("%d of 2 users' counts are in memory", got)
			}
			w.compare()
			w.receipt()
			w.compare()
		}
		for range 2 * logLength {
			w.send()
		}
		w.settle()
		w.compare()
		if got := w.warm(); got != 2 {
			t.Fatalf("%d of 2 users' counts are in memory again", got)
		}
	})
}

// TestPurgedRoomIsForgotten counts from nothing in a room whose counts were deleted.
func TestPurgedRoomIsForgotten(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := &world{t: t, s: newService(t, db, nil), db: db, rng: rand.New(rand.NewPCG(9, 10)),
			rooms: []RoomKey{{"!a:x", 7}}, reads: map[string]int64{}, users: []string{"@alice:x", "@bob:x"}}
		w.join()
		for range 20 {
			w.send()
		}
		w.settle()
		w.compare()
		must(t, db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error { return w.s.DeleteRoom(tx, 7) }}))
		w.events = []past{{o: w.event(), pos: w.events[len(w.events)-1].pos}}
		w.events[0].o.Sender = "@alice:x"
		w.moveRead("@bob:x", w.events[0].o.RoomNID, Unthreaded, w.events[0].pos)
		w.compare()
	})
}

// everybody is joined everywhere.
type everybody []string

func (e everybody) Joined(*sqldb.Tx, int64) ([]string, error) { return e, nil }

// TestPruneKeepsCounts deletes totals while users read, and compares the counts
// of a service that has nothing in memory.
func TestPruneKeepsCounts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := &world{t: t, s: newService(t, db, nil), db: db, rng: rand.New(rand.NewPCG(11, 12)),
			rooms: []RoomKey{{"!a:x", 7}, {"!b:x", 8}}, reads: map[string]int64{}, users: []string{"@alice:x", "@bob:x", "@carol:x"}}
		w.join()
		rows := func() (n int) {
			must(t, db.Read(t.Context(), func(tx *sqldb.Tx) error {
				list, err := sqldb.Collect(tx, pruneEnd, scanInt, int64(7), int64(1<<60), 1<<20, 0)
				n = len(list)
				return err
			}))
			return n
		}
		prune := func(here everybody) {
			next, err := w.s.pruneSome(t.Context(), here, 0)
			must(t, err)
			if next != 8 {
				t.Fatalf("it goes on after room %d", next)
			}
		}
		for range 8 {
			for range 40 {
				w.send()
			}
			w.settle()
			for range 5 {
				w.receipt()
			}
			prune(w.users)
			w.s = newService(t, db, nil)
			w.compareNewest()
		}
		// Who has left needs nothing.
		before := rows()
		newest := w.events[len(w.events)-1]
		must(t, db.Do(t.Context(), &sqldb.Op{Name: "test", Positions: 1, Write: func(tx *sqldb.Tx, _ int64) error {
			w.s.MarkRead(tx, "@bob:x", 7, Unthreaded, newest.pos)
			return nil
		}}))
		w.moveRead("@bob:x", 7, Unthreaded, newest.pos)
		prune(everybody{"@bob:x"})
		if after := rows(); after >= before || after == 0 {
			t.Errorf("%d rows before, %d after", before, after)
		}
		w.users = []string{"@bob:x"}
		w.s = newService(t, db, nil)
		w.compareNewest()
	})
}
