package roomserver

import (
	"sync"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// TestRoomsOfTheSameMillisecond has a user make many equal rooms at once, whose
// ids are hashes of equal create events.
func TestRoomsOfTheSameMillisecond(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		ids := make([]string, 4)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() { ids[i] = createRoom(t, s, CreateRequest{Version: "12"}) })
		}
		wg.Wait()
		for i, id := range ids {
			for _, other := range ids[:i] {
				if id == other {
					t.Fatalf("two rooms have the id %s", id)
				}
			}
		}
	})
}
