package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"knock/internal/httpx"
	"knock/internal/relations"
	"knock/internal/search"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

// node is a room server with this door in front. Tokens are "user" or
// "user:device"; guests begin with "guest".
type node struct {
	t      testing.TB
	s      *roomserver.Server
	hub    *stream.Hub
	o      Options
	router http.Handler
	txn    atomic.Int64

	replaced []string // rooms of which settings were taken along
}

func newNode(t testing.TB, db *sqldb.DB) *node {
	t.Helper()
	pos, err := db.Position(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	hub := stream.New(pos)
	db.OnPublish(hub.Advance)
	signer := event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))}
	rows := store.New(store.Options{DB: db})
	index := relations.NewIndex(rows)
	s := roomserver.New(roomserver.Options{ServerName: "hs", Signer: signer, Store: rows, Hub: hub, Profiles: profiles{},
		Participants: []roomserver.Participant{index}})
	if err := s.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, s: s, hub: hub}
	related := relations.NewReader(relations.Options{Rooms: s})
	n.o = Options{ServerName: "hs", Rooms: s, DB: db, Hub: hub, SyncPosition: syncPosition, Check: index.Check,
		Search: search.New(search.Options{Rooms: s, Relations: related}), Related: related.Related,
		Replaced: func(_ context.Context, user, old, room string) error {
			n.replaced = append(n.replaced, user+" "+old+" "+room)
			return nil
		}}
	n.router = shapes.Watched(t, httpx.NewRouter(New(n.o).Routes(), httpx.Hooks{Authenticate: authenticate}))
	return n
}

func syncPosition(token string) (pos int64, ok bool) {
	_, err := fmt.Sscanf(token, "s%d", &pos)
	return pos, err == nil
}

func authenticate(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
	user, device, _ := strings.Cut(token, ":")
	return httpx.Caller{UserID: "@" + user + ":hs", DeviceID: device, Guest: strings.HasPrefix(user, "guest"), Admin: user == "admin"}, nil
}

type profiles struct{}

func (profiles) MemberProfile(_ context.Context, userID string) (string, string, error) {
	return strings.ToUpper(event.LocalpartOf(userID)), "mxc://hs/" + event.LocalpartOf(userID), nil
}

func (profiles) Exists(context.Context, string) bool { return true }

func each(t *testing.T, fn func(t *testing.T, n *node)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { fn(t, newNode(t, db)) })
}

type answer = map[string]any

func (n *node) raw(token, method, path, body string) (int, []byte) {
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+token)
	rec := httptest.NewRecorder()
	n.router.ServeHTTP(rec, req)
	return rec.Code, rec.Body.Bytes()
}

// expect does a request and checks the status and the error code.
func (n *node) expect(status int, code, token, method, path, body string) answer {
	n.t.Helper()
	got, data := n.raw(token, method, path, body)
	var out answer
	if err := json.Unmarshal(data, &out); err != nil {
		n.t.Fatalf("%s %s: %d with %q", method, path, got, data)
	}
	if errcode, _ := out["errcode"].(string); got != status || errcode != code {
		n.t.Fatalf("%s %s %.200s as %s: %d %v, want %d %s", method, path, body, token, got, out, status, code)
	}
	return out
}

func (n *node) ok(token, method, path, body string) answer {
	n.t.Helper()
	return n.expect(200, "", token, method, path, body)
}

func (n *node) create(token, body string) string {
	n.t.Helper()
	return n.ok(token, "POST", v3+"createRoom", body)["room_id"].(string)
}

// in is the path of an endpoint of a room.
func in(room, path string) string { return v3 + "rooms/" + url.PathEscape(room) + "/" + path }

func (n *node) join(token, room string) {
	n.t.Helper()
	n.ok(token, "POST", in(room, "join"), `{}`)
}

// say sends a message and returns its event id.
func (n *node) say(token, room, text string) string {
	n.t.Helper()
	body, _ := json.Marshal(answer{"msgtype": "m.text", "body": text})
	return n.ok(token, "PUT", in(room, fmt.Sprintf("send/m.room.message/%d", n.txn.Add(1))), string(body))["event_id"].(string)
}

func (n *node) setState(token, room, typ, body string) string {
	n.t.Helper()
	return n.ok(token, "PUT", in(room, "state/"+typ), body)["event_id"].(string)
}

// content returns the content of a room's state.
func (n *node) content(token, room, typ string) answer {
	n.t.Helper()
	return n.ok(token, "GET", in(room, "state/"+typ), "")
}

