package relations

import (
	"fmt"
	"sync"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
	"knock/roomserver/store"
)

func benchEach(b *testing.B, fn func(b *testing.B, w *world)) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		b.Run(d.String(), func(b *testing.B) { fn(b, newWorld(b, sqldbtest.Open(b, d))) })
	}
}

// fill sends n replies to each of the roots.
func (w *world) fill(room string, roots []string, n int) {
	var wg sync.WaitGroup
	next := make(chan string)
	for range 32 {
		wg.Go(func() {
			for root := range next {
				w.send(room, "@alice:hs", "m.room.message", relates(Thread, root, `,"body":"x"`), 0)
			}
		})
	}
	for range n {
		for _, root := range roots {
			next <- root
		}
	}
	close(next)
	wg.Wait()
}

func (w *world) roots(room string, n int) (ids []string, events []*store.Stored) {
	for i := range n {
		ids = append(ids, w.send(room, "@alice:hs", "m.room.message", fmt.Sprintf(`{"body":"%d"}`, i), 0))
	}
	w.read(func(tx *sqldb.Tx) error {
		for _, id := range ids {
			e, err := w.s.Store.EventByID(tx, id)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return ids, events
}

func (w *world) benchBundle(b *testing.B, events []*store.Stored) {
	for b.Loop() {
		w.read(func(tx *sqldb.Tx) error {
			_, err := w.r.Bundle(tx, roomserver.Viewer{User: "@alice:hs"}, events)
			return err
		})
	}
}

// BenchmarkBundlePage is a page of 50 events: without relations, with a thread of 20 replies each, and with one of 10,000.
func BenchmarkBundlePage(b *testing.B) {
	benchEach(b, func(b *testing.B, w *world) {
		room := w.create("12")
		_, plain := w.roots(room, 50)
		ids, threaded := w.roots(room, 50)
		w.fill(room, ids, 20)
		one, long := w.roots(room, 1)
		w.fill(room, one, 10_000)
		b.Run("plain", func(b *testing.B) { w.benchBundle(b, plain) })
		b.Run("threads", func(b *testing.B) { w.benchBundle(b, threaded) })
		b.Run("long", func(b *testing.B) { w.benchBundle(b, long) })
	})
}

// BenchmarkThreads is a page of 20 of 500 threads with 20 replies each.
func BenchmarkThreads(b *testing.B) {
	benchEach(b, func(b *testing.B, w *world) {
		room := w.create("12")
		ids, events := w.roots(room, 500)
		w.fill(room, ids, 20)
		for b.Loop() {
			w.read(func(tx *sqldb.Tx) error {
				_, err := w.r.Threads(tx, roomserver.Viewer{User: "@alice:hs"}, ThreadsQuery{Room: events[0].Room, Limit: 20})
				return err
			})
		}
	})
}
