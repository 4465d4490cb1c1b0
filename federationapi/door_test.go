package federationapi_test

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func TestForgedRequestsAreRefused(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		forger := event.Signer{Server: b.name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))}
		path := "/_matrix/federation/v1/make_join/" + room + "/" + b.user("bob") + "?ver=12"
		if status, answer := b.callAs(forger, a, "GET", path, ""); status != 401 || gjson.Get(answer, "errcode").Str != "M_UNAUTHORIZED" {
			t.Errorf("%d %s", status, answer)
		}
		if status, answer := b.call(a, "GET", path, ""); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
		if status, answer := b.call(a, "GET", strings.Replace(path, "bob:b.test", "bob:c.test", 1), ""); status != 403 {
			t.Errorf("for another server's user: %d %s", status, answer)
		}
		if status, answer := b.call(a, "GET", strings.TrimSuffix(path, "12")+"10", ""); status != 400 ||
			gjson.Get(answer, "errcode").Str != "M_INCOMPATIBLE_ROOM_VERSION" || gjson.Get(answer, "room_version").Str != "12" {
			t.Errorf("with another version: %d %s", status, answer)
		}
		if status, _ := b.call(a, "GET", "/_matrix/federation/v1/make_join/!none:a.test/"+b.user("bob")+"?ver=12", ""); status != 404 {
			t.Errorf("an unknown room: %d", status)
		}
	})
}

// forge makes an event of a user in a room on its newest state, signed by signer.
func (n *node) forge(room, sender, typ, content string, signer event.Signer) *event.Event {
	n.t.Helper()
	return n.forgeEvent(event.Builder{Type: typ, Sender: sender, RoomID: room, Content: json.RawMessage(content)}, signer)
}

// forgeState is forge for state with an empty key.
func (n *node) forgeState(room, sender, typ, content string) *event.Event {
	n.t.Helper()
	key := ""
	return n.forgeEvent(event.Builder{Type: typ, StateKey: &key, Sender: sender, RoomID: room, Content: json.RawMessage(content)}, n.signer)
}

func (n *node) forgeEvent(build event.Builder, signer event.Signer) *event.Event {
	n.t.Helper()
	room := build.RoomID
	key, err := n.rooms.Room(n.t.Context(), room)
	must(n.t, err)
	v, err := n.rooms.Current(n.t.Context(), room)
	must(n.t, err)
	build.Version, build.TS = key.Version, 1_700_000_000_000
	events, _, err := n.rooms.Timeline(n.t.Context(), room, 0, n.hub.Published(), 1)
	must(n.t, err)
	build.PrevEvents, build.Depth = []string{events[0].ID}, events[0].Depth+1
	must(n.t, n.db.Read(n.t.Context(), func(tx *sqldb.Tx) error {
		for _, t := range []store.Tuple{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.member", Key: build.Sender}} {
			e, err := n.rooms.StateEvent(tx, v, t.Type, t.Key)
			if err != nil {
				return err
			}
			if e != nil && !(key.Version.DomainlessRoomIDs && t.Type == "m.room.create") {
				build.AuthEvents = append(build.AuthEvents, e.ID)
			}
		}
		return nil
	}))
	e, err := build.Build(signer)
	must(n.t, err)
	return e
}

func (n *node) transact(to *node, txn string, pdus []string, edus []string) (int, string) {
	return n.call(to, "PUT", "/_matrix/federation/v1/send/"+txn,
		fmt.Sprintf(`{"edus":[%s],"origin":%q,"origin_server_ts":1,"pdus":[%s]}`, strings.Join(edus, ","), n.name, strings.Join(pdus, ",")))
}

