package roomserver

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// told is a Remote that answers make_join with what it is told.
type told struct {
	Remote
	version  string
	template json.RawMessage
}

func (t *told) Make(context.Context, string, string, string, string, []string) (string, json.RawMessage, error) {
	return t.version, t.template, nil
}

func fuzzServer(f *testing.F, remote Remote) *Server {
	f.Helper()
	s := newTestServer(f, sqldbtest.Open(f, sqldb.SQLite))
	s.Remote = remote
	return s
}

// FuzzTemplate reads what other servers answer to make_join: what is made of it is the user's join and nothing else.
func FuzzTemplate(f *testing.F) {
	const user, room, server = "@alice:a.example", "!room:b.example", "b.example"
	for _, template := range []string{
		`{"type":"m.room.member","sender":"@alice:a.example","state_key":"@alice:a.example","room_id":"!room:b.example","depth":7,"prev_events":[],"auth_events":[],"content":{}}`,
		`{"type":"m.room.member","sender":"@alice:a.example","state_key":"@alice:a.example","room_id":"!room:b.example","prev_events":[["$1:b.example",{"sha256":"AAAA"}]],"content":{"join_authorised_via_users_server":"@bob:b.example"}}`,
		`{"type":"m.room.member","sender":"@alice:a.example","state_key":"@alice:a.example","room_id":"!room:b.example","depth":1e400,"prev_events":["$x",7,null,[]],"auth_events":{}}`,
	} {
		for _, version := range []string{"1", "3", "10", "12", "99"} {
			f.Add(version, []byte(template))
		}
	}
	remote := &told{}
	s := fuzzServer(f, remote)
	f.Fuzz(func(t *testing.T, version string, template []byte) {
		if !json.Valid(template) { // the client has decoded it
			return
		}
		remote.version, remote.template = version, template
		e, err := s.makeThrough(t.Context(), auth.Join, server, MembershipRequest{RoomID: room, Sender: user, Target: user})
		if err != nil {
			return
		}
		via := e.ContentString(authoriserKey)
		if !e.IsState("m.room.member", user) || e.Sender() != user || e.Room() != room || auth.Membership(e) != auth.Join || via != "" && serverOf(via) != server {
			t.Errorf("made of %s: %s", template, e.JSON())
		}
		if again, err := event.Parse(e.V(), e.JSON()); err != nil || again.Redacted() || again.EventID() != e.EventID() {
			t.Errorf("what was made cannot be read: %v: %s", err, e.JSON())
		}
	})
}

// FuzzJoinAnswer reads states and auth chains of other servers, an event a line: whatever is taken rests on what was taken
// before, and no place of the state is taken twice.
func FuzzJoinAnswer(f *testing.F) {
	const bob, eve = "@bob:b.example", "@eve:b.example"
	lines := []json.RawMessage{
		oldEvent("create", "m.room.create", bob, "", `{"creator":"@bob:b.example"}`),
		oldEvent("bob", "m.room.member", bob, bob, `{"membership":"join"}`, "create"),
		oldEvent("rules", "m.room.join_rules", bob, "", `{"join_rule":"public"}`, "create", "bob"),
		oldEvent("eve", "m.room.member", eve, eve, `{"membership":"join"}`, "create", "rules"),
		oldEvent("powers", "m.room.power_levels", eve, "", `{"users":{"@eve:b.example":100}}`, "create", "eve", "more"),
		oldEvent("more", "m.room.power_levels", eve, "", `{"users":{"@eve:b.example":100}}`, "create", "eve", "powers"),
		oldEvent("self", "m.room.power_levels", eve, "", `{"users":{"@eve:b.example":100}}`, "create", "eve", "self"),
	}
	f.Add(3, joinLines(lines))
	f.Add(6, joinLines(lines))
	f.Add(1, joinLines(append(slices.Clone(lines), lines...)))
	v, _ := event.GetVersion("1")
	join, err := event.Parse(v, oldEvent("join", "m.room.member", "@me:a.example", "@me:a.example", `{"membership":"join"}`, "create", "rules"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, state int, text []byte) {
		a := &joinAnswer{s: &Server{}, v: v, room: "!old:b.example", join: join}
		defer a.release()
		for i, raw := range bytes.Split(text, []byte("\n")) {
			take := a.addAuth
			if i < state {
				take = a.addState
			}
			if take(raw) != nil {
				return
			}
		}
		if a.check(t.Context()) != nil {
			return
		}
		known, places := map[string]bool{}, map[auth.Tuple]bool{}
		for _, e := range a.order {
			for _, id := range e.AuthEventIDs() {
				if !known[id] {
					t.Errorf("%s rests on %s, which was not taken before", e.EventID(), id)
				}
			}
			known[e.EventID()] = true
		}
		for _, e := range a.state {
			key, _ := e.Key()
			place := auth.Tuple{Type: e.Type(), Key: key}
			if places[place] || !known[e.EventID()] {
				t.Errorf("%s is twice in the state, or was not taken", e.EventID())
			}
			places[place] = true
		}
		if !places[auth.Tuple{Type: "m.room.create"}] {
			t.Error("there is no m.room.create")
		}
	})
}

func joinLines(lines []json.RawMessage) []byte {
	parts := make([][]byte, len(lines))
	for i, l := range lines {
		parts[i] = l
	}
	return bytes.Join(parts, []byte("\n"))
}

// FuzzInviteState reads the state that comes with invites: clients get a list of stripped events, whatever it was.
func FuzzInviteState(f *testing.F) {
	f.Add("10", []byte(`[{"type":"m.room.name","state_key":"","sender":"@bob:b.example","content":{"name":"x"}}]`))
	f.Add("12", []byte(`[{"type":"m.room.create","state_key":"","sender":"@bob:b.example","content":{},"auth_events":[],"prev_events":[],"depth":1,"origin_server_ts":1,"hashes":{"sha256":""},"signatures":{}}]`))
	f.Add("1", []byte(`[null,7,[],{"type":7},{"type":"x","state_key":"","sender":"x","content":[]}]`))
	s := fuzzServer(f, nil)
	f.Fuzz(func(t *testing.T, version string, list []byte) {
		v, ok := event.GetVersion(version)
		var parts []json.RawMessage
		if !ok || json.Unmarshal(list, &parts) != nil {
			return
		}
		out, err := s.strippedState(t.Context(), v, "!room:b.example", parts)
		if err != nil {
			return
		}
		if !json.Valid(out) {
			t.Fatalf("%s became %s", list, out)
		}
		for _, e := range gjson.ParseBytes(out).Array() {
			if e.Get("type").Type != gjson.String || e.Get("state_key").Type != gjson.String || e.Get("sender").Type != gjson.String || !e.Get("content").IsObject() {
				t.Errorf("%s became %s", list, out)
			}
		}
	})
}
