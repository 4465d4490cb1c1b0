package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"knock/roomserver/event"
)

const (
	alice = "@alice:a.example" // creator
	bob   = "@bob:b.example"
	carol = "@carol:a.example"
	dave  = "@dave:b.example"
)

func version(t testing.TB, id string) *event.Version {
	t.Helper()
	v, ok := event.GetVersion(id)
	if !ok {
		t.Fatalf("no room version %s", id)
	}
	return v
}

func atLeast(v string, n int) bool {
	var have int
	fmt.Sscan(v, &have)
	return have >= n
}

// testRoom is a room whose state is set without any check.
type testRoom struct {
	t      testing.TB
	v      *event.Version
	id     string
	events map[Tuple]*event.Event
	count  int
	prev   []string // of the next event
	prefix string   // of event ids
}

func newTestRoom(t testing.TB, v string) *testRoom {
	r := &testRoom{t: t, v: version(t, v), id: "!room:a.example", events: map[Tuple]*event.Event{}, prefix: "$e"}
	content := `{"creator":"` + alice + `","room_version":"` + v + `"}`
	create := r.build("m.room.create", "", alice, content)
	r.events[Tuple{"m.room.create", ""}] = create
	if r.v.DomainlessRoomIDs {
		r.id = create.Room()
	}
	r.prev = []string{"$some:a.example", "$other:a.example"}
	r.put("m.room.member", alice, alice, `{"membership":"join"}`)
	return r
}

func (r *testRoom) Lookup(evType, key string) *event.Event { return r.events[Tuple{evType, key}] }

// build makes an event; state key "-" stands for none.
func (r *testRoom) build(evType, key, sender, content string) *event.Event {
	r.t.Helper()
	r.count++
	fields := map[string]any{
		"type": evType, "sender": sender, "content": json.RawMessage(content), "depth": r.count, "origin_server_ts": r.count,
		"auth_events": []string{}, "prev_events": refs(r.v, r.prev), "hashes": map[string]string{}, "signatures": map[string]string{},
	}
	if key != "-" {
		fields["state_key"] = key
	}
	if evType != "m.room.create" || !r.v.DomainlessRoomIDs {
		fields["room_id"] = r.id
	}
	id := eventID(r.v, fmt.Sprintf("%s%d:%s", r.prefix, r.count, event.ServerOf(sender)))
	if r.v.References {
		fields["event_id"] = id
	}
	return r.stored(id, fields)
}

// eventID makes an id in the version's form of a name "$name:server".
func eventID(v *event.Version, name string) string {
	h := sha256.Sum256([]byte(name))
	switch {
	case !strings.Contains(name, ":") && strings.HasPrefix(name, "$") && len(name) > 40, v.IDFormat == event.IDRandom:
		return name
	case v.IDFormat == event.IDHash:
		return "$" + base64.RawStdEncoding.EncodeToString(h[:])
	}
	return "$" + base64.RawURLEncoding.EncodeToString(h[:])
}

func refs(v *event.Version, names []string) any {
	list := []any{}
	for _, name := range names {
		id := eventID(v, name)
		if v.References {
			list = append(list, []any{id, map[string]string{"sha256": ""}})
		} else {
			list = append(list, id)
		}
	}
	return list
}

func (r *testRoom) stored(id string, fields map[string]any) *event.Event {
	r.t.Helper()
	raw, err := json.Marshal(fields)
	if err != nil {
		r.t.Fatal(err)
	}
	canonical, err := event.Canonical(nil, raw)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := event.FromStored(r.v, id, canonical)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *testRoom) put(evType, key, sender, content string) *event.Event {
	r.t.Helper()
	e := r.build(evType, key, sender, content)
	r.events[Tuple{evType, key}] = e
	return e
}

func (r *testRoom) member(user, membership string) {
	r.t.Helper()
	r.put("m.room.member", user, user, `{"membership":"`+membership+`"}`)
}