func TestForgedEventsAreRefused(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		good := b.forge(room, b.user("bob"), "m.room.message", `{"body":"mine"}`, b.signer)
		forged := b.forge(room, a.user("alice"), "m.room.message", `{"body":"not hers"}`, b.signer)
		tampered := b.forge(room, b.user("bob"), "m.room.message", `{"body":"tampered with"}`, event.Signer{Server: b.name, KeyID: "ed25519:1",
			Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))})
		status, answer := b.transact(a, "t1", []string{string(forged.JSON()), string(tampered.JSON()), `{"room_id":"!x"}`, "7", string(good.JSON())}, nil)
		if status != 200 {
			t.Fatalf("%d %s", status, answer)
		}
		results := gjson.Get(answer, "pdus").Map()
		for _, e := range []*event.Event{forged, tampered} {
			if results[e.EventID()].Get("error").Str == "" || a.has(room, e.EventID()) {
				t.Errorf("a forged event was taken: %s", answer)
			}
		}
		if r, ok := results[good.EventID()]; !ok || r.Get("error").Exists() || !a.has(room, good.EventID()) {
			t.Errorf("a good event among bad ones: %s", answer)
		}
		if _, again := b.transact(a, "t1", []string{string(good.JSON())}, nil); again != answer {
			t.Errorf("the transaction again: %s, at first %s", again, answer)
		}
	})
}

func TestBoundsOfTransactions(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		pdu, edu := `{"room_id":"!x:a.test"}`, `{"content":{},"edu_type":"m.unknown"}`
		for _, c := range []struct{ pdus, edus, want int }{{50, 100, 200}, {51, 0, 400}, {0, 101, 400}, {0, 0, 200}} {
			txn := fmt.Sprintf("%d-%d", c.pdus, c.edus)
			status, answer := b.transact(a, txn, repeat(pdu, c.pdus), repeat(edu, c.edus))
			if status != c.want {
				t.Errorf("%s: %d %s", txn, status, answer)
			}
		}
		if status, answer := b.call(a, "PUT", "/_matrix/federation/v1/send/x", `{"pdus":{}}`); status != 400 {
			t.Errorf("%d %s", status, answer)
		}
		if status, answer := b.call(a, "PUT", "/_matrix/federation/v1/send/y", `{"pdus":[],"edus":[7,{"edu_type":1},{}]}`); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
	})
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

func TestServerACL(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		before := b.forge(room, b.user("bob"), "m.room.message", `{"body":"too late"}`, b.signer)
		a.setState(room, a.user("alice"), "m.room.server_acl", `{"allow":["*"],"deny":["b.test"]}`)
		status, answer := b.transact(a, "t1", []string{string(before.JSON())}, nil)
		if status != 200 || gjson.Get(answer, "pdus."+gjsonKey(before.EventID())+".error").Str == "" || a.has(room, before.EventID()) {
			t.Errorf("%d %s", status, answer)
		}
		const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
		for _, c := range []struct{ method, path, body string }{
			{"GET", v1 + "/make_join/" + room + "/" + b.user("eve") + "?ver=12", ""},
			{"GET", v1 + "/make_leave/" + room + "/" + b.user("bob"), ""},
			{"GET", v1 + "/make_knock/" + room + "/" + b.user("eve") + "?ver=12", ""},
			{"PUT", v2 + "/send_join/" + room + "/$x", "{}"},
			{"PUT", v1 + "/send_join/" + room + "/$x", "{}"},
			{"PUT", v2 + "/send_leave/" + room + "/$x", "{}"},
			{"PUT", v1 + "/send_leave/" + room + "/$x", "{}"},
			{"PUT", v1 + "/send_knock/" + room + "/$x", "{}"},
			{"GET", v1 + "/event/" + before.PrevEventIDs()[0], ""},
			{"GET", v1 + "/event_auth/" + room + "/$x", ""},
			{"GET", v1 + "/state/" + room + "?event_id=$x", ""},
			{"GET", v1 + "/state_ids/" + room + "?event_id=$x", ""},
			{"GET", v1 + "/backfill/" + room + "?limit=1&v=$x", ""},
			{"POST", v1 + "/get_missing_events/" + room, `{"earliest_events":[],"latest_events":[]}`},
			{"GET", v1 + "/timestamp_to_event/" + room + "?ts=0&dir=f", ""},
		} {
			if status, answer := b.call(a, c.method, c.path, c.body); status != 403 {
				t.Errorf("%s %s: %d %s", c.method, c.path, status, answer)
			}
		}
	})
}

