package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/internal/sqldb"
)

var errRefused = errors.New("refused")

// blocked queues an operation that holds the writer until release is called, so that what is queued meanwhile makes one
// batch.
func blocked(t *testing.T, db *sqldb.DB) (release func()) {
	t.Helper()
	running, ready := make(chan struct{}), make(chan struct{})
	wait := db.Enqueue(&sqldb.Op{Name: "block", Write: func(*sqldb.Tx, int64) error {
		close(running)
		<-ready
		return nil
	}})
	<-running
	return func() {
		close(ready)
		if err := wait(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

// insert adds the row id.
func insert(id int64) func(*sqldb.Tx, int64) error {
	return func(tx *sqldb.Tx, first int64) error {
		_, err := tx.Exec(addPlay, id, first, fmt.Sprint("name", id))
		return err
	}
}

type playRow struct {
	ID, Pos int64
	Name    []byte
}

func plays(t *testing.T, db *sqldb.DB) (out []playRow) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
		out, err = sqldb.Collect(tx, playIDs, func(r *sqldb.Rows) (p playRow, err error) {
			return p, r.Scan(&p.ID, &p.Pos, &p.Name)
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func playNumbers(t *testing.T, db *sqldb.DB) (ids []int64) {
	t.Helper()
	for _, p := range plays(t, db) {
		ids = append(ids, p.ID)
	}
	return ids
}

// TestCulprit runs batches of five of which one goes wrong in some way: it alone gets the error, the others are written.
func TestCulprit(t *testing.T) {
	bad := map[string]*sqldb.Op{
		"check":        {Check: func(*sqldb.Tx) error { return errRefused }, Write: insert(3)},
		"write":        {Write: func(*sqldb.Tx, int64) error { return errRefused }},
		"wrote before": {Write: func(tx *sqldb.Tx, f int64) error { return errors.Join(insert(3)(tx, f), errRefused) }},
		"panic":        {Write: func(*sqldb.Tx, int64) error { panic("oops") }},
		"check panic":  {Check: func(*sqldb.Tx) error { panic("oops") }, Write: insert(3)},
		"statement":    {Write: insert(2)},
		"hidden": {Write: func(tx *sqldb.Tx, f int64) error {
			_ = insert(2)(tx, f)
			return nil
		}},
		"open rows": {Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Query(playIDs)
			return err
		}},
		"append": {Write: func(tx *sqldb.Tx, f int64) error {
			tx.Append(insertChild, 3, 1, nil)
			return nil
		}},
		"append columns": {Write: func(tx *sqldb.Tx, f int64) error {
			tx.Append(insertChild, 3)
			return nil
		}},
		"before commit": {Write: func(tx *sqldb.Tx, f int64) error {
			tx.BeforeCommit(func() error { return errRefused })
			return nil
		}},
		"before commit panic": {Write: func(tx *sqldb.Tx, f int64) error {
			tx.BeforeCommit(func() error { panic("oops") })
			return nil
		}},
	}
	each(t, func(t *testing.T, db *sqldb.DB) {
		for name, op := range bad {
			t.Run(name, func(t *testing.T) {
				runCulprit(t, db, op)
				clearPlay(t, db)
			})
		}
	})
}

var (
	deletePlay  = sqldb.Register("test.deletePlay", "DELETE FROM play")
	deleteChild = sqldb.Register("test.deleteChild", "DELETE FROM child")
)

func clearPlay(t *testing.T, db *sqldb.DB) {
	err := db.Do(t.Context(), &sqldb.Op{Name: "clear", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(deletePlay)
		_, err2 := tx.Exec(deleteChild)
		return errors.Join(err, err2)
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func runCulprit(t *testing.T, db *sqldb.DB, op *sqldb.Op) {
	op.Name = "culprit"
	var committed []int64
	op.Committed = func(int64) { committed = append(committed, 3) }
	release := blocked(t, db)
	var waits []func(context.Context) error
	for id := range int64(5) {
		if id == 3 {
			waits = append(waits, db.Enqueue(op))
			continue
		}
		waits = append(waits, db.Enqueue(&sqldb.Op{Name: "fine", Positions: 1, Write: insert(id),
			Committed: func(int64) { committed = append(committed, id) }}))
	}
	release()
	for i, wait := range waits {
		if err := wait(t.Context()); (err != nil) != (i == 3) {
			t.Errorf("operation %d: %v", i, err)
		}
	}
	want := []int64{0, 1, 2, 4}
	if got := playNumbers(t, db); !slices.Equal(got, want) {
		t.Errorf("rows %v, want %v", got, want)
	}
	if !slices.Equal(committed, want) {
		t.Errorf("callbacks %v, want %v", committed, want)
	}
}

// TestBatch looks at everything that happens around one batch, in order.
func TestBatch(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			db := open(t, d)
			var log []string
			note := func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
			db.OnPublish(func(pos int64) { note("publish %d", pos) })
			db.Start(t.Context())
			release := blocked(t, db)
			var waits []func(context.Context) error
			for i, positions := range []int{1, 0, 3, 2} {
				waits = append(waits, db.Enqueue(&sqldb.Op{
					Name: "op", Positions: positions,
					Check: func(tx *sqldb.Tx) error {
						note("check %d", i)
						return nil
					},
					Write: func(tx *sqldb.Tx, first int64) error {
						note("write %d at %d", i, first)
						list := tx.Scratch("k", func() any {
							l := &[]int{}
							tx.BeforeCommit(func() error { note("before commit %v", *l); return nil })
							return l
						}).(*[]int)
						*list = append(*list, i)
						tx.Append(insertChild, i, first, "x")
						tx.Append(insertPlay, i, first, nil, nil)
						return nil
					},
					Committed: func(first int64) { note("committed %d at %d", i, first) },
				}))
			}
			release()
			for _, wait := range waits {
				if err := wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			want := []string{
				"check 0", "check 1", "check 2", "check 3",
				"write 0 at 1", "write 1 at 0", "write 2 at 2", "write 3 at 5",
				"before commit [0 1 2 3]",
				"committed 0 at 1", "committed 1 at 0", "committed 2 at 2", "committed 3 at 5",
				"publish 6",
			}
			if diff := cmp.Diff(want, log); diff != "" {
				t.Error(diff)
			}
			if pos, err := db.Position(t.Context()); err != nil || pos != 6 {
				t.Error(pos, err)
			}
			if got := playNumbers(t, db); len(got) != 4 {
				t.Error(got)
			}
		})
	}
}

// TestPositions has many callers take positions at once: they are unique, without order lost between commit and publish.
func TestPositions(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			db := open(t, d)
			var published, seen []int64
			db.OnPublish(func(pos int64) { published = append(published, pos) })
			db.Start(t.Context())
			var wg sync.WaitGroup
			for c := range 8 {
				wg.Go(func() {
					for i := range 50 {
						err := db.Do(t.Context(), &sqldb.Op{Name: "p", Positions: 1 + i%3, Write: insert(int64(c*1000 + i)),
							Committed: func(first int64) { seen = append(seen, first) }})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if !slices.IsSorted(seen) || !slices.IsSorted(published) || len(slices.Compact(seen)) != 400 {
				t.Errorf("positions out of order: %v, %v", seen, published)
			}
			if pos, _ := db.Position(t.Context()); pos != published[len(published)-1] {
				t.Errorf("position %d, published %d", pos, published[len(published)-1])
			}
		})
	}
}

// TestClose queues operations and closes: all are written, later ones are refused.
func TestClose(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		release := blocked(t, db)
		var waits []func(context.Context) error
		for id := range int64(600) {
			waits = append(waits, db.Enqueue(&sqldb.Op{Name: "late", Write: insert(id)}))
		}
		go release()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for _, wait := range waits {
			if err := wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Do(t.Context(), &sqldb.Op{Name: "late"}); !errors.Is(err, sqldb.ErrClosed) {
			t.Error(err)
		}
		if id := db.NextID(); id != 0 {
			t.Error("an id after Close:", id)
		}
		if err := db.Read(t.Context(), func(*sqldb.Tx) error { return nil }); !errors.Is(err, sqldb.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestCloseWithoutStart(t *testing.T) {
	db := open(t, sqldb.SQLite)
	wait := db.Enqueue(&sqldb.Op{Name: "never"})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wait(t.Context()); !errors.Is(err, sqldb.ErrClosed) {
		t.Error(err)
	}
}

// TestWaitEnds gives up waiting; the operation is written all the same.
func TestWaitEnds(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		release := blocked(t, db)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Do(ctx, &sqldb.Op{Name: "left", Write: insert(1)}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		release()
		if err := db.Do(t.Context(), &sqldb.Op{Name: "next"}); err != nil {
			t.Error(err)
		}
		if got := playNumbers(t, db); len(got) != 1 {
			t.Error(got)
		}
	})
}

// TestIDs asks for ids from many goroutines: all are different, those of one call are consecutive.
func TestIDs(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var mu sync.Mutex
		seen := make(map[int64]bool)
		var wg sync.WaitGroup
		for c := range 4 {
			wg.Go(func() {
				for range 100 {
					n := 1 + c*97
					first := db.NextIDs(n)
					mu.Lock()
					for id := first; id < first+int64(n); id++ {
						if id <= 0 || seen[id] {
							t.Errorf("id %d twice", id)
						}
						seen[id] = true
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if first := db.NextIDs(25_000); seen[first] || seen[first+24_999] {
			t.Error("a large block overlaps")
		}
	})
}

// TestSlowChecks cuts a batch whose Checks take long; nothing is lost and the order is kept.
func TestSlowChecks(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		release := blocked(t, db)
		var order []int64
		var waits []func(context.Context) error
		for id := range int64(6) {
			waits = append(waits, db.Enqueue(&sqldb.Op{Name: "slow", Positions: 1, Write: insert(id),
				Check:     func(*sqldb.Tx) error { time.Sleep(15 * time.Millisecond); return nil },
				Committed: func(int64) { order = append(order, id) }}))
		}
		release()
		for _, wait := range waits {
			if err := wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(order, []int64{0, 1, 2, 3, 4, 5}) {
			t.Error(order)
		}
	})
}
