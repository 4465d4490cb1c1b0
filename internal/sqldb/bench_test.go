package sqldb_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"knock/internal/sqldb"
	"knock/test/cpu"
)

var (
	insertPlay  = sqldb.RegisterInsert("test.play", "INSERT INTO play (id, pos, name, data) VALUES", 4, "ON CONFLICT DO NOTHING")
	insertChild = sqldb.RegisterInsert("test.child", "INSERT INTO child (id, n, data) VALUES", 3, "")
	addPlay     = sqldb.Register("test.addPlay", "INSERT INTO play (id, pos, name) VALUES ($1, $2, $3)")
	playByID    = sqldb.Register("test.playByID", "SELECT pos, name, data FROM play WHERE id = $1")
	playIDs     = sqldb.Register("test.playIDs", "SELECT id, pos, name FROM play ORDER BY id")
	playByIDs   = sqldb.Register("test.playByIDs", "SELECT id FROM play WHERE id = ANY($1::bigint[]) ORDER BY id")
	playByNames = sqldb.Register("test.playByNames", "SELECT id FROM play WHERE name = ANY($1::bytea[]) ORDER BY id")
	setPlay     = sqldb.Register("test.setPlay", "UPDATE play SET pos = $2 WHERE id = $1")
)

// openBench opens a database with full durability, unlike tests.
func openBench(b *testing.B, d sqldb.Dialect) *sqldb.DB {
	b.Helper()
	db := openWith(b, d, func(url string) string { return strings.TrimSuffix(url, "?sync=off") })
	db.Start(b.Context())
	return db
}

func benchEach(b *testing.B, fn func(b *testing.B, db *sqldb.DB)) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		b.Run(d.String(), func(b *testing.B) { fn(b, openBench(b, d)) })
	}
}

// message is an operation like the sending of a message: six rows of about 1 kB together.
func message(id int64, data []byte) *sqldb.Op {
	return &sqldb.Op{Name: "message", Positions: 1, Write: func(tx *sqldb.Tx, first int64) error {
		tx.Append(insertPlay, id, first, nil, data[:700])
		for n := range int64(5) {
			tx.Append(insertChild, id, n, data[:50])
		}
		return nil
	}}
}

func runMessages(b *testing.B, db *sqldb.DB, senders int) {
	data := bytes.Repeat([]byte("x"), 1000)
	var id, left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	defer cpu.Meter(b)()
	for range senders {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := db.Do(context.Background(), message(id.Add(1), data)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkOne(b *testing.B) {
	benchEach(b, func(b *testing.B, db *sqldb.DB) { runMessages(b, db, 1) })
}

func BenchmarkSixteen(b *testing.B) {
	benchEach(b, func(b *testing.B, db *sqldb.DB) { runMessages(b, db, 16) })
}

func BenchmarkRead(b *testing.B) {
	benchEach(b, func(b *testing.B, db *sqldb.DB) {
		data := make([]byte, 1000)
		for id := range int64(1000) {
			if err := db.Do(context.Background(), message(id, data)); err != nil {
				b.Fatal(err)
			}
		}
		var i int64
		for b.Loop() {
			i++
			err := db.Read(b.Context(), func(tx *sqldb.Tx) error {
				var pos int64
				var name, data []byte
				return tx.QueryRow(playByID, i%1000).Scan(&pos, &name, &data)
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkExec is the cost of one statement within a transaction.
func BenchmarkExec(b *testing.B) {
	benchEach(b, func(b *testing.B, db *sqldb.DB) {
		err := db.Do(b.Context(), &sqldb.Op{Name: "exec", Write: func(tx *sqldb.Tx, _ int64) error {
			for i := 0; b.Loop(); i++ {
				if _, err := tx.Exec(setPlay, i, i); err != nil {
					return err
				}
			}
			return nil
		}})
		if err != nil {
			b.Fatal(err)
		}
	})
}