// gjsonKey escapes a key for a path of gjson.
func gjsonKey(key string) string { return strings.NewReplacer(".", `\.`, "*", `\*`).Replace(key) }

func TestDirectories(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		big := a.create(roomserver.CreateRequest{Preset: "public_chat", Public: true, Alias: "#big:a.test", Name: "The big one", Topic: "cats"})
		small := a.create(roomserver.CreateRequest{Preset: "public_chat", Public: true, Name: "The small one",
			CreationContent: map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}})
		a.create(roomserver.CreateRequest{Name: "hidden"})
		must(t, b.join("#big:a.test", b.user("bob")))
		a.knows(big, b.user("bob"), "join")

		list := func(method, query, body string) gjson.Result {
			t.Helper()
			status, answer := b.call(a, method, "/_matrix/federation/v1/publicRooms"+query, body)
			if status != 200 {
				t.Fatalf("%d %s", status, answer)
			}
			return gjson.Parse(answer)
		}
		all := list("GET", "", "")
		first := all.Get("chunk.0")
		if all.Get("chunk.#").Int() != 2 || first.Get("room_id").Str != big || first.Get("num_joined_members").Int() != 2 || first.Get("topic").Str != "cats" ||
			first.Get("canonical_alias").Str != "#big:a.test" || first.Get("join_rule").Str != "public" || !first.Get("world_readable").Exists() {
			t.Errorf("%s", all.Raw)
		}
		page := list("GET", "?limit=1", "")
		if page.Get("chunk.#").Int() != 1 || page.Get("next_batch").Str == "" || page.Get("total_room_count_estimate").Int() != 2 {
			t.Errorf("%s", page.Raw)
		}
		if next := list("GET", "?limit=1&since="+page.Get("next_batch").Str, ""); next.Get("chunk.0.room_id").Str != small || next.Get("next_batch").Exists() {
			t.Errorf("%s", next.Raw)
		}
		for body, want := range map[string]string{
			`{"filter":{"generic_search_term":"CATS"}}`:   big,
			`{"filter":{"room_types":["m.space"]}}`:       small,
			`{"filter":{"room_types":[null]},"limit":10}`: big,
		} {
			if got := list("POST", "", body); got.Get("chunk.#").Int() != 1 || got.Get("chunk.0.room_id").Str != want {
				t.Errorf("%s: %s", body, got.Raw)
			}
		}
		for path, want := range map[string]int{
			"/query/directory?room_alias=%23big:a.test": 200, "/query/directory?room_alias=%23none:a.test": 404, "/query/directory": 400,
			"/query/directory?room_alias=%23big:b.test": 404, "/query/profile?user_id=@nobody:a.test": 404, "/query/profile": 400,
			"/query/profile?user_id=@x:b.test": 404, "/query/profile?user_id=@x:a.test:http": 400, "/openid/userinfo": 401, "/openid/userinfo?access_token=x": 401, "/version": 200,
			"/publicRooms?since=x": 400,
		} {
			if status, answer := b.call(a, "GET", "/_matrix/federation/v1"+path, ""); status != want {
				t.Errorf("%s: %d %s", path, status, answer)
			}
		}
	})
}

func TestQueriesOfOtherTypes(t *testing.T) {
	w := newWorld(t, sqldb.SQLite)
	a, b := w.add("a.test"), w.add("b.test")
	const path = "/_matrix/federation/v1/query/weather"
	if status, answer := b.call(a, "GET", path, ""); status != 404 || gjson.Get(answer, "errcode").Str != "M_UNRECOGNIZED" {
		t.Errorf("%d %s", status, answer)
	}
	forger := event.Signer{Server: b.name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))}
	if status, answer := b.callAs(forger, a, "GET", path, ""); status != 401 {
		t.Errorf("to nobody: %d %s", status, answer)
	}
}
