package pushers

import (
	"context"
	"testing"

	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/store"
)

// TestStoppingLeavesEvents has events come in the moment in which the node stops: they are looked at after the start.
func TestStoppingLeavesEvents(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		const user, room = "@bob:a.test", "!room"
		hub := stream.New(0)
		hub.SetJoined(user, room, true)
		rooms := &roomserver.Server{Options: roomserver.Options{Store: store.New(store.Options{DB: db})}}
		s := New(Options{DB: db, Hub: hub, Rooms: rooms, Log: logrus.NewEntry(logrus.New())})
		s.adopt(&Pusher{nid: 1, user: user})
		hub.Advance(2)
		stopping, cancel := context.WithCancel(t.Context())
		cancel()
		pending := []stream.Change{{Pos: 1, Room: room, EventNID: 1, Kind: stream.Timeline}, {Pos: 2, Room: room, EventNID: 2, Kind: stream.Timeline}}
		if rest := s.drain(stopping, pending); len(rest) != 2 || s.looked.Load() != 0 {
			t.Errorf("%d events wait, position %d is written down as looked at", len(rest), s.looked.Load())
		}
	})
}
