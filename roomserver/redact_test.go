package roomserver

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/event"
)

// TestRedactionsOfOtherServers lets a message and its redaction come in one
// transaction, in either order, and in two.
func TestRedactionsOfOtherServers(t *testing.T) {
	orders := map[string]func(t *testing.T, s *Server, message, redaction *event.Event){
		"together": func(t *testing.T, s *Server, m, r *event.Event) { receive(t, s, m, r) },
		"reversed": func(t *testing.T, s *Server, m, r *event.Event) { receive(t, s, r, m) },
		"first":    func(t *testing.T, s *Server, m, r *event.Event) { receive(t, s, r); receive(t, s, m) },
		"after":    func(t *testing.T, s *Server, m, r *event.Event) { receive(t, s, m); receive(t, s, r) },
	}
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		for name, deliver := range orders {
			room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
			bob := "@bob:b.example"
			receive(t, s, snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`))
			at := snap(t, s, room)
			message := at.build(t, s, room, farSigner, bob, "m.room.message", nil, `{"body":"secret"}`)
			redaction := at.build(t, s, room, farSigner, bob, "m.room.redaction", nil, `{"redacts":"`+message.EventID()+`"}`)
			deliver(t, s, message, redaction)
			for range 2 {
				e, err := s.EventFor(context.Background(), room, message.EventID(), "@alice:a.example")
				if err != nil || e.RedactedBy == 0 || strings.Contains(string(e.Event.JSON()), "secret") {
					t.Fatalf("%s: %+v, %v", name, e, err)
				}
				s.Store.Forget(e.NID) // and again from the database
			}
		}
	})
}

// TestForeignRedactionIsIgnored sends a redaction by somebody who may not.
func TestForeignRedactionIsIgnored(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		bob := "@bob:b.example"
		receive(t, s, snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`))
		id := sendText(t, s, room, "@alice:a.example", "stays")
		receive(t, s, snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.redaction", nil, string(json.RawMessage(`{"redacts":"`+id+`"}`))))
		if e, err := s.EventFor(context.Background(), room, id, "@alice:a.example"); err != nil || e.RedactedBy != 0 {
			t.Fatalf("%+v, %v", e, err)
		}
	})
}
