package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/state"
)

// TestCrash kills a process that sends to rooms, again and again, and looks
// whether everything that was acknowledged is there and every room is whole.
func TestCrash(t *testing.T) {
	if url := sqldbtest.CrashURL(); url != "" {
		sendUntilKilled(t, url)
		return
	}
	if testing.Short() {
		t.Skip("kills processes; run without -short")
	}
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			acked := map[int64]bool{}
			for range 4 {
				for _, a := range sqldbtest.Crash(t, url, 60) {
					acked[a.N] = true
				}
				checkAfterCrash(t, url, acked)
			}
		})
	}
}

// sendUntilKilled makes rooms and sends messages and state to them from several
// goroutines at once.
func sendUntilKilled(t *testing.T, url string) {
	db := sqldbtest.OpenURL(t, url)
	db.Start(context.Background())
	s := newTestServer(t, db)
	var n atomic.Int64
	n.Store(rand.Int64N(1 << 50))
	for range 4 {
		go func() {
			room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
			for i := 0; ; i++ {
				sendNumbered(t, s, room, n.Add(1), i)
			}
		}()
	}
	select {}
}

func sendNumbered(t *testing.T, s *Server, room string, n int64, i int) {
	q := SendRequest{RoomID: room, Sender: "@alice:a.example", Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}
	if i%3 == 0 {
		key := fmt.Sprint(i % 2)
		q.Type, q.StateKey = "test.state", &key
	}
	if _, err := s.Send(context.Background(), q); err != nil {
		t.Error(err)
		return
	}
	sqldbtest.Ack(n, 1)
}

func checkAfterCrash(t *testing.T, url string, acked map[int64]bool) {
	db := sqldbtest.OpenURL(t, url)
	defer db.Close()
	ctx := context.Background()
	db.Start(ctx)
	s := newTestServer(t, db)
	rooms, err := s.Store.ResidentRooms(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := map[int64]int{}
	for _, nid := range rooms {
		checkRoomIsWhole(t, s, nid, found)
	}
	for n := range acked {
		if found[n] != 1 {
			t.Fatalf("message %d was acknowledged and is there %d times", n, found[n])
		}
	}
}

// checkRoomIsWhole replays a room's events and compares with its state.
func checkRoomIsWhole(t *testing.T, s *Server, nid int64, found map[int64]int) {
	t.Helper()
	ctx := context.Background()
	var id string
	var set *state.Set
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		key, err := s.Store.RoomByNID(tx, nid)
		if err != nil {
			return err
		}
		id = key.ID
		nids, err := s.Store.Delivered(tx, nid, 0, maxPos, false, 100_000)
		if err != nil {
			return err
		}
		events, err := s.Store.InOrder(tx, nids)
		if err != nil {
			return err
		}
		for _, e := range events {
			if n := gjson.GetBytes(e.Event.ContentJSON(), "n"); n.Exists() {
				found[n.Int()]++
			}
			before, err := s.Store.Set(tx, e.State)
			if err != nil {
				return err
			}
			if !same(before.Set, set) {
				t.Errorf("room %s: the state before %s is not what its predecessors made", id, e.ID)
			}
			if e.Tuple != 0 {
				set = set.With(e.Tuple, e.NID)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.Current(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if v.State.Set.Len() < 5 || !same(v.State.Set, set) {
		t.Fatalf("room %s is half-written: its state has %d events, replaying gives %d", id, v.State.Set.Len(), set.Len())
	}
	sendText(t, s, id, "@alice:a.example", "still alive")
}
