package federationapi_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
)

// lie is a PDU that must not be taken, made from a good one.
type lie struct{ name, pdu string }

func lies(good *event.Event) []lie {
	text := string(good.JSON())
	swap := func(old, with string) string {
		if !strings.Contains(text, old) {
			panic("the event has no " + old)
		}
		return strings.Replace(text, old, with, 1)
	}
	depth := fmt.Sprintf(`"depth":%d`, gjson.Get(text, "depth").Int())
	field := func(f string) string { return swap(`"content":{`, `"content":{`+f+`,`) }
	return []lie{
		{"absurd depth", swap(depth, `"depth":9223372036854775808`)},
		{"negative depth", swap(depth, `"depth":-1`)},
		{"a fraction", field(`"aa":1.5`)},
		{"a number out of range", field(`"aa":1e400`)},
		{"an absurd time", swap(`"origin_server_ts":`, `"origin_server_ts":9`+strings.Repeat("9", 20))},
		{"prev events that are no list", swap(`"prev_events":[`, `"prev_events":{},"x":[`)},
		{"no sender", swap(`"sender":`, `"sendes":`)},
		{"a sender with U+0000", swap(`"sender":"@`, `"sender":"@\u0000`)},
		{"a type of 256 bytes", swap(`"type":"`, `"type":"`+strings.Repeat("t", 256))},
		{"a room id with U+0000", swap(`"room_id":"!`, `"room_id":"!\u0000`)},
		{"another room", swap(`"room_id":"!`, `"room_id":"!other`)},
		{"a key twice", field(`"aa":1,"aa":2`)},
		{"a key twice, which matters", swap(`"type":"`, `"type":"m.room.topic","type":"`)},
		{"not UTF-8", field("\"aa\":\"\xff\xfe\"")},
		{"half a surrogate pair", field(`"aa":"\ud800"`)},
		{"nested without end", field(`"aa":` + strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000))},
		{"objects nested without end", field(`"aa":` + strings.Repeat(`{"a":`, 50_000) + "1" + strings.Repeat("}", 50_000))},
		{"no value", `{"room_id":}`}, {"a word", `nil`}, {"NaN", field(`"aa":NaN`)},
		{"a string", `"event"`}, {"null", `null`}, {"a list", `[[]]`}, {"nothing", `{}`},
	}
}

// TestLiesAmongPDUs sends each lie before a good event: the transaction is answered, the good event taken, the room as
// it was, and the lie nowhere.
func TestLiesAmongPDUs(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat", Version: "10"})
		must(t, b.join(room, b.user("bob"), a))
		before := a.state(room, "m.room.join_rules", "join_rule")
		for i, l := range lies(b.forge(room, b.user("bob"), "m.room.message", `{"body":"x"}`, b.signer)) {
			good := b.forge(room, b.user("bob"), "m.room.message", fmt.Sprintf(`{"body":"good %d"}`, i), b.signer)
			status, answer := b.transact(a, fmt.Sprint("lie", i), []string{l.pdu, string(good.JSON())}, nil)
			has := a.has(room, good.EventID())
			for tries := 0; !has && tries < 100; tries++ { // an answer may come before the event has its place
				time.Sleep(50 * time.Millisecond)
				has = a.has(room, good.EventID())
			}
			if status != 200 || gjson.Get(answer, "pdus."+gjsonKey(good.EventID())+".error").Exists() || !has {
				t.Errorf("%s: %d %s", l.name, status, answer)
				continue
			}
			for id, r := range gjson.Get(answer, "pdus").Map() {
				if id != good.EventID() && (r.Get("error").Str == "" || a.has(room, id)) {
					t.Errorf("%s: taken: %s", l.name, answer)
				}
			}
		}
		if after := a.state(room, "m.room.join_rules", "join_rule"); after != before || a.is(room, b.user("bob")) != "join" {
			t.Errorf("the room changed: %s, was %s", after, before)
		}
		a.sees(room, b.say(room, b.user("bob"), "the servers still talk"))
	})
}

