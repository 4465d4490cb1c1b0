package spaces

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/clock"
	"knock/internal/httpx"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

// remotes are the answers of other servers, by server and room; asked counts the questions.
type remotes struct {
	answers map[string]string
	asked   int
}

func (r *remotes) Hierarchy(_ context.Context, server, room string, _ bool) (json.RawMessage, error) {
	r.asked++
	if a, ok := r.answers[server+" "+room]; ok {
		return json.RawMessage(a), nil
	}
	return nil, errors.New("no answer")
}

type node struct {
	t      *testing.T
	rooms  *roomserver.Server
	api    *API
	remote *remotes
	clock  *clock.Manual
	sent   int64 // time of the newest state event that state sent
	get    func(user, room, query string) (int, gjson.Result)
}

func each(t *testing.T, fn func(t *testing.T, n *node)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { fn(t, newNode(t, db)) })
}

func newNode(t *testing.T, db *sqldb.DB) *node {
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	n := &node{t: t, remote: &remotes{answers: map[string]string{}}, clock: clock.NewManual(time.Unix(1000, 0))}
	n.rooms = roomserver.New(roomserver.Options{ServerName: "hs", Store: store.New(store.Options{DB: db}), Hub: hub,
		Signer: event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}})
	n.api = New(Options{Rooms: n.rooms, Remote: n.remote, Clock: n.clock.Now})
	router := shapes.Watched(t, httpx.NewRouter(n.api.Routes(), httpx.Hooks{
		Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
			return httpx.Caller{UserID: "@" + token + ":hs"}, nil
		}}))
	n.get = func(user, room, query string) (int, gjson.Result) {
		req := httptest.NewRequest("GET", "/_matrix/client/v1/rooms/"+url.PathEscape(room)+"/hierarchy"+query, nil)
		req.Header.Set("Authorization", "Bearer "+user)
		w := httptest.NewRecorder()
		router.ServeHTTP(w, req)
		return w.Code, gjson.ParseBytes(w.Body.Bytes())
	}
	return n
}

func (n *node) create(q roomserver.CreateRequest, space bool) string {
	n.t.Helper()
	q.Creator = "@alice:hs"
	if space {
		q.CreationContent = map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}
	}
	room, err := n.rooms.Create(context.Background(), q)
	if err != nil {
		n.t.Fatal(err)
	}
	return room
}

func (n *node) public(name string) string {
	return n.create(roomserver.CreateRequest{Preset: "public_chat", Name: name}, false)
}
func (n *node) space(name string) string {
	return n.create(roomserver.CreateRequest{Preset: "public_chat", Name: name}, true)
}

// state sends a state event, each a millisecond after the one before: children without order are sorted by time, and
// those of one millisecond by their room ids, which are random.
func (n *node) state(room, typ, key, content string) {
	n.t.Helper()
	n.sent++
	_, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@alice:hs", Type: typ, StateKey: &key,
		Content: json.RawMessage(content), TS: n.sent})
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) child(space, room, more string) {
	n.t.Helper()
	n.state(space, "m.space.child", room, `{"via":["hs"]`+more+`}`)
}

func (n *node) member(room, user, membership string) {
	n.t.Helper()
	sender := "@alice:hs"
	if membership == "join" {
		sender = user
	}
	if _, err := n.rooms.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: user, Membership: membership}); err != nil {
		n.t.Fatal(err)
	}
}

// names are the names of the rooms of an answer.
func (n *node) names(user, room, query string) string {
	n.t.Helper()
	code, body := n.get(user, room, query)
	if code != 200 {
		n.t.Fatalf("%d %s", code, body)
	}
	return names(body)
}

func names(body gjson.Result) string {
	var out []string
	for _, r := range body.Get("rooms").Array() {
		out = append(out, r.Get("name").Str)
	}
	return strings.Join(out, " ")
}

