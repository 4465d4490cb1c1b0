package roomserver

import (
	"context"
	"slices"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/store"
)

// TestErased asks who still sees what an erased user wrote: who was in the room before they were erased.
func TestErased(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s, ctx := newTestServer(t, db), context.Background()
		room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		join := func(user string) { setMembership(t, s, room, user, user, "join") }
		join("@gone:a.example")
		id := sendText(t, s, room, "@gone:a.example", "mine")
		other := sendText(t, s, room, "@alice:a.example", "hers")
		join("@between:a.example")
		at := s.Hub.Published()
		pos := at
		s.Erased = func(user string) (int64, bool) { return pos, user == "@gone:a.example" }
		join("@later:a.example")

		body := func(user, id string) (text string) {
			t.Helper()
			e, err := s.EventFor(ctx, room, id, user)
			if err != nil {
				t.Fatal(err)
			}
			h, err := s.History(ctx, HistoryRequest{RoomID: room, User: user, Back: true, Limit: 50})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(h.Events, func(e *store.Stored) bool { return e.ID == id })
			if i < 0 || h.Events[i].Event.ContentString("body") != e.Event.ContentString("body") || h.Events[i].Erased != e.Erased {
				t.Errorf("%s gets another event in the history", user)
			}
			return e.Event.ContentString("body")
		}
		for user, want := range map[string]string{"@alice:a.example": "mine", "@between:a.example": "mine", "@later:a.example": ""} {
			if got := body(user, id); got != want {
				t.Errorf("%s sees %q, want %q", user, got, want)
			}
			if got := body(user, other); got != "hers" {
				t.Errorf("%s sees %q of another", user, got)
			}
		}
		pos = 0 // from before the position was noted
		for user, want := range map[string]string{"@alice:a.example": "mine", "@between:a.example": "", "@later:a.example": ""} {
			if got := body(user, id); got != want {
				t.Errorf("of an old erasure %s sees %q, want %q", user, got, want)
			}
		}
		pos = at
		erasedForServers(t, s, id, at)
	})
}

func erasedForServers(t *testing.T, s *Server, id string, at int64) {
	t.Helper()
	ctx := context.Background()
	names := []string{"before.example", "left.example", "later.example"}
	nids, err := s.Store.Intern(ctx, names...)
	if err != nil {
		t.Fatal(err)
	}
	var room, sent int64
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.Store.EventByID(tx, id)
		room, sent = e.Room, e.Pos
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.db.Do(ctx, &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
		for i, from := range []int64{sent + 1, sent - 2, at + 1} {
			if err := s.Store.ServerJoined(tx, room, nids[i], from); err != nil {
				return err
			}
		}
		return s.Store.ServerLeft(tx, room, nids[1], sent-1)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"before.example": false, "left.example": true, "later.example": true, "never.example": true} {
		err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
			e, err := s.Store.EventByID(tx, id)
			if err != nil {
				return err
			}
			list, err := s.forServer(tx, name, []*store.Stored{e})
			if err == nil && (list[0].Event.ContentString("body") == "") != want {
				t.Errorf("redacted for %s: %v, want %v", name, !want, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