// TestContentThatWasChanged sends events whose content is not what was hashed, however it was changed: they are taken
// without it, as servers do for redacted events.
func TestContentThatWasChanged(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat", Version: "10"})
		must(t, b.join(room, b.user("bob"), a))
		for name, value := range map[string]string{
			"large": `"` + strings.Repeat("x", 64<<10+1) + `"`, "deep": strings.Repeat("[", 900) + strings.Repeat("]", 900), "other": `"y"`,
		} {
			e := b.forge(room, b.user("bob"), "m.room.message", `{"body":"`+name+`"}`, b.signer)
			changed := strings.Replace(string(e.JSON()), `"content":{`, `"content":{"aa":`+value+`,`, 1)
			status, answer := b.transact(a, name, []string{changed}, nil)
			if status != 200 || !a.has(room, e.EventID()) {
				t.Fatalf("%s: %d %s", name, status, answer)
			}
			must(t, a.db.Read(t.Context(), func(tx *sqldb.Tx) error {
				stored, err := a.rooms.Store.EventByID(tx, e.EventID())
				if err == nil && string(stored.Event.ContentJSON()) != "{}" {
					t.Errorf("%s: the content is there: %.100s", name, stored.Event.ContentJSON())
				}
				return err
			}))
		}
	})
}

// TestEventsOfABannedServer sends messages and a join of users that a ban or an ACL keeps out.
func TestEventsOfABannedServer(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat", Version: "10"})
		must(t, b.join(room, b.user("bob"), a))
		early := b.forge(room, b.user("bob"), "m.room.message", `{"body":"as if before the ban"}`, b.signer)
		must(t, a.membership(room, a.user("alice"), b.user("bob"), "ban"))
		if status, answer := b.transact(a, "banned", []string{string(early.JSON())}, nil); status != 200 || a.has(room, early.EventID()) {
			t.Errorf("an event beside a ban was delivered: %d %s", status, answer)
		}
		path := "/_matrix/federation/v1/make_join/" + room + "/" + b.user("bob") + "?ver=10"
		if status, answer := b.call(a, "GET", path, ""); status != 403 || gjson.Get(answer, "errcode").Str != "M_FORBIDDEN" {
			t.Errorf("a banned user gets a join: %d %s", status, answer)
		}
		a.setState(room, a.user("alice"), "m.room.server_acl", `{"allow":["*"],"deny":["b.test"]}`)
		status, answer := b.transact(a, "denied", []string{string(early.JSON())}, []string{
			`{"edu_type":"m.typing","content":{"room_id":` + quoted(room) + `,"user_id":"@bob:b.test","typing":true}}`,
			`{"edu_type":"m.typing","content":[[[[]]]]}`,
		})
		errs := gjson.Get(answer, "pdus").Map()
		if status != 200 || !strings.Contains(errs[early.EventID()].Get("error").Str, "ACL") {
			t.Errorf("an event of a denied server: %d %s", status, answer)
		}
		if a.is(room, b.user("bob")) != "ban" {
			t.Error("the ban is gone")
		}
	})
}

func quoted(s string) string {
	b, _ := json.Marshal(s) // a string always can be
	return string(b)
}

// TestForgedHeaders makes requests whose signature is right for something else.
func TestForgedHeaders(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		path := "/_matrix/federation/v1/query/profile?user_id=@alice:a.test"
		for _, to := range []*node{b, c} {
			// Signed for another server than the one that gets it.
			other := &node{name: to.name}
			other.door.Store(a.door.Load())
			from := b
			if to == b {
				from = c
			}
			if status, answer := from.call(other, "GET", path, ""); status != 401 || gjson.Get(answer, "errcode").Str != "M_UNAUTHORIZED" {
				t.Errorf("meant for %s: %d %s", to.name, status, answer)
			}
		}
		// Signed by a server in another's name.
		liar := event.Signer{Server: b.name, KeyID: c.signer.KeyID, Key: c.signer.Key}
		if status, answer := b.callAs(liar, a, "GET", path, ""); status != 401 {
			t.Errorf("in another's name: %d %s", status, answer)
		}
		if codes := []int{200, 404}; !slices.Contains(codes, first(b.call(a, "GET", path, ""))) {
			t.Error("an honest request is refused")
		}
	})
}

func first(status int, _ string) int { return status }