func TestTree(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		root, inner, deep := n.space("root"), n.space("inner"), n.space("deep")
		a, b, c, d := n.public("a"), n.public("b"), n.public("c"), n.public("d")
		secret := n.create(roomserver.CreateRequest{Preset: "private_chat", Name: "secret"}, false)
		n.child(root, b, `,"order":"b"`)
		n.child(root, inner, `,"order":"a","suggested":true`)
		n.child(root, secret, `,"order":"0"`)
		n.child(root, a, `,"order":"not\u0001valid","suggested":true`)
		n.child(root, "!unknown:hs", ``)
		n.child(root, "nonsense", ``)
		n.state(root, "m.space.child", d, `{}`)
		n.child(inner, c, ``)
		n.child(inner, root, ``)
		n.child(inner, deep, ``)
		n.child(deep, d, ``)
		n.child(deep, inner, ``)
		n.state(a, "m.space.child", d, `{"via":["hs"]}`) // not a space
		for query, want := range map[string]string{
			"":                     "root inner c deep d b a",
			"?max_depth=0":         "root",
			"?max_depth=1":         "root inner b a",
			"?max_depth=2":         "root inner c deep b a",
			"?suggested_only=true": "root inner a",
		} {
			if got := n.names("bob", root, query); got != want {
				t.Errorf("%q: %s, want %s", query, got, want)
			}
		}
		if got := n.names("alice", root, "?max_depth=1"); got != "root secret inner b a" {
			t.Errorf("who is in the secret room gets %s", got)
		}
		var pages []string
		for from, more := "", true; more; {
			_, body := n.get("bob", root, "?limit=3&from="+from)
			pages = append(pages, names(body))
			from = body.Get("next_batch").Str
			more = from != ""
		}
		if got := strings.Join(pages, "|"); got != "root inner c|deep d b|a" {
			t.Errorf("pages %s", got)
		}
		_, body := n.get("bob", root, "?limit=1")
		for query, want := range map[string]string{
			"?limit=0": "400 M_INVALID_PARAM", "?max_depth=x": "400 M_INVALID_PARAM", "?max_depth=-1": "400 M_INVALID_PARAM", "?suggested_only=2": "400 M_INVALID_PARAM",
			"?from=nonsense": "400 M_INVALID_PARAM", "?max_depth=1&from=" + body.Get("next_batch").Str: "400 M_INVALID_PARAM",
		} {
			if code, body := n.get("bob", root, query); fmt.Sprint(code, " ", body.Get("errcode").Str) != want {
				t.Errorf("%s: %d %s", query, code, body)
			}
		}
		for _, room := range []string{secret, "!none:hs", "nonsense"} {
			if code, body := n.get("bob", room, ""); code != 403 || body.Get("errcode").Str != "M_FORBIDDEN" {
				t.Errorf("%s: %d %s", room, code, body)
			}
		}
	})
}

func TestOrder(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		root := n.space("root")
		rooms := map[string]string{}
		for i, name := range []string{"e", "d", "a", "b", "c"} { // by their times
			rooms[name] = n.public(name)
			more := map[string]string{"a": `,"order":"aaaa"`, "b": `,"order":" "`, "c": `,"order":"first"`}[name]
			key := rooms[name]
			_, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: root, Sender: "@alice:hs", Type: "m.space.child", StateKey: &key,
				Content: json.RawMessage(`{"via":["hs"]` + more + `}`), TS: int64(i + 1)})
			if err != nil {
				t.Fatal(err)
			}
		}
		if got := n.names("bob", root, ""); got != "root b a c e d" {
			t.Errorf("order %s", got)
		}
		_, body := n.get("bob", root, "?limit=1")
		if got := body.Get("rooms.0.children_state.#.state_key").String(); got != fmt.Sprintf("[%q,%q,%q,%q,%q]", rooms["b"], rooms["a"], rooms["c"], rooms["e"], rooms["d"]) {
			t.Errorf("children %s", got)
		}
		if c := body.Get("rooms.0.children_state.0"); c.Get("origin_server_ts").Int() != 4 || c.Get("sender").Str != "@alice:hs" || c.Get("type").Str != "m.space.child" || c.Get("content.order").Str != " " {
			t.Errorf("child %s", c)
		}
	})
}

