package sticky

import (
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
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