func TestCreateRoom(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, c := range []struct {
			body   string
			status int
			code   string
		}{
			{`{"visibility":"secret"}`, 400, "M_BAD_JSON"},
			{`{"preset":"open"}`, 400, "M_BAD_JSON"},
			{`{"name":1}`, 400, "M_BAD_JSON"},
			{`[]`, 400, "M_BAD_JSON"},
			{`{`, 400, "M_NOT_JSON"},
			{``, 400, "M_NOT_JSON"},
			{`{"room_version":1}`, 400, "M_BAD_JSON"},
			{`{"room_version":"99"}`, 400, "M_UNSUPPORTED_ROOM_VERSION"},
			{`{"room_alias_name":"a b"}`, 400, "M_INVALID_PARAM"},
			{`{"room_alias_name":"a:b"}`, 400, "M_INVALID_PARAM"},
			{`{"room_alias_name":"` + strings.Repeat("a", 255) + `"}`, 400, "M_INVALID_PARAM"},
			{`{"invite":["bob"]}`, 400, "M_INVALID_PARAM"},
			{`{"invite":"@bob:hs"}`, 400, "M_BAD_JSON"},
			{`{"invite":[` + strings.Repeat(`"@b:hs",`, maxInvites) + `"@b:hs"]}`, 400, "M_INVALID_PARAM"},
			{`{"invite_3pid":[{"medium":"email","address":"a@b"}]}`, 403, "M_THREEPID_DENIED"},
			{`{"initial_state":[{"content":{}}]}`, 400, "M_BAD_JSON"},
			{`{"initial_state":[{"type":"a"}]}`, 400, "M_BAD_JSON"},
			{`{"initial_state":[{"type":"a","content":1}]}`, 400, "M_BAD_JSON"},
			{`{"initial_state":[{"type":"m.room.create","content":{}}]}`, 400, "M_INVALID_ROOM_STATE"},
			{`{"room_version":"11","power_level_content_override":{"users":{}},"name":"x"}`, 400, "M_INVALID_ROOM_STATE"},
			{`{"room_version":"12","power_level_content_override":{"users":{"@alice:hs":100}}}`, 400, "M_INVALID_ROOM_STATE"},
			{`{"room_version":"12","creation_content":{"additional_creators":["bob"]}}`, 400, "M_INVALID_PARAM"},
			{`{"initial_state":[{"type":"a","content":{"a":"` + strings.Repeat("x", 65_400) + `"}}]}`, 400, "M_INVALID_ROOM_STATE"},
			{`{"initial_state":[{"type":"a","content":{"a":1.5}}]}`, 400, "M_BAD_JSON"},
		} {
			n.expect(c.status, c.code, "alice", "POST", v3+"createRoom", c.body)
		}
		n.create("alice", `{"room_alias_name":"pub"}`)
		n.expect(400, "M_ROOM_IN_USE", "alice", "POST", v3+"createRoom", `{"room_alias_name":"pub"}`)
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", "guest1", "POST", v3+"createRoom", `{}`)
	})
}

func TestPresetsOfEveryVersion(t *testing.T) {
	presets := map[string][3]string{
		`{"preset":"private_chat"`:         {"invite", "shared", "can_join"},
		`{"preset":"trusted_private_chat"`: {"invite", "shared", "can_join"},
		`{"preset":"public_chat"`:          {"public", "shared", ""},
		`{"visibility":"public"`:           {"public", "shared", ""},
		`{"visibility":"private"`:          {"invite", "shared", "can_join"},
	}
	each(t, func(t *testing.T, n *node) {
		for _, v := range event.Versions() {
			for body, want := range presets {
				room := n.create("alice", body+fmt.Sprintf(`,"room_version":%q,"name":"N","topic":"T","invite":["@bob:hs","@bob:hs","@alice:hs"],"is_direct":true,
					"creation_content":{"m.federate":false,"creator":"@eve:hs","room_version":"0"},"initial_state":[{"type":"x.y","state_key":"k","content":{"a":1}}]}`, v))
				got := [3]string{}
				for i, typ := range []string{"join_rules/join_rule", "history_visibility/history_visibility", "guest_access/guest_access"} {
					typ, key, _ := strings.Cut(typ, "/")
					if want[i] == "" { // what holds without an event
						n.expect(404, "M_NOT_FOUND", "alice", "GET", in(room, "state/m.room."+typ), "")
						continue
					}
					got[i], _ = n.content("alice", room, "m.room."+typ)[key].(string)
				}
				create := n.content("alice", room, "m.room.create")
				bob := n.content("alice", room, "m.room.member/@bob:hs")
				switch {
				case got != want:
					t.Errorf("version %s, %s: %v", v, body, got)
				case create["room_version"] != v || create["m.federate"] != false || create["creator"] == "@eve:hs":
					t.Errorf("version %s: m.room.create %v", v, create)
				case n.content("alice", room, "m.room.name")["name"] != "N" || n.content("alice", room, "x.y/k")["a"] != 1.0:
					t.Errorf("version %s: state is missing", v)
				case bob["membership"] != "invite" || bob["is_direct"] != true || bob["displayname"] != "BOB":
					t.Errorf("version %s: bob %v", v, bob)
				}
				n.join("bob", room)
				power := 0
				if strings.Contains(body, "trusted") {
					power = 100
				}
				status, _ := n.raw("bob", "PUT", in(room, "state/m.room.power_levels"), `{"users":{"@bob:hs":100,"@alice:hs":100}}`)
				if v != "12" && (status == 200) != (power == 100) {
					t.Errorf("version %s, %s: bob sets power levels: %d", v, body, status)
				}
			}
		}
	})
}