func TestSummary(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create(roomserver.CreateRequest{Version: "10", Preset: "public_chat", Name: "n", Topic: "t"}, false)
		n.state(room, "m.room.avatar", "", `{"url":"mxc://a/b"}`)
		n.state(room, "m.room.canonical_alias", "", `{"alias":"#a:hs"}`)
		n.state(room, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
		n.state(room, "m.room.history_visibility", "", `{"history_visibility":"world_readable"}`)
		n.state(room, "m.room.guest_access", "", `{"guest_access":"can_join"}`)
		n.state(room, "m.room.join_rules", "", `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!x:y"},{"type":"other","room_id":"!z:y"}]}`)
		_, body := n.get("bob", room, "")
		want := fmt.Sprintf(`{"rooms":[{"room_id":%q,"name":"n","topic":"t","canonical_alias":"#a:hs","avatar_url":"mxc://a/b","join_rule":"restricted",`+
			`"room_version":"10","encryption":"m.megolm.v1.aes-sha2","allowed_room_ids":["!x:y"],"num_joined_members":1,"world_readable":true,"guest_can_join":true,"children_state":[]}]}`, room)
		if body.Raw != want && body.String() != want {
			t.Errorf("%s, want %s", body, want)
		}
	})
}

func TestWhoSeesARoom(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		club := n.create(roomserver.CreateRequest{Preset: "private_chat"}, false)
		n.member(club, "@bob:hs", "invite")
		n.member(club, "@bob:hs", "join")
		restricted := fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club)
		for _, c := range []struct {
			what, version, rules, visibility, membership string
			bob, eve                                     bool
		}{
			{"invite only", "10", `{"join_rule":"invite"}`, "shared", "", false, false},
			{"public", "10", `{"join_rule":"public"}`, "shared", "", true, true},
			{"public, banned", "10", `{"join_rule":"public"}`, "shared", "ban", true, false},
			{"banned, world readable", "10", `{"join_rule":"invite"}`, "world_readable", "ban", true, true},
			{"invited", "10", `{"join_rule":"invite"}`, "shared", "invite", false, true},
			{"knock", "10", `{"join_rule":"knock"}`, "shared", "", true, true},
			{"knock in a version without it", "6", `{"join_rule":"knock"}`, "shared", "", false, false},
			{"restricted", "10", restricted, "shared", "", true, false},
			{"restricted in a version without it", "7", restricted, "shared", "", false, false},
			{"knock or restricted", "10", strings.Replace(restricted, "restricted", "knock_restricted", 1), "shared", "", true, true},
		} {
			room := n.create(roomserver.CreateRequest{Version: c.version, Preset: "private_chat"}, false)
			n.state(room, "m.room.join_rules", "", c.rules)
			n.state(room, "m.room.history_visibility", "", `{"history_visibility":"`+c.visibility+`"}`)
			if c.membership != "" {
				n.member(room, "@eve:hs", c.membership)
			}
			for user, want := range map[string]bool{"bob": c.bob, "eve": c.eve} {
				if code, body := n.get(user, room, ""); (code == 200) != want {
					t.Errorf("%s, %s: %d %s", c.what, user, code, body)
				}
			}
		}
	})
}