func (r *testRoom) powers(content string) {
	r.t.Helper()
	r.put("m.room.power_levels", "", alice, content)
}

func (r *testRoom) rule(rule string) {
	r.t.Helper()
	r.put("m.room.join_rules", "", alice, `{"join_rule":"`+rule+`"}`)
}

// ruleCase is one event against one state. since and until bound the room versions; 0 is open.
type ruleCase struct {
	name         string
	since, until int
	setup        func(r *testRoom)
	evType, key  string
	sender       string
	content      string
	allowed      bool
}

func m(membership string) string { return `{"membership":"` + membership + `"}` }

func ruleCases() []ruleCase {
	none := func(*testRoom) {}
	with := func(fns ...func(r *testRoom)) func(r *testRoom) {
		return func(r *testRoom) {
			for _, fn := range fns {
				fn(r)
			}
		}
	}
	is := func(user, membership string) func(r *testRoom) {
		return func(r *testRoom) { r.member(user, membership) }
	}
	rule := func(rule string) func(r *testRoom) { return func(r *testRoom) { r.rule(rule) } }
	powers := func(content string) func(r *testRoom) { return func(r *testRoom) { r.powers(content) } }
	afterCreate := func(r *testRoom) {
		delete(r.events, Tuple{"m.room.member", alice})
		r.prev = []string{r.Lookup("m.room.create", "").EventID()}
	}
	via := func(user string) string {
		return `{"membership":"join","join_authorised_via_users_server":"` + user + `"}`
	}
	const mem, pl = "m.room.member", "m.room.power_levels"
	return []ruleCase{
		// Joins.
		{"creator joins after create", 0, 0, afterCreate, mem, alice, alice, m("join"), true},
		{"another joins after create", 0, 0, afterCreate, mem, bob, bob, m("join"), false},
		{"join for somebody else", 0, 0, rule("public"), mem, bob, carol, m("join"), false},
		{"join public", 0, 0, rule("public"), mem, bob, bob, m("join"), true},
		{"join public, banned", 0, 0, with(rule("public"), is(bob, "ban")), mem, bob, bob, m("join"), false},
		{"join without join rules", 0, 0, none, mem, bob, bob, m("join"), false},
		{"join without join rules, invited", 0, 0, is(bob, "invite"), mem, bob, bob, m("join"), true},
		{"join invite, invited", 0, 0, with(rule("invite"), is(bob, "invite")), mem, bob, bob, m("join"), true},
		{"join invite, joined", 0, 0, with(rule("invite"), is(bob, "join")), mem, bob, bob, m("join"), true},
		{"join invite, left", 0, 0, with(rule("invite"), is(bob, "leave")), mem, bob, bob, m("join"), false},
		{"join private, invited", 0, 0, with(rule("private"), is(bob, "invite")), mem, bob, bob, m("join"), false},
		{"join knock, invited", 7, 0, with(rule("knock"), is(bob, "invite")), mem, bob, bob, m("join"), true},
		{"join knock, invited, before v7", 0, 6, with(rule("knock"), is(bob, "invite")), mem, bob, bob, m("join"), false},
		{"join knock, knocked", 7, 0, with(rule("knock"), is(bob, "knock")), mem, bob, bob, m("join"), false},
		{"join restricted, invited", 8, 0, with(rule("restricted"), is(bob, "invite")), mem, bob, bob, m("join"), true},
		{"join restricted, invited, before v8", 0, 7, with(rule("restricted"), is(bob, "invite")), mem, bob, bob, m("join"), false},
		{"join restricted, vouched", 8, 0, rule("restricted"), mem, bob, bob, via(alice), true},
		{"join restricted, nobody vouches", 8, 0, rule("restricted"), mem, bob, bob, m("join"), false},
		{"join restricted, vouched by a stranger", 8, 0, rule("restricted"), mem, bob, bob, via(carol), false},
		{"join restricted, vouched without power", 8, 0, with(rule("restricted"), is(carol, "join"), powers(`{"invite":50,"users":{}}`)), mem, bob, bob, via(carol), false},
		{"join restricted, banned", 8, 0, with(rule("restricted"), is(bob, "ban")), mem, bob, bob, via(alice), false},
		{"join restricted, vouched by no user id", 8, 0, rule("restricted"), mem, bob, bob, via("alice"), false},
		{"join knock_restricted, vouched", 10, 0, rule("knock_restricted"), mem, bob, bob, via(alice), true},
		{"join knock_restricted, vouched, before v10", 8, 9, rule("knock_restricted"), mem, bob, bob, via(alice), false},
		// Invites.
		{"invite", 0, 0, none, mem, bob, alice, m("invite"), true},
		{"invite by a stranger", 0, 0, none, mem, bob, carol, m("invite"), false},
		{"invite a member", 0, 0, is(bob, "join"), mem, bob, alice, m("invite"), false},
		{"invite the banned", 0, 0, is(bob, "ban"), mem, bob, alice, m("invite"), false},
		{"invite who knocked", 7, 0, is(bob, "knock"), mem, bob, alice, m("invite"), true},
		{"invite below the level", 0, 0, with(is(carol, "join"), powers(`{"invite":1}`)), mem, bob, carol, m("invite"), false},
		{"invite at the level", 0, 0, with(is(carol, "join"), powers(`{"invite":1,"users":{"`+carol+`":1}}`)), mem, bob, carol, m("invite"), true},
		// Leaves.
		{"leave", 0, 0, is(bob, "join"), mem, bob, bob, m("leave"), true},
		{"reject an invite", 0, 0, is(bob, "invite"), mem, bob, bob, m("leave"), true},
		{"withdraw a knock", 7, 0, is(bob, "knock"), mem, bob, bob, m("leave"), true},
		{"withdraw a knock, before v7", 0, 6, is(bob, "knock"), mem, bob, bob, m("leave"), false},
		{"leave twice", 0, 0, is(bob, "leave"), mem, bob, bob, m("leave"), false},
		{"unban oneself", 0, 0, is(bob, "ban"), mem, bob, bob, m("leave"), false},
		{"kick", 0, 0, is(bob, "join"), mem, bob, alice, m("leave"), true},
		{"kick without power", 0, 0, with(is(bob, "join"), is(carol, "join")), mem, bob, carol, m("leave"), false},
		{"kick an equal", 0, 0, with(is(bob, "join"), is(carol, "join"), powers(`{"users":{"`+bob+`":50,"`+carol+`":50}}`)), mem, bob, carol, m("leave"), false},
		{"kick below", 0, 0, with(is(bob, "join"), is(carol, "join"), powers(`{"users":{"`+bob+`":49,"`+carol+`":50}}`)), mem, bob, carol, m("leave"), true},
		{"kick by a stranger", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+carol+`":100}}`)), mem, bob, carol, m("leave"), false},
		{"unban", 0, 0, is(bob, "ban"), mem, bob, alice, m("leave"), true},
		{"unban below the ban level", 0, 0, with(is(bob, "ban"), is(carol, "join"), powers(`{"ban":60,"users":{"`+carol+`":50}}`)), mem, bob, carol, m("leave"), false},
		{"unban below the kick level", 0, 0, with(is(bob, "ban"), is(carol, "join"), powers(`{"kick":60,"users":{"`+carol+`":50}}`)), mem, bob, carol, m("leave"), false},
		// Bans.
		{"ban", 0, 0, is(bob, "join"), mem, bob, alice, m("ban"), true},
		{"ban a stranger", 0, 0, none, mem, bob, alice, m("ban"), true},
		{"ban without power", 0, 0, with(is(bob, "join"), is(carol, "join")), mem, bob, carol, m("ban"), false},
		{"ban an equal", 0, 0, with(is(carol, "join"), powers(`{"users":{"`+bob+`":50,"`+carol+`":50}}`)), mem, bob, carol, m("ban"), false},
		{"ban by a stranger", 0, 0, powers(`{"users":{"` + carol + `":100}}`), mem, bob, carol, m("ban"), false},
		// Knocks.
		{"knock", 7, 0, rule("knock"), mem, bob, bob, m("knock"), true},
		{"knock, before v7", 0, 6, rule("knock"), mem, bob, bob, m("knock"), false},
		{"knock at knock_restricted", 10, 0, rule("knock_restricted"), mem, bob, bob, m("knock"), true},
		{"knock at knock_restricted, before v10", 7, 9, rule("knock_restricted"), mem, bob, bob, m("knock"), false},
		{"knock at invite", 7, 0, rule("invite"), mem, bob, bob, m("knock"), false},
		{"knock for another", 7, 0, rule("knock"), mem, bob, alice, m("knock"), false},
		{"knock, invited", 7, 0, with(rule("knock"), is(bob, "invite")), mem, bob, bob, m("knock"), false},
		{"knock, banned", 7, 0, with(rule("knock"), is(bob, "ban")), mem, bob, bob, m("knock"), false},
		{"knock again", 7, 0, with(rule("knock"), is(bob, "knock")), mem, bob, bob, m("knock"), true},
		// Malformed memberships.
		{"no membership", 0, 0, rule("public"), mem, bob, bob, `{}`, false},
		{"membership in another case", 0, 0, rule("public"), mem, bob, bob, `{"Membership":"join"}`, false},
		{"unknown membership", 0, 0, rule("public"), mem, bob, bob, m("dance"), false},
		{"membership is a number", 0, 0, rule("public"), mem, bob, bob, `{"membership":1}`, false},
		{"membership without state key", 0, 0, rule("public"), mem, "-", bob, m("join"), false},
		// Everything else.
		{"message", 0, 0, none, "m.room.message", "-", alice, `{}`, true},
		{"message by a stranger", 0, 0, none, "m.room.message", "-", bob, `{}`, false},
		{"message by the invited", 0, 0, is(bob, "invite"), "m.room.message", "-", bob, `{}`, false},
		{"message at events_default", 0, 0, with(is(bob, "join"), powers(`{"events_default":1}`)), "m.room.message", "-", bob, `{}`, false},
		{"message by its type's level", 0, 0, with(is(bob, "join"), powers(`{"events_default":1,"events":{"m.room.message":0}}`)), "m.room.message", "-", bob, `{}`, true},
		{"topic without power levels", 0, 0, is(bob, "join"), "m.room.topic", "", bob, `{}`, false},
		{"topic by the creator without power levels", 0, 0, none, "m.room.topic", "", alice, `{}`, true},
		{"topic at state_default 0", 0, 0, with(is(bob, "join"), powers(`{"state_default":0}`)), "m.room.topic", "", bob, `{}`, true},
		{"users_default", 0, 0, with(is(bob, "join"), powers(`{"users_default":50}`)), "m.room.topic", "", bob, `{}`, true},
		{"users listed in another case", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":0},"Users":{"`+bob+`":100}}`)), "m.room.topic", "", bob, `{}`, false},
		{"state of another user", 0, 0, none, "x.state", bob, alice, `{}`, false},
		{"state of oneself", 0, 0, none, "x.state", alice, alice, `{}`, true},
		{"aliases by any member", 0, 5, none, "m.room.aliases", "b.example", bob, `{}`, true},
		{"aliases of another server", 0, 5, none, "m.room.aliases", "a.example", bob, `{}`, false},
		{"aliases without state key", 0, 5, none, "m.room.aliases", "-", bob, `{}`, false},
		{"aliases are plain state", 6, 0, none, "m.room.aliases", "b.example", bob, `{}`, false},
		{"third-party invite", 0, 0, is(bob, "join"), "m.room.third_party_invite", "token", bob, `{}`, true},
		{"third-party invite below the invite level", 0, 0, with(is(bob, "join"), powers(`{"invite":1,"state_default":0}`)), "m.room.third_party_invite", "token", bob, `{}`, false},
		{"third-party invite needs no level of its type", 0, 0, with(is(bob, "join"), powers(`{"events":{"m.room.third_party_invite":100}}`)), "m.room.third_party_invite", "token", bob, `{}`, true},
		{"redact below the level", 0, 2, is(bob, "join"), "m.room.redaction", "-", bob, `{}`, false},
		{"redact is not checked since v3", 3, 0, is(bob, "join"), "m.room.redaction", "-", bob, `{}`, true},
		{"redact at the level", 0, 0, with(is(bob, "join"), powers(`{"redact":0}`)), "m.room.redaction", "-", bob, `{}`, true},
		// Power levels.
		{"first power levels", 0, 0, none, pl, "", alice, `{"users":{"` + bob + `":1000}}`, true},
		{"users is a list", 0, 0, none, pl, "", alice, `{"users":[]}`, false},
		{"users holds no user id", 0, 0, none, pl, "", alice, `{"users":{"bob":1}}`, false},
		{"level is a bool", 0, 0, none, pl, "", alice, `{"users":{"` + bob + `":true}}`, false},
		{"level is a string", 0, 9, none, pl, "", alice, `{"ban":" +050 ","users":{"` + bob + `":"-5"}}`, true},
		{"level is a string, since v10", 10, 0, none, pl, "", alice, `{"ban":"50"}`, false},
		{"user level is a string, since v10", 10, 0, none, pl, "", alice, `{"users":{"` + bob + `":"5"}}`, false},
		{"event level is a string, since v10", 10, 0, none, pl, "", alice, `{"events":{"m.x":"5"}}`, false},
		{"notification level is a string, since v10", 10, 0, none, pl, "", alice, `{"notifications":{"room":"5"}}`, false},
		{"events is a list, since v10", 10, 0, none, pl, "", alice, `{"events":[]}`, false},
		{"level is a string of words", 0, 0, none, pl, "", alice, `{"ban":"fifty"}`, false},
		{"level is a float", 0, 5, none, pl, "", alice, `{"ban":50.7}`, true},
		{"nobody raises above oneself", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":51}}`, false},
		{"one lowers oneself", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":49}}`, true},
		{"one removes oneself", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{}`, true},
		{"nobody lowers an equal", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50,"`+carol+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":50,"` + carol + `":49}}`, false},
		{"nobody removes an equal", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50,"`+carol+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":50}}`, false},
		{"one lowers who is below", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50,"`+carol+`":49}}`)), pl, "", bob, `{"users":{"` + bob + `":50,"` + carol + `":0}}`, true},
		{"one raises to the own level", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":50,"` + carol + `":50}}`, true},
		{"a level set above the own", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"ban":51,"users":{"` + bob + `":50}}`, false},
		{"a level above the own removed", 0, 0, with(is(bob, "join"), powers(`{"ban":51,"users":{"`+bob+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":50}}`, false},
		{"a level above the own kept", 0, 0, with(is(bob, "join"), powers(`{"ban":51,"users":{"`+bob+`":50}}`)), pl, "", bob, `{"ban":51,"kick":1,"users":{"` + bob + `":50}}`, true},
		{"an absent level is no current value", 0, 0, with(is(bob, "join"), powers(`{"state_default":10,"users":{"`+bob+`":10}}`)), pl, "", bob, `{"ban":10,"state_default":10,"users":{"` + bob + `":10}}`, true},
		{"an event level above the own removed", 0, 0, with(is(bob, "join"), powers(`{"events":{"m.x":60},"users":{"`+bob+`":50}}`)), pl, "", bob, `{"users":{"` + bob + `":50}}`, false},
		{"an event level set above the own", 0, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"events":{"m.x":60},"users":{"` + bob + `":50}}`, false},
		{"a notification level above the own", 6, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"notifications":{"room":60},"users":{"` + bob + `":50}}`, false},
		{"notification levels are free before v6", 0, 5, with(is(bob, "join"), powers(`{"users":{"`+bob+`":50}}`)), pl, "", bob, `{"notifications":{"room":60},"users":{"` + bob + `":50}}`, true},
		{"a creator's level cannot be set", 12, 0, none, pl, "", alice, `{"users":{"` + alice + `":100}}`, false},
		{"creators are above all levels", 12, 0, powers(`{"state_default":9007199254740991}`), "m.room.topic", "", alice, `{}`, true},
		{"creators cannot be kicked", 12, 0, with(is(bob, "join"), powers(`{"users":{"`+bob+`":9007199254740991}}`)), mem, alice, bob, m("leave"), false},
		{"before v12 the creator loses power", 0, 11, powers(`{"users":{}}`), "m.room.topic", "", alice, `{}`, false},
	}
}

func TestRules(t *testing.T) {
	for _, v := range event.Versions() {
		for _, c := range ruleCases() {
			if !atLeast(v, c.since) || c.until != 0 && atLeast(v, c.until+1) {
				continue
			}
			t.Run(v+"/"+c.name, func(t *testing.T) {
				r := newTestRoom(t, v)
				c.setup(r)
				err := Check(r.build(c.evType, c.key, c.sender, c.content), r)
				if (err == nil) != c.allowed {
					t.Errorf("Check: %v, want allowed = %v", err, c.allowed)
				}
			})
		}
	}
}

func TestFederate(t *testing.T) {
	for _, v := range event.Versions() {
		r := newTestRoom(t, v)
		r.prev = nil
		create := r.put("m.room.create", "", alice, `{"creator":"`+alice+`","m.federate":false}`)
		r.id, r.prev = create.Room(), []string{"$x:a.example"}
		r.rule("public")
		if err := Check(r.build("m.room.member", bob, bob, m("join")), r); err == nil {
			t.Errorf("%s: another server's user joined a room that does not federate", v)
		}
		if err := Check(r.build("m.room.member", carol, carol, m("join")), r); err != nil {
			t.Errorf("%s: %v", v, err)
		}
	}
}

func TestCreate(t *testing.T) {
	for _, c := range []struct {
		name, version, room, content string
		prev                         []string
		allowed                      bool
	}{
		{"v1", "1", "!r:a.example", `{"creator":"@alice:a.example"}`, nil, true},
		{"with prev_events", "10", "!r:a.example", `{"creator":"@alice:a.example"}`, []string{"$x:a.example"}, false},
		{"room of another server", "10", "!r:b.example", `{"creator":"@alice:a.example"}`, nil, false},
		{"room id without domain", "10", "!r", `{"creator":"@alice:a.example"}`, nil, false},
		{"no creator", "10", "!r:a.example", `{}`, nil, false},
		{"no creator, v11", "11", "!r:a.example", `{}`, nil, true},
		{"unknown version", "11", "!r:a.example", `{"room_version":"99"}`, nil, false},
		{"version is a number", "11", "!r:a.example", `{"room_version":11}`, nil, false},
		{"v12", "12", "", `{"room_version":"12"}`, nil, true},
		{"v12 with room id", "12", "!r", `{}`, nil, false},
		{"v12 with empty room id", "12", "empty", `{}`, nil, false},
		{"additional creators", "12", "", `{"additional_creators":["@bob:b.example"]}`, nil, true},
		{"additional creators is text", "12", "", `{"additional_creators":"oops"}`, nil, false},
		{"additional creators is null", "12", "", `{"additional_creators":null}`, nil, false},
		{"additional creators holds a number", "12", "", `{"additional_creators":["@bob:b.example",1]}`, nil, false},
		{"additional creators holds a word", "12", "", `{"additional_creators":["bob"]}`, nil, false},
		{"additional creators before v12", "11", "!r:a.example", `{"additional_creators":"oops"}`, nil, true},
	} {
		r := &testRoom{t: t, v: version(t, c.version)}
		fields := map[string]any{"type": "m.room.create", "state_key": "", "sender": alice, "content": json.RawMessage(c.content),
			"depth": 1, "origin_server_ts": 1, "auth_events": []string{}, "prev_events": refs(r.v, c.prev), "hashes": map[string]string{}, "signatures": map[string]string{}}
		if c.room != "" {
			fields["room_id"] = strings.TrimPrefix(c.room, "empty")
		}
		if r.v.References {
			fields["event_id"] = "$c:a.example"
		}
		if err := Check(r.stored("$c:a.example", fields), NewState(nil)); (err == nil) != c.allowed {
			t.Errorf("%s: %v, want allowed = %v", c.name, err, c.allowed)
		}
	}
}

func TestAdditionalCreators(t *testing.T) {
	r := newTestRoom(t, "12")
	r.prev = nil
	create := r.put("m.room.create", "", alice, `{"additional_creators":["`+bob+`"]}`)
	r.id, r.prev = create.Room(), []string{"$x:a.example"}
	r.member(alice, Join)
	r.member(bob, Join)
	r.powers(`{"users":{"` + carol + `":100}}`)
	powers := PowerLevels(r)
	if powers.UserLevel(bob) != Infinite || powers.UserLevel(alice) != Infinite || powers.UserLevel(carol) != 100 || !powers.IsCreator(bob) {
		t.Errorf("levels: %d %d %d", powers.UserLevel(bob), powers.UserLevel(alice), powers.UserLevel(carol))
	}
	if err := Check(r.build("m.room.power_levels", "", alice, `{"users":{"`+bob+`":1}}`), r); err == nil {
		t.Error("an additional creator's level was set")
	}
	if err := Check(r.build("m.room.member", bob, alice, m("ban")), r); err == nil {
		t.Error("a creator was banned by a creator")
	}
}

func TestOtherRoom(t *testing.T) {
	for _, v := range event.Versions() {
		r := newTestRoom(t, v)
		r.id = "!other:a.example"
		if err := Check(r.build("m.room.message", "-", alice, `{}`), r); err == nil {
			t.Errorf("%s: an event of another room passed", v)
		}
		delete(r.events, Tuple{"m.room.create", ""})
		if err := Check(r.build("m.room.message", "-", alice, `{}`), r); err == nil {
			t.Errorf("%s: an event passed without m.room.create", v)
		}
	}
}

func TestRedactionOfOwnServer(t *testing.T) {
	for _, v := range []string{"1", "2"} {
		r := newTestRoom(t, v)
		r.member(bob, Join)
		fields := func(target string) map[string]any {
			return map[string]any{"type": "m.room.redaction", "sender": bob, "room_id": r.id, "content": map[string]any{}, "depth": 9, "origin_server_ts": 9,
				"redacts": target, "event_id": "$r:b.example", "auth_events": []string{}, "prev_events": refs(r.v, []string{"$x:a.example"}),
				"hashes": map[string]string{}, "signatures": map[string]string{}}
		}
		if err := Check(r.stored("$r:b.example", fields("$t:b.example")), r); err != nil {
			t.Errorf("%s: own server's event: %v", v, err)
		}
		if err := Check(r.stored("$r:b.example", fields("$t:a.example")), r); err == nil {
			t.Errorf("%s: another server's event was redacted", v)
		}
	}
}

func TestMayRedact(t *testing.T) {
	r := newTestRoom(t, "11")
	own := r.build("m.room.message", "-", bob, `{}`)
	other := r.build("m.room.message", "-", alice, `{}`)
	redaction := r.build("m.room.redaction", "-", bob, `{}`)
	if !MayRedact(redaction, own, PowerLevels(r)) || MayRedact(redaction, other, PowerLevels(r)) {
		t.Error("without power one redacts one's own server's events alone")
	}
	r.powers(`{"users":{"` + bob + `":50}}`)
	if !MayRedact(redaction, other, PowerLevels(r)) {
		t.Error("at the redact level one redacts any event")
	}
	r.id = "!other:a.example"
	if MayRedact(redaction, r.build("m.room.message", "-", bob, `{}`), PowerLevels(r)) {
		t.Error("an event of another room was redacted")
	}
}

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		version, content string
		want             int64
		ok               bool
	}{
		{"5", `{"ban":7}`, 7, true}, {"5", `{"ban":"7"}`, 7, true}, {"5", `{"ban":" 007\t"}`, 7, true}, {"5", `{"ban":"-7"}`, -7, true},
		{"5", `{"ban":"+7"}`, 7, true}, {"5", `{"ban":"+-7"}`, 50, false}, {"5", `{"ban":"- 7"}`, 50, false}, {"5", `{"ban":"7.0"}`, 50, false},
		{"5", `{"ban":"1_000"}`, 50, false}, {"5", `{"ban":""}`, 50, false}, {"5", `{"ban":null}`, 50, false}, {"5", `{"ban":[]}`, 50, false},
		{"5", `{"ban":51146.98}`, 51146, true}, {"5", `{"ban":5.114698E4}`, 51146, true}, {"5", `{"ban":-0.9}`, 0, true},
		{"5", `{"ban":1e300}`, levelLimit, true}, {"5", `{"ban":-1e300}`, -levelLimit, true},
		{"5", `{"ban":"99999999999999999999"}`, levelLimit, true}, {"5", `{"ban":"-99999999999999999999"}`, -levelLimit, true},
		{"9", `{"ban":"7"}`, 7, true}, {"10", `{"ban":7}`, 7, true}, {"10", `{"ban":"7"}`, 50, false}, {"12", `{"ban":null}`, 50, false},
	} {
		r := newTestRoom(t, c.version)
		e := r.put("m.room.power_levels", "", alice, `{}`)
		raw := strings.Replace(string(e.JSON()), `"content":{}`, `"content":`+c.content, 1)
		e, err := event.FromStored(r.v, e.EventID(), []byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		l, err := parseLevels(e)
		if (err == nil) != c.ok || l.scalars[banLevel] != c.want {
			t.Errorf("v%s %s: ban %d, %v; want %d, ok = %v", c.version, c.content, l.scalars[banLevel], err, c.want, c.ok)
		}
	}
}

func TestPowerDefaults(t *testing.T) {
	r := newTestRoom(t, "11")
	p := PowerLevels(r)
	got := []int64{p.UserLevel(alice), p.UserLevel(bob), p.Invite(), p.Kick(), p.Ban(), p.Redact(), p.EventLevel("m.x", true), p.EventLevel("m.x", false), p.Notification("room")}
	if want := "[100 0 0 50 50 50 50 0 50]"; fmt.Sprint(got) != want {
		t.Errorf("without power levels: %v, want %v", got, want)
	}
	r.powers(`{"invite":1,"kick":2,"ban":3,"redact":4,"state_default":5,"events_default":6,"users_default":7,"events":{"m.x":8},"notifications":{"room":9}}`)
	p = PowerLevels(r)
	got = []int64{p.UserLevel(alice), p.Invite(), p.Kick(), p.Ban(), p.Redact(), p.EventLevel("m.y", true), p.EventLevel("m.y", false), p.EventLevel("m.x", true), p.Notification("room")}
	if want := "[7 1 2 3 4 5 6 8 9]"; fmt.Sprint(got) != want {
		t.Errorf("with power levels: %v, want %v", got, want)
	}
}

func TestParseReuses(t *testing.T) {
	r := newTestRoom(t, "11")
	p := Parse(r, nil)
	if Parse(r, p) != p {
		t.Error("an unchanged state was parsed again")
	}
	r.powers(`{"ban":1}`)
	p2 := Parse(r, p)
	if p2 == p || p2.Powers().Ban() != 1 || p.Powers().Ban() != 50 {
		t.Error("changed power levels were not parsed, or the old ones changed")
	}
	r.rule("public")
	if p3 := Parse(r, p2); p3.JoinRule() != "public" || p3.Powers() != p2.Powers() {
		t.Error("changed join rules were not parsed, or power levels were parsed again")
	}
}
