package roomserver

import (
	"context"
	"encoding/json"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func TestInviteToARoomThatEverybodyLeft(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room := createRoom(t, s, CreateRequest{})
		setMembership(t, s, room, "@alice:a.example", "@bob:a.example", "invite")
		setMembership(t, s, room, "@alice:a.example", "@alice:a.example", "leave")
		if err := s.Leave(context.Background(), room, "@bob:a.example", ""); err != nil {
			t.Fatal(err)
		}
		m, err := s.Membership(context.Background(), room, "@bob:a.example")
		if err != nil || m.State != store.Leave {
			t.Fatalf("%+v, %v", m, err)
		}
		e, err := s.Store.LoadOne(context.Background(), m.Event)
		if err != nil || auth.Membership(e.Event) != auth.Leave {
			t.Fatalf("the refusal is not an event of the room: %v, %v", e, err)
		}
	})
}

func TestOnlyServersVouchForJoins(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		space := createRoom(t, s, CreateRequest{Preset: "public_chat"})
		rules := `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + space + `"}]}`
		room := createRoom(t, s, CreateRequest{InitialState: []StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(rules)}}})
		bob := "@bob:a.example"
		if _, err := s.Join(context.Background(), JoinRequest{RoomIDOrAlias: room, User: bob}); err == nil {
			t.Fatal("bob is in no room that the rule allows")
		}
		setMembership(t, s, space, bob, bob, "join")
		if _, err := s.Join(context.Background(), JoinRequest{RoomIDOrAlias: room, User: bob, Content: map[string]json.RawMessage{authoriserKey: json.RawMessage(`"unused"`)}}); err != nil {
			t.Fatal(err)
		}
		e, err := s.CurrentState(context.Background(), room, "m.room.member", bob)
		if err != nil || e.Event.ContentString(authoriserKey) != "@alice:a.example" {
			t.Fatalf("vouched by %q, %v", e.Event.ContentString(authoriserKey), err)
		}
		_, err = s.SetMembership(context.Background(), MembershipRequest{RoomID: room, Sender: bob, Target: bob, Membership: "join",
			Content: map[string]json.RawMessage{authoriserKey: json.RawMessage(`"unused"`), "x": json.RawMessage("1")}})
		if err != nil {
			t.Fatalf("a joined user changes their member event: %v", err)
		}
	})
}

// A user knocks again while the refusal of their first knock is on its way.
func TestRefusalOfAnEarlierKnock(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ctx, s := context.Background(), newTestServer(t, db)
		const room, bob = "!far:b.example", "@bob:a.example"
		v, _ := event.GetVersion("10")
		key, err := s.ensureRoom(ctx, room, v)
		if err != nil {
			t.Fatal(err)
		}
		user := bob
		member := func(sender, membership string, ts int64, cites ...string) *event.Event {
			e, err := (&event.Builder{Version: v, Type: "m.room.member", Sender: sender, StateKey: &user, RoomID: room, Depth: 5, TS: ts, AuthEvents: cites,
				Content: json.RawMessage(`{"membership":"` + membership + `"}`)}).Build(testSigner)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		knock := func(ts int64) *event.Event {
			e := member(bob, "knock", ts)
			if err := s.storeOutOfBand(ctx, key, e, bob, nil); err != nil {
				t.Fatal(err)
			}
			return e
		}
		first, second := knock(1), knock(2)
		for _, c := range []struct {
			cites *event.Event
			want  store.Membership
		}{{first, store.Knock}, {second, store.Leave}} {
			refusal := member("@mod:b.example", "leave", 3, c.cites.EventID())
			results := map[string]string{}
			if err := s.takeOutOfBand(ctx, &arrival{key: key, origin: "b.example", events: []*event.Event{refusal}}, results); err != nil {
				t.Fatal(err)
			}
			m, err := s.Membership(ctx, room, bob)
			if err != nil || m.State != c.want || (results[refusal.EventID()] == "") != (c.want == store.Leave) {
				t.Errorf("%v, %v, %v, want %v", m.State, err, results, c.want)
			}
		}
		third := knock(4)
		m, err := s.Membership(ctx, room, bob)
		if err != nil {
			t.Fatal(err)
		}
		refusal := member("@mod:b.example", "leave", 5, third.EventID())
		knock(6)
		if done, err := s.replaceOutOfBand(ctx, key, refusal, bob, nil, &m); err != nil || done {
			t.Errorf("the row had changed: %v, %v", done, err)
		}
	})
}
