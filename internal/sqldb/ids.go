package sqldb

import (
	"context"
	"errors"
	"sync"
	"time"
)

var reserveIDs = Register("sqldb.reserveIDs", "UPDATE counters SET value = value + $1 WHERE name = $2 RETURNING value")

// idBlock is the number of ids reserved at once; a restart leaves the rest of a block unused.
const idBlock = 10_000

// ids hands out numbers from a reserved block.
type ids struct {
	mu        sync.Mutex
	next, end int64
}

// NextID is a number that no row has yet, greater than 0. It is safe for concurrent use and blocks briefly once in
// 10,000 calls. Never call it from Check or Write, nor before Start. After Close it is 0.
func (db *DB) NextID() int64 { return db.NextIDs(1) }

// NextIDs reserves n consecutive numbers and returns the first.
func (db *DB) NextIDs(n int) (first int64) {
	db.ids.mu.Lock()
	defer db.ids.mu.Unlock()
	for int64(n) > db.ids.end-db.ids.next {
		err := db.reserve(int64(max(n, idBlock)))
		if errors.Is(err, ErrClosed) {
			return 0
		}
		if err != nil {
			db.log.WithError(err).Error("Could not reserve ids; trying again")
			time.Sleep(time.Second)
		}
	}
	first = db.ids.next
	db.ids.next += int64(n)
	return first
}

// reserve replaces the block by a new one of n numbers.
func (db *DB) reserve(n int64) error {
	var last int64
	err := db.Do(context.Background(), &Op{Name: "sqldb.reserveIDs", Write: func(tx *Tx, _ int64) error {
		return tx.QueryRow(reserveIDs, n, "id").Scan(&last)
	}})
	if err != nil {
		return err
	}
	db.ids.next, db.ids.end = last-n+1, last+1
	return nil
}
