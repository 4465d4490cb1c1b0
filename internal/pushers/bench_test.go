package pushers

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/sirupsen/logrus"

	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/cpu"
)

// BenchmarkRoomOf2000 finds whom a message notifies in a room of 2,000 local members who all have a device to be told. What
// delivers is not running.
func BenchmarkRoomOf2000(b *testing.B) {
	db := sqldbtest.Open(b, sqldb.SQLite)
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	db.Start(b.Context())
	log := logrus.NewEntry(logrus.New())
	rules := pushrules.New(pushrules.Options{DB: db, Hub: hub, Log: log})
	rooms := roomserver.New(roomserver.Options{ServerName: "hs", Hub: hub, Store: store.New(store.Options{DB: db}),
		Signer: event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}, Log: log})
	must(b, rules.Load(b.Context()), rooms.Start(b.Context()))
	s := New(Options{DB: db, Hub: hub, Rooms: rooms, Rules: rules, ServerName: "hs", Log: log})
	room, err := rooms.Create(b.Context(), roomserver.CreateRequest{Creator: "@bob:hs", Preset: "public_chat"})
	must(b, err)
	for i := range 2000 {
		user := fmt.Sprintf("@user%d:hs", i)
		_, err := rooms.Join(b.Context(), roomserver.JoinRequest{RoomIDOrAlias: room, User: user})
		must(b, err)
		s.adopt(&Pusher{nid: int64(i + 1), user: user})
	}
	s.sub.Overflowed()
	for len(s.sub.C) > 0 {
		<-s.sub.C
	}
	_, err = rooms.Send(b.Context(), roomserver.SendRequest{RoomID: room, Sender: "@bob:hs", Type: "m.room.message",
		Content: json.RawMessage(`{"msgtype":"m.text","body":"hello"}`)})
	must(b, err)
	message := <-s.sub.C
	s.see(context.Background(), message)
	if n := len(s.lanes[1].pending); n != 1 {
		b.Fatalf("%d notifications wait", n)
	}
	defer cpu.Meter(b)()
	b.ReportAllocs()
	for b.Loop() {
		s.see(context.Background(), message)
		for _, l := range s.lanes {
			l.pending = l.pending[:0] // as if delivered
		}
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
