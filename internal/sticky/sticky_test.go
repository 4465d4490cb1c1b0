package sticky

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func made(t *testing.T, ts int64, sticky *int64) *event.Event {
	t.Helper()
	v, _ := event.GetVersion("11")
	b := event.Builder{Version: v, Type: "x", Sender: "@alice:hs", RoomID: "!r:hs", Content: json.RawMessage(`{}`), Depth: 1, TS: ts, Sticky: sticky}
	e, err := b.Build(event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestExpiry has events expire by what their servers say of the time, but not later than they could.
func TestExpiry(t *testing.T) {
	now := clock.NewManual(time.UnixMilli(10_000_000))
	s := New(Options{Clock: now.Now})
	ms := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		ts     int64
		sticky *int64
		at     int64 // 0: it is not sticky
	}{
		"now":               {10_000_000, ms(1000), 10_001_000},
		"from the future":   {99_000_000, ms(1000), 10_001_000},
		"late":              {9_999_500, ms(1000), 10_000_500},
		"too late":          {9_999_000, ms(1000), 0},
		"for no time":       {10_000_000, ms(0), 0},
		"as long as it may": {10_000_000, ms(event.MaxSticky), 13_600_000},
		"for too long":      {10_000_000, ms(event.MaxSticky + 1), 0},
		"not at all":        {10_000_000, nil, 0},
	} {
		if at, ok := s.expiry(made(t, c.ts, c.sticky)); ok != (c.at > 0) || ok && at != c.at {
			t.Errorf("%s: until %d (%v), want %d", name, at, ok, c.at)
		}
	}
}

// TestBounds forgets what has expired, and takes no more of a room than is bearable.
func TestBounds(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		now := clock.NewManual(time.UnixMilli(10_000_000))
		s := New(Options{DB: db, Hub: stream.New(0), ServerName: "hs", Clock: now.Now})
		second, hour := int64(1000), int64(event.MaxSticky)
		nid := int64(0)
		add := func(room int64, sticky *int64) (taken bool) {
			t.Helper()
			nid++
			write := s.Prepare(&roomserver.Accepted{RoomID: "!r:hs", RoomNID: room, EventNID: nid, Event: made(t, 10_000_000, sticky)})
			if write == nil {
				return false
			}
			if err := db.Do(t.Context(), &sqldb.Op{Name: "event", Positions: 1, Write: write}); err != nil {
				t.Fatal(err)
			}
			return true
		}
		if !add(1, &second) || !add(2, &hour) || !add(2, &second) {
			t.Fatal("an event was not taken")
		}
		if !s.After(1, 0) || !s.After(2, 1) || s.After(2, 100) || s.After(3, 0) {
			t.Error("it is not known which rooms have some")
		}
		again := New(s.o)
		if err := again.Start(t.Context()); err != nil || !again.After(1, 0) || again.rooms[2].count != 2 {
			t.Errorf("after a restart: %v (%v)", again.rooms, err)
		}
		now.Advance(time.Minute)
		if s.After(1, 0) {
			t.Error("an expired event is there")
		}
		if err := s.prune(t.Context()); err != nil || s.rooms[1] != nil || s.rooms[2].count != 1 {
			t.Errorf("after a while: %v (%v)", s.rooms, err)
		}
		s.rooms[2].count = maxActive
		if add(2, &hour) {
			t.Error("one too many was taken")
		}
	})
}

// TestRefused has refused events looked at again until they are taken or expire, oldest first, and after a restart.
func TestRefused(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		now := clock.NewManual(time.UnixMilli(10_000_000))
		var asked []int64
		take := map[int64]bool{}
		st := store.New(store.Options{DB: db})
		version, _ := event.GetVersion("11")
		s := New(Options{DB: db, Hub: stream.New(0), ServerName: "hs", Clock: now.Now, Reconsider: func(_ context.Context, room string, nid int64) (bool, error) {
			asked = append(asked, nid)
			return take[nid], nil
		}})
		if err := db.Do(t.Context(), &sqldb.Op{Name: "room", Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := st.InsertRoom(tx, store.RoomKey{NID: 1, ID: "!r:hs", Version: version}, store.RoomRow{NID: 1})
			return err
		}}); err != nil {
			t.Fatal(err)
		}
		second, hour := int64(1000), int64(event.MaxSticky)
		for nid, sticky := range map[int64]*int64{1: &hour, 2: &second, 3: &hour, 4: nil} {
			write := s.PrepareRefused(&roomserver.Accepted{RoomID: "!r:hs", RoomNID: 1, EventNID: nid, Event: made(t, 10_000_000, sticky)})
			if write == nil {
				continue
			}
			if err := db.Do(t.Context(), &sqldb.Op{Name: "event", Write: func(tx *sqldb.Tx, _ int64) error { return write(tx) }}); err != nil {
				t.Fatal(err)
			}
		}
		look := func(s *Events, want ...int64) {
			t.Helper()
			asked = nil
			s.reconsiderAll(t.Context())
			if !slices.Equal(asked, want) {
				t.Errorf("asked about %v, want %v", asked, want)
			}
		}
		look(s, 1, 2, 3)
		now.Advance(time.Minute)
		look(s, 1, 3)
		again := New(s.o)
		if err := again.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		take[1] = true
		look(again, 1, 3)
		look(again, 3)
		now.Advance(time.Hour)
		if err := again.prune(t.Context()); err != nil || len(again.refused) != 0 {
			t.Errorf("%v are left (%v)", again.refused, err)
		}
		look(again)
	})
}
