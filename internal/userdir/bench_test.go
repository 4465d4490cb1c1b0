package userdir

import (
	"fmt"
	"testing"

	"knock/internal/fold"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/store"
)

// BenchmarkSearch is a search among 100,000 users, of whom the searcher may find a few.
func BenchmarkSearch(b *testing.B) {
	for _, dialect := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		b.Run(dialect.String(), func(b *testing.B) {
			db := sqldbtest.Open(b, dialect)
			hub := stream.New(0)
			db.OnPublish(hub.Advance)
			s := roomserver.New(roomserver.Options{ServerName: "hs", Store: store.New(store.Options{DB: db}), Hub: hub, Signer: signer("hs")})
			d := New(Options{Rooms: s})
			if _, err := s.Create(b.Context(), roomserver.CreateRequest{Creator: "@alice:hs"}); err != nil {
				b.Fatal(err)
			}
			var rows [][]any
			for i := range 100_000 {
				id, name := fmt.Sprintf("@user%d:server%d.example", i, i%100), fmt.Sprintf("Person %x 山田", i*2654435761%1_000_003)
				rows = append(rows, []any{1<<40 + i, []byte(id), []byte(name), []byte("mxc://a/b"), []byte(fold.Text(id) + "\n" + fold.Text(name)), 1})
			}
			if err := db.Do(b.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error { return tx.Insert(putUser, rows...) }}); err != nil {
				b.Fatal(err)
			}
			for _, term := range []string{"nobody at all", "person abc", "山"} {
				b.Run(term, func(b *testing.B) {
					for b.Loop() {
						if _, _, err := d.Search(b.Context(), "@alice:hs", term, 10); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