func TestSend(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		const path = "send/m.room.message/"
		first := n.ok("alice:A", "PUT", in(room, path+"1"), `{"body":"a"}`)
		if again := n.ok("alice:A", "PUT", in(room, path+"1"), `{"body":"b"}`); again["event_id"] != first["event_id"] {
			t.Errorf("a repeated transaction made %v, then %v", first, again)
		}
		if other := n.ok("alice:B", "PUT", in(room, path+"1"), `{"body":"b"}`); other["event_id"] == first["event_id"] {
			t.Error("another device's transaction made the same event")
		}
		n.expect(400, "M_NOT_JSON", "alice", "PUT", in(room, path+"2"), `{`)
		n.expect(400, "M_NOT_JSON", "alice", "PUT", in(room, path+"2"), ``)
		n.expect(400, "M_BAD_JSON", "alice", "PUT", in(room, path+"2"), `[1]`)
		n.expect(400, "M_BAD_JSON", "alice", "PUT", in(room, path+"2"), `{"a":1.5}`)
		n.expect(400, "M_BAD_JSON", "alice", "PUT", in(room, path+"2"), `{"a":9007199254740992}`)
		n.expect(413, "M_TOO_LARGE", "alice", "PUT", in(room, path+"2"), `{"a":"`+strings.Repeat("x", 65_400)+`"}`)
		n.expect(413, "M_TOO_LARGE", "alice", "PUT", in(room, path+"2"), `{"a":"`+strings.Repeat("x", 70_000)+`"}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", in(room, path+"2"), `{}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", in("!none:hs", path+"2"), `{}`)
		n.expect(403, "M_FORBIDDEN", "alice", "PUT", in(room, "send/m.room.create/3"), `{}`)
		n.expect(403, "M_FORBIDDEN", "alice", "PUT", in(room, "send/m.room.member/3"), `{"membership":"join"}`)
		e := n.ok("alice:A", "GET", in(room, "event/"+first["event_id"].(string)), "")
		if e["content"].(answer)["body"] != "a" || e["unsigned"].(answer)["transaction_id"] != "1" || e["room_id"] != room {
			t.Errorf("the event is %v", e)
		}
	})
}

func TestRedact(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, v := range []string{"1", "9", "11", "12"} {
			room := n.create("alice", `{"preset":"public_chat","room_version":"`+v+`"}`)
			n.join("bob", room)
			id, bobs := n.say("alice", room, "secret"), n.say("bob", room, "secret")
			elsewhere := n.create("alice", `{}`)
			other := n.say("alice", elsewhere, "elsewhere")
			redact := func(id, txn string) string { return in(room, "redact/"+url.PathEscape(id)+"/"+txn) }
			n.expect(403, "M_FORBIDDEN", "bob", "PUT", redact(id, "1"), `{}`)
			n.expect(403, "M_FORBIDDEN", "eve", "PUT", redact(id, "1"), `{}`)
			n.expect(403, "M_FORBIDDEN", "bob", "PUT", redact("$none", "1"), `{}`)
			n.ok("alice", "PUT", redact(other, "0"), `{}`)
			if e := n.ok("alice", "GET", in(elsewhere, "event/"+url.PathEscape(other)), ""); len(e["content"].(answer)) == 0 {
				t.Errorf("version %s: redacted from another room: %v", v, e)
			}
			if v != "1" { // whose rules look at the server in the id
				none := n.ok("alice", "PUT", redact("$none", "0"), `{}`)["event_id"]
				if e := n.ok("alice", "GET", in(room, "event/"+url.PathEscape(none.(string))), ""); e["redacts"] != "$none" {
					t.Errorf("version %s: a redaction of an event that is not here: %v", v, e)
				}
			}
			n.expect(400, "M_BAD_JSON", "alice", "PUT", redact(id, "1"), `{"reason":1}`)
			n.expect(400, "M_BAD_JSON", "alice", "PUT", in(room, "send/m.room.redaction/1"), `{}`)
			by := n.ok("alice:A", "PUT", redact(id, "1"), `{"reason":"oops"}`)["event_id"]
			if again := n.ok("alice:A", "PUT", redact(id, "1"), `{}`)["event_id"]; again != by {
				t.Errorf("version %s: a repeated redaction made %v and %v", v, by, again)
			}
			e := n.ok("bob", "GET", in(room, "event/"+url.PathEscape(id)), "")
			because, _ := e["unsigned"].(answer)["redacted_because"].(answer)
			if len(e["content"].(answer)) != 0 || because["event_id"] != by || because["redacts"] != id || because["content"].(answer)["reason"] != "oops" {
				t.Errorf("version %s: %v", v, e)
			}
			n.ok("bob", "PUT", in(room, "send/m.room.redaction/2"), `{"redacts":"`+bobs+`"}`)
			if e := n.ok("bob", "GET", in(room, "event/"+url.PathEscape(bobs)), ""); len(e["content"].(answer)) != 0 {
				t.Errorf("version %s: sent as an event, the redaction left %v", v, e)
			}
		}
	})
}
