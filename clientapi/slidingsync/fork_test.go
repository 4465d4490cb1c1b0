package slidingsync

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

// far sends a state event of another server's user that follows another event.
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
		state, err := g.rooms.StateAfter(tx, prev)
		if err != nil {
			return err
		}
		for _, t := range auth.NeededFor(k.Version, typ, &key, sender, b.Content) {
			if e, err := g.rooms.StateEvent(tx, roomserver.View{State: state}, t.Type, t.Key); err == nil && e != nil {
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

// TestStateResolution has another server's ban arrive from before the room had a
// name and a topic: both go without an event.
func TestStateResolution(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b, far := g.user("a"), g.user("b"), "@far:away"
		id := g.create(roomserver.CreateRequest{Creator: a, Version: "10", Topic: "old",
			PowerLevelOverride: map[string]json.RawMessage{"state_default": json.RawMessage("0"), "events": json.RawMessage("{}"),
				"users": json.RawMessage(`{"` + a + `":100,"` + far + `":100}`)}})
		g.join(id, b)
		g.far(id, g.say(id, a, "x"), far, "m.room.member", far, `{"membership":"join"}`)
		fork := g.say(id, a, "fork")
		g.state(id, b, "m.room.topic", "", `{"topic":"new"}`)
		g.state(id, b, "m.room.name", "", `{"name":"N"}`)
		const wanted = `"lists":{"x":{"timeline_limit":9,"required_state":`
		stable := g.v4(a+"/V", `{`+wanted+`{"include":[{"type":"m.room.topic"},{"type":"m.room.name"}]}}}}`)
		body := `{` + wanted + `[["m.room.topic",""],["m.room.name",""]]}}}`
		res, of := g.ask(a, body), g.ask(b, body)
		expect(t, "named", part(res, id, "name"), "N")
		g.far(id, fork, far, "m.room.member", b, `{"membership":"ban"}`)
		res, of = g.more(a, body, res), g.more(b, body, of)
		expect(t, "timeline", words(part(res, id, "timeline")), "ban:@b")
		expect(t, "state", words(part(res, id, "required_state")), "topic=old")
		expect(t, "no name", part(res, id, "name").Raw, "null")
		stable = g.v4(a+"/V", `{"pos":"`+stable.Get("pos").Str+`",`+wanted+`{"include":[{"type":"m.room.topic"},{"type":"m.room.name"}]}}}}`)
		expect(t, "stub", part(stable, id, "required_state.1").Raw, `{"type":"m.room.name","state_key":""}`)
		expect(t, "who is banned", words(part(of, id, "timeline")), "ban:@b")
	})
}