func TestRoomsElsewhere(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		root := n.space("root")
		here := n.public("here")
		for _, id := range []string{"!space:far", "!public:far", "!hidden:far", "!gone:far"} {
			n.state(root, "m.space.child", id, `{"via":["hs","far"]}`)
		}
		n.remote.answers["far !space:far"] = fmt.Sprintf(`{"room":{"room_id":"!space:far","name":"space","room_type":"m.space","join_rule":"public","num_joined_members":7,
			"children_state":[{"type":"m.space.child","state_key":"!told:far","content":{"via":["far"]},"sender":"@x:far","origin_server_ts":1},
				{"type":"m.space.child","state_key":%q,"content":{"via":["far"]},"sender":"@x:far","origin_server_ts":2},
				{"type":"m.space.child","state_key":"!locked:far","content":{"via":["far"]},"sender":"@x:far","origin_server_ts":3},
				{"type":"m.space.child","state_key":"!hidden:far","content":{"via":["far"]},"sender":"@x:far","origin_server_ts":4},
				{"type":"m.room.name","state_key":"!odd:far","content":{"via":["far"]}},{"type":"m.space.child","state_key":"odd","content":7}]},
			"children":[{"room_id":"!told:far","name":"told","join_rule":"knock"},{"room_id":%q,"name":"lie","join_rule":"public"},
				{"room_id":"!locked:far","name":"locked","join_rule":"invite"}],
			"inaccessible_children":["!hidden:far"]}`, here, here)
		n.remote.answers["far !public:far"] = `{"room":{"room_id":"!public:far","name":"public","join_rule":"public","children_state":[{}]}}`
		n.remote.answers["far !hidden:far"] = `{"room":{"room_id":"!hidden:far","name":"hidden","join_rule":"public"}}`
		n.remote.answers["far !gone:far"] = `{"room":{"room_id":"!other:far","name":"other","join_rule":"public"}}`
		n.state(root, "m.space.child", "!space:far", `{"via":["far"],"order":"a"}`)
		if got := n.names("bob", root, ""); got != "root space told here public" {
			t.Errorf("rooms %s", got)
		}
		asked := n.remote.asked
		if n.names("eve", root, ""); n.remote.asked != asked {
			t.Errorf("the same was asked again: %d, then %d", asked, n.remote.asked)
		}
		n.clock.Advance(time.Hour)
		if n.names("eve", root, ""); n.remote.asked != 2*asked {
			t.Errorf("%d questions, then %d after an hour", asked, n.remote.asked)
		}
		if got := n.names("bob", "!public:far", ""); got != "public" {
			t.Errorf("a root elsewhere: %s", got)
		}
	})
}

func TestForServer(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		root, a := n.space("root"), n.public("a")
		secret := n.create(roomserver.CreateRequest{Preset: "private_chat", Name: "secret"}, false)
		closed := n.public("closed")
		n.state(closed, "m.room.server_acl", "", `{"allow":["*"],"deny":["far"]}`)
		for _, id := range []string{a, secret, closed, "!unknown:other"} {
			n.child(root, id, ``)
		}
		n.child(root, a, `,"suggested":true`)
		f, err := n.api.ForServer(context.Background(), "far", root, false)
		if err != nil {
			t.Fatal(err)
		}
		if f.Room.Name != "root" || len(f.Room.Children) != 4 || len(f.Children) != 1 || f.Children[0].Name != "a" || len(f.Hidden) != 2 {
			t.Errorf("%+v", f)
		}
		if f, err = n.api.ForServer(context.Background(), "far", root, true); err != nil || len(f.Room.Children) != 1 || len(f.Children) != 1 || len(f.Hidden) != 0 {
			t.Errorf("suggested: %+v, %v", f, err)
		}
		for _, room := range []string{secret, closed, "!none:hs"} {
			if f, err := n.api.ForServer(context.Background(), "far", room, false); err == nil {
				t.Errorf("%s: %+v", room, f)
			}
		}
	})
}

// TestFederationRoutes sees that the origin and the filter reach ForServer.
func TestFederationRoutes(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		root := n.space("root")
		n.child(root, n.public("a"), ``)
		router := shapes.Watched(t, httpx.NewRouter(n.api.FederationRoutes(), httpx.Hooks{
			AuthenticateServer: func(context.Context, *httpx.Request) (string, error) { return "far", nil }}))
		for query, children := range map[string]int64{"": 1, "?suggested_only=true": 0} {
			w := httptest.NewRecorder()
			router.ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/federation/v1/hierarchy/"+url.PathEscape(root)+query, nil))
			got := gjson.ParseBytes(w.Body.Bytes())
			if w.Code != 200 || got.Get("room.room_id").Str != root || got.Get("children.#").Int() != children {
				t.Errorf("%q: %d %s", query, w.Code, w.Body)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"room":{"room_id":"!a:b","room_type":"m.space","children_state":[{"type":"m.space.child","state_key":"!c:d","content":{"via":["x"],"order":"a"}}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, ok := parseAnswer(raw, "!a:b"); ok {
			if _, err := json.Marshal(a.room); err != nil {
				t.Error(err)
			}
		}
	})
}
