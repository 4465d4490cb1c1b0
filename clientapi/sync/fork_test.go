package sync

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"strings"
	"testing"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// far sends an event of another server's user that follows another event.
func (g *rig) far(room, after, sender, typ, key, content string) {
	g.t.Helper()
	ctx := context.Background()
	k, err := g.rooms.Room(ctx, room)
	must(g.t, err)
	b := event.Builder{Version: k.Version, Type: typ, Sender: sender, RoomID: room, StateKey: &key, Content: json.RawMessage(content),
		PrevEvents: []string{after}}
	must(g.t, g.db.Read(ctx, func(tx *sqldb.Tx) error {
		prev, err := g.rooms.Store.EventByID(tx, after)
		if err != nil {
			return err
		}
		b.Depth, b.TS = prev.Depth+1, prev.TS+1
		state, err := g.rooms.Store.Set(tx, prev.State)
		if err != nil {
			return err
		}
		if prev.Tuple != 0 {
			with := *state
			with.Set = state.Set.With(prev.Tuple, prev.NID)
			state = &with
		}
		for _, t := range auth.NeededFor(k.Version, typ, &key, sender, b.Content) {
			e, err := g.rooms.StateEvent(tx, roomserver.View{State: state}, t.Type, t.Key)
			if err != nil {
				return err
			}
			if e != nil {
				b.AuthEvents = append(b.AuthEvents, e.ID)
			}
		}
		return nil
	}))
	e, err := b.Build(event.Signer{Server: event.ServerOf(sender), KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("f", 32)))})
	must(g.t, err)
	results, err := g.rooms.Receive(ctx, event.ServerOf(sender), []json.RawMessage{e.JSON()})
	must(g.t, err)
	if msg := results[e.EventID()]; msg != "" {
		g.t.Fatal(msg)
	}
}

// TestStateResolution has another server's ban arrive from before a change of
// the topic that it makes void: the topic changes without an event.
func TestStateResolution(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b, far := g.user("a"), g.user("b"), "@far:away"
		room := g.create(roomserver.CreateRequest{Creator: a, Version: "10", Topic: "old",
			PowerLevelOverride: map[string]json.RawMessage{"state_default": json.RawMessage("0"), "events": json.RawMessage("{}"),
				"users": json.RawMessage(`{"` + a + `":100,"` + far + `":100}`)}})
		g.join(room, b)
		g.far(room, g.say(room, a, "x"), far, "m.room.member", far, `{"membership":"join"}`)
		fork := g.say(room, a, "fork")
		g.state(room, b, "m.room.topic", "", `{"topic":"new"}`)
		first := g.get(a)
		expect(t, "before", list(in(first, "join", room, "timeline.events")), "join:@a power_levels join_rules history_visibility topic=old join:@b x join:@far:away fork topic=new")
		g.far(room, fork, far, "m.room.member", b, `{"membership":"ban"}`)
		res := g.get(a, "since", next(first))
		expect(t, "the ban", list(in(res, "join", room, "timeline.events")), "ban:@b")
		expect(t, "changes the topic", list(in(res, "join", room, "state.events")), "topic=old")
		res = g.get(a, "since", next(first), "use_state_after", "true")
		expect(t, "after", list(in(res, "join", room, "state_after.events")), "topic=old ban:@b")
		expect(t, "who is banned", list(in(g.get(b, "since", next(first)), "leave", room, "timeline.events")), "ban:@b")
	})
}
