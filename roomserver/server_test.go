package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

var testSigner = event.Signer{Server: "a.example", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}

func newTestServer(t testing.TB, db *sqldb.DB) *Server {
	t.Helper()
	pos, err := db.Position(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	hub := stream.New(pos)
	db.OnPublish(hub.Advance)
	s := New(Options{ServerName: "a.example", Signer: testSigner, Store: store.New(store.Options{DB: db}), Hub: hub})
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

func createRoom(t testing.TB, s *Server, q CreateRequest) string {
	t.Helper()
	if q.Creator == "" {
		q.Creator = "@alice:a.example"
	}
	id, err := s.Create(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func sendText(t testing.TB, s *Server, room, user, text string) string {
	t.Helper()
	id, err := s.Send(context.Background(), SendRequest{
		RoomID: room, Sender: user, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, text)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func setMembership(t testing.TB, s *Server, room, sender, target, membership string) {
	t.Helper()
	_, err := s.SetMembership(context.Background(), MembershipRequest{RoomID: room, Sender: sender, Target: target, Membership: membership})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRoomsOfEveryVersion(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		ctx := context.Background()
		for _, v := range event.Versions() {
			room := createRoom(t, s, CreateRequest{Version: v, Preset: "public_chat", Name: "Room " + v, Topic: "t"})
			setMembership(t, s, room, "@bob:a.example", "@bob:a.example", "join")
			var sent []string
			for i := range 3 {
				sent = append(sent, sendText(t, s, room, "@bob:a.example", fmt.Sprint("hello ", i)))
			}
			events, limited, err := s.Timeline(ctx, room, 0, s.Hub.Published(), 3)
			if err != nil || !limited || len(events) != 3 {
				t.Fatalf("version %s: %d events, limited %v, %v", v, len(events), limited, err)
			}
			for i, e := range events {
				if e.ID != sent[i] {
					t.Fatalf("version %s: event %d is %s, want %s", v, i, e.ID, sent[i])
				}
			}
			s.forgetHandles()
			again, err := s.Current(ctx, room)
			if err != nil || again.Joined != 2 {
				t.Fatalf("version %s after a reload: joined %d, %v", v, again.Joined, err)
			}
			name, err := s.CurrentState(ctx, room, "m.room.name", "")
			if err != nil || name == nil || string(name.Event.ContentJSON()) != `{"name":"Room `+v+`"}` {
				t.Fatalf("version %s: name %v, %v", v, name, err)
			}
			sendText(t, s, room, "@alice:a.example", "after the reload")
		}
	})
}

// forgetHandles makes the next use of every room load it anew.
func (s *Server) forgetHandles() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.rooms)
}

func TestSendIsRefused(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{})
		_, err := s.Send(context.Background(), SendRequest{RoomID: room, Sender: "@eve:a.example", Type: "m.room.message", Content: json.RawMessage(`{}`)})
		var refused *NotAllowed
		if !errors.As(err, &refused) {
			t.Fatalf("a stranger's message: %v", err)
		}
		if _, err := s.Send(context.Background(), SendRequest{RoomID: "!none:a.example", Sender: "@alice:a.example", Type: "x", Content: json.RawMessage(`{}`)}); !errors.Is(err, ErrUnknownRoom) {
			t.Fatalf("an unknown room: %v", err)
		}
		_, err = s.Send(context.Background(), SendRequest{RoomID: room, Sender: "@alice:a.example", Type: "x", Content: json.RawMessage(`{"a":"` + strings.Repeat("x", 70_000) + `"}`)})
		if !errors.Is(err, ErrTooLarge) {
			t.Fatalf("a large event: %v", err)
		}
		sendText(t, s, room, "@alice:a.example", "the room still works")
	})
}

func TestTransactionsAreIdempotent(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{})
		q := SendRequest{RoomID: room, Sender: "@alice:a.example", Type: "m.room.message", Content: json.RawMessage(`{"body":"x"}`), Device: "D", TxnID: "1", Path: "send"}
		ids := make([]string, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() { ids[i], _ = s.Send(context.Background(), q) })
		}
		wg.Wait()
		s.forgetHandles()
		again, err := s.Send(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if id != again || id == "" {
				t.Fatalf("one transaction made %v and %s", ids, again)
			}
		}
		q.Device = "E"
		if other, err := s.Send(context.Background(), q); err != nil || other == again {
			t.Fatalf("another device's transaction gave %s, %v", other, err)
		}
	})
}

func TestStateThatChangesNothing(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{})
		empty := ""
		q := SendRequest{RoomID: room, Sender: "@alice:a.example", Type: "m.room.topic", StateKey: &empty, Content: json.RawMessage(`{"topic": "x"}`)}
		first, err := s.Send(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := s.Send(context.Background(), q); err != nil || second != first {
			t.Fatalf("%s then %s, %v", first, second, err)
		}
	})
}

func TestRedaction(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		for _, v := range []string{"1", "10", "12"} {
			room := createRoom(t, s, CreateRequest{Version: v, Preset: "public_chat"})
			setMembership(t, s, room, "@bob:a.example", "@bob:a.example", "join")
			target := sendText(t, s, room, "@alice:a.example", "secret")
			redact := func(user string) (string, error) {
				return s.Send(context.Background(), SendRequest{RoomID: room, Sender: user, Type: "m.room.redaction", Redacts: target, Content: json.RawMessage(`{"redacts":"` + target + `"}`)})
			}
			if _, err := redact("@bob:a.example"); v == "1" && err == nil {
				t.Log("version 1 lets a user of the same server redact")
			}
			if _, err := redact("@alice:a.example"); err != nil {
				t.Fatal(err)
			}
			e, err := s.EventFor(context.Background(), room, target, "@alice:a.example")
			if err != nil || e.RedactedBy == 0 || strings.Contains(string(e.Event.JSON()), "secret") {
				t.Fatalf("version %s: %+v, %v", v, e, err)
			}
		}
	})
}

func TestManySendersInOneRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		const senders, each = 8, 25
		var wg sync.WaitGroup
		for i := range senders {
			user := fmt.Sprintf("@u%d:a.example", i)
			setMembership(t, s, room, user, user, "join")
			wg.Go(func() {
				for n := range each {
					_, err := s.Send(context.Background(), SendRequest{RoomID: room, Sender: user, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, n))})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		events, _, err := s.Timeline(context.Background(), room, 0, s.Hub.Published(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		messages := 0
		for i, e := range events {
			if e.Event.Type() == "m.room.message" {
				messages++
			}
			if i > 0 && (e.Pos <= events[i-1].Pos || e.Ord <= events[i-1].Ord) {
				t.Fatal("positions and history are not in the same order")
			}
		}
		if messages != senders*each {
			t.Fatalf("%d messages of %d", messages, senders*each)
		}
	})
}

func BenchmarkSend16(b *testing.B) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite} {
		b.Run("sqlite", func(b *testing.B) {
			s := newTestServer(b, sqldbtest.Open(b, d))
			room := createRoom(b, s, CreateRequest{})
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					sendText(b, s, room, "@alice:a.example", "The quick brown fox jumps over the lazy dog and on it goes for a while")
				}
			})
		})
	}
}
