package sqldb_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// TestCrash kills a process that writes, a few times on each engine: everything acknowledged is there, and positions
// and ids go on above those given before.
func TestCrash(t *testing.T) {
	if url := sqldbtest.CrashURL(); url != "" {
		crashChild(t, url)
		return
	}
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			url := strings.TrimSuffix(sqldbtest.EmptyURL(t, d), "?sync=off")
			all := make(map[int64]int64)
			var highest int64
			for range 4 {
				acked := sqldbtest.Crash(t, url, 200)
				for _, a := range acked {
					if _, twice := all[a.N]; twice || a.Pos <= highest {
						t.Fatalf("id %d (twice: %v) at position %d after %d", a.N, twice, a.Pos, highest)
					}
					all[a.N] = a.Pos
				}
				highest = checkAcked(t, url, all)
			}
		})
	}
}

// checkAcked looks for everything acknowledged and returns the highest position.
func checkAcked(t *testing.T, url string, all map[int64]int64) int64 {
	db := openURL(t, url)
	defer db.Close()
	found := make(map[int64]int64)
	for _, p := range plays(t, db) {
		found[p.ID] = p.Pos
	}
	for id, pos := range all {
		if found[id] != pos {
			t.Errorf("id %d was acknowledged at position %d and is at %d", id, pos, found[id])
		}
	}
	pos, err := db.Position(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id, p := range found {
		if p > pos {
			t.Errorf("id %d is at %d, above the position %d", id, p, pos)
		}
	}
	return pos
}

// crashChild writes from several goroutines until it is killed.
func crashChild(t *testing.T, url string) {
	db := openURL(t, url)
	db.Start(t.Context())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				id := db.NextID()
				var pos int64
				op := message(id, make([]byte, 1000))
				op.Committed = func(first int64) { pos = first }
				if err := db.Do(context.Background(), op); err != nil {
					t.Error(err)
					return
				}
				sqldbtest.Ack(id, pos)
			}
		})
	}
	wg.Wait()
}

var (
	cutOthers = sqldb.RegisterFor(sqldb.Postgres, "test.cutOthers", "SELECT count(pg_terminate_backend(pid)) "+
		"FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
)

// TestConnectionLost cuts PostgreSQL connections at different moments: idle ones are replaced without an error, a
// transaction under way is run again, and nothing is written twice.
func TestConnectionLost(t *testing.T) {
	url := sqldbtest.EmptyURL(t, sqldb.Postgres)
	db, other := openURL(t, url), openURL(t, url)
	db.Start(t.Context())
	if err := db.Do(t.Context(), &sqldb.Op{Name: "first", Positions: 1, Write: insert(1)}); err != nil {
		t.Fatal(err)
	}
	plays(t, db) // opens a reader
	cut := func() {
		if err := other.Read(t.Context(), func(tx *sqldb.Tx) error { return tx.QueryRow(cutOthers).Scan(new(int64)) }); err != nil {
			t.Fatal(err)
		}
	}
	cut()
	if n := len(plays(t, db)); n != 1 {
		t.Error(n)
	}
	if err := db.Do(t.Context(), &sqldb.Op{Name: "idle", Positions: 1, Write: insert(2)}); err != nil {
		t.Error("after an idle connection was cut:", err)
	}
	cut()
	err := db.Do(t.Context(), &sqldb.Op{Name: "append", Write: func(tx *sqldb.Tx, _ int64) error {
		tx.Append(insertPlay, 3, 3, nil, nil)
		return nil
	}})
	if err != nil {
		t.Error("after an idle connection was cut:", err)
	}
	runs := 0
	for _, id := range []int64{4, 5} {
		err = db.Do(t.Context(), &sqldb.Op{Name: "cut", Positions: 1, Write: func(tx *sqldb.Tx, first int64) error {
			if err := insert(id)(tx, first); err != nil {
				return err
			}
			if runs++; runs%2 == 1 {
				cut()
			}
			return nil
		}})
		if err != nil {
			t.Error("a transaction that was cut:", err)
		}
	}
	if n := len(plays(t, db)); n != 5 || runs != 4 {
		t.Errorf("%d rows after %d runs", n, runs)
	}
}
