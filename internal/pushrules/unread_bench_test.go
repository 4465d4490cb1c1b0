package pushrules

import (
	"context"
	"fmt"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// BenchmarkUnread counts for one user in 1,000 rooms, of which 100 have unread
// messages and mentions, after 100 messages in each.
func BenchmarkUnread(b *testing.B) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		b.Run(d.String(), func(b *testing.B) {
			db := sqldbtest.Open(b, d)
			s := newService(b, db, nil)
			var rooms []RoomKey
			var at int64
			for i := range 1000 {
				rooms = append(rooms, RoomKey{fmt.Sprintf("!r%d:x", i), int64(i + 1)})
			}
			for i := range 1000 {
				op := &sqldb.Op{Name: "bench", Positions: 100, Write: func(tx *sqldb.Tx, pos int64) error {
					e := counted{room: int64(i + 1), thread: Main, class: classMessage}
					for n := range int64(100) {
						s.tallies.batch(tx).event(tx, &e, pos+n)
					}
					read := pos + 99
					if i%10 == 0 {
						read = pos + 10
						tx.Append(insertEvent, "@a:x", int64(i+1), pos+50, Main, int64(classMessage), int64(3))
					}
					for u := range 20 {
						s.tallies.batch(tx).read(fmt.Sprintf("@%c:x", 'a'+u), int64(i+1), Unthreaded, read)
					}
					at = pos + 99
					return nil
				}}
				must(b, db.Do(b.Context(), op))
			}
			for b.Loop() {
				must(b, db.Read(b.Context(), func(tx *sqldb.Tx) error {
					got, err := s.Unread(tx, "@a:x", rooms, at)
					if len(got) != 100 || got["!r0:x"].Main != (Count{89, 1}) {
						b.Fatal(len(got), got["!r0:x"])
					}
					return err
				}))
			}
		})
	}
}

// BenchmarkWrite is the database's part of a message, in batches of 16 messages
// of 16 senders in 16 rooms.
func BenchmarkWrite(b *testing.B) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		db := sqldbtest.Open(b, d)
		s := newService(b, db, nil)
		for _, with := range []bool{false, true} {
			b.Run(fmt.Sprint(d, "/counts=", with), func(b *testing.B) {
				for i := 0; i < b.N; i += 16 {
					var waits []func(context.Context) error
					for n := range 16 {
						e := counted{room: int64(n), thread: Main, class: classMessage, reader: fmt.Sprint("@u", n), readThread: Main}
						waits = append(waits, db.Enqueue(&sqldb.Op{Name: "bench", Positions: 1, Write: func(tx *sqldb.Tx, pos int64) error {
							if with {
								s.tallies.batch(tx).event(tx, &e, pos)
							}
							return nil
						}}))
					}
					for _, wait := range waits {
						must(b, wait(b.Context()))
					}
				}
			})
		}
	}
}
