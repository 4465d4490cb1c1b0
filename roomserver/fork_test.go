package roomserver

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

var farSigner = event.Signer{Server: "b.example", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("b", 32)))}

// farEvent builds an event as another server would, on the room as it was when
// the snapshot was taken.
type snapshot struct {
	prevs []string
	depth int64
	state auth.State
	view  View
}

func snap(t *testing.T, s *Server, room string) snapshot {
	t.Helper()
	ctx := context.Background()
	r, err := s.handle(ctx, room)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	prevs, depth := r.prevs()
	view := View{State: r.tip.state}
	r.mu.Unlock()
	var list []*event.Event
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		events, err := s.StateEvents(tx, view.State, nil)
		for _, e := range events {
			list = append(list, e.Event)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return snapshot{prevs: prevs, depth: depth, state: auth.NewState(list), view: view}
}

func (sn snapshot) build(t *testing.T, s *Server, room string, signer event.Signer, sender, typ string, key *string, content string) *event.Event {
	t.Helper()
	k, err := s.Room(context.Background(), room)
	if err != nil {
		t.Fatal(err)
	}
	b := event.Builder{
		Version: k.Version, Type: typ, Sender: sender, RoomID: room, StateKey: key, Content: json.RawMessage(content),
		PrevEvents: sn.prevs, Depth: sn.depth, TS: s.Clock().UnixMilli(),
	}
	for _, tuple := range auth.NeededFor(k.Version, typ, key, sender, b.Content) {
		if e := sn.state.Lookup(tuple.Type, tuple.Key); e != nil {
			b.AuthEvents = append(b.AuthEvents, e.EventID())
		}
	}
	e, err := b.Build(signer)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func receive(t *testing.T, s *Server, events ...*event.Event) map[string]string {
	t.Helper()
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raws[i] = e.JSON()
	}
	results, err := s.Receive(context.Background(), "b.example", raws)
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// TestForksAreResolved lets a member of another server change the topic on a
// fork while a local user changes it too.
func TestForksAreResolved(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		for _, version := range []string{"10", "12"} {
			s := newTestServer(t, db)
			room := createRoom(t, s, CreateRequest{Version: version, Preset: "public_chat", PowerLevelOverride: map[string]json.RawMessage{"state_default": json.RawMessage("0"), "events": json.RawMessage("{}")}})
			bob, empty := "@bob:b.example", ""
			join := snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`)
			if got := receive(t, s, join)[join.EventID()]; got != "" {
				t.Fatalf("version %s: the join was refused: %s", version, got)
			}
			before := snap(t, s, room)
			if _, err := s.Send(context.Background(), SendRequest{RoomID: room, Sender: "@alice:a.example", Type: "m.room.topic", StateKey: &empty, Content: json.RawMessage(`{"topic":"here"}`)}); err != nil {
				t.Fatal(err)
			}
			far := before.build(t, s, room, farSigner, bob, "m.room.topic", &empty, `{"topic":"there"}`)
			name := before.build(t, s, room, farSigner, bob, "m.room.name", &empty, `{"name":"named there"}`)
			if got := receive(t, s, far, name); got[far.EventID()] != "" || got[name.EventID()] != "" {
				t.Fatalf("version %s: refused: %v", version, got)
			}
			after := snap(t, s, room)
			if len(after.prevs) != 3 {
				t.Fatalf("version %s: %d forward extremities, want 3", version, len(after.prevs))
			}
			if after.state.Lookup("m.room.name", "") == nil || after.state.Lookup("m.room.topic", "") == nil {
				t.Fatalf("version %s: the forks' state was lost", version)
			}
			sendText(t, s, room, "@alice:a.example", "joins the forks")
			s.forgetHandles()
			if merged := snap(t, s, room); len(merged.prevs) != 1 || !same(merged.view.State.Set, after.view.State.Set) {
				t.Fatalf("version %s: after a message over the forks the state differs or forks remain: %v", version, merged.prevs)
			}
		}
	})
}

// TestSoftFail lets a banned user send on a fork from before the ban.
func TestSoftFail(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		bob := "@bob:b.example"
		join := snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`)
		receive(t, s, join)
		before := snap(t, s, room)
		setMembership(t, s, room, "@alice:a.example", bob, "ban")
		evasion := before.build(t, s, room, farSigner, bob, "m.room.message", nil, `{"body":"still here"}`)
		receive(t, s, evasion)
		rejected := snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.message", nil, `{"body":"and here"}`)
		if got := receive(t, s, rejected)[rejected.EventID()]; got == "" {
			t.Fatal("a banned user's message on the newest state must be rejected")
		}
		r, err := s.handle(context.Background(), room)
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]store.Flags{evasion.EventID(): store.SoftFailed, rejected.EventID(): store.Rejected} {
			e, err := r.known(context.Background(), id)
			if err != nil || e == nil || e.Flags&want == 0 || e.Pos != 0 {
				t.Fatalf("%s: %+v, %v; want flag %d and no position", id, e, err, want)
			}
		}
		if now := snap(t, s, room); len(now.prevs) != 1 || now.prevs[0] == evasion.EventID() {
			t.Fatalf("a soft-failed event became a forward extremity: %v", now.prevs)
		}
	})
}

// TestMissingPrevIsParked takes an event whose prev event never came: it waits
// in the durable queue and does not fail the transaction.
func TestMissingPrevIsParked(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		bob := "@bob:b.example"
		join := snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`)
		receive(t, s, join)
		base := snap(t, s, room)
		lost := base.build(t, s, room, farSigner, bob, "m.room.message", nil, `{"body":"lost"}`)
		base.prevs, base.depth = []string{lost.EventID()}, base.depth+1
		late := base.build(t, s, room, farSigner, bob, "m.room.message", nil, `{"body":"late"}`)
		if got := receive(t, s, late)[late.EventID()]; got != "" {
			t.Fatalf("the event was refused: %s", got)
		}
		key, _ := s.Room(context.Background(), room)
		var rows []store.Inbound
		err := s.db.Read(context.Background(), func(tx *sqldb.Tx) (err error) {
			rows, err = queuedRows(tx, s, key.NID)
			return err
		})
		if err != nil || len(rows) != 1 || rows[0].ID != late.EventID() {
			t.Fatalf("queue: %v, %v", rows, err)
		}
		receive(t, s, lost) // arrives after all: goes behind the queue
		for more := true; more; {
			if more, err = s.drainOnce(context.Background(), key); err != nil {
				t.Fatal(err)
			}
		}
		if now := snap(t, s, room); len(now.prevs) != 1 || now.prevs[0] != late.EventID() {
			t.Fatalf("forward extremities %v, want the late event alone", now.prevs)
		}
	})
}
