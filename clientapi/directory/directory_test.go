package directory

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

// node is a room server with this door in front. A token is a user's name;
// "root" is an administrator.
type node struct {
	t      *testing.T
	s      *roomserver.Server
	router http.Handler
	asked  RemoteQuery
}

func each(t *testing.T, fn func(t *testing.T, n *node)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		hub := stream.New(0)
		db.OnPublish(hub.Advance)
		signer := event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))}
		s := roomserver.New(roomserver.Options{ServerName: "hs", Signer: signer, Store: store.New(store.Options{DB: db}), Hub: hub})
		if err := s.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		n := &node{t: t, s: s}
		api := New(Options{ServerName: "hs", Rooms: s, DB: db, Hub: hub, Remote: n})
		n.router = shapes.Watched(t, httpx.NewRouter(api.Routes(), httpx.Hooks{Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
			return httpx.Caller{UserID: "@" + token + ":hs", Admin: token == "root"}, nil
		}}))
		fn(t, n)
	})
}

// PublicRooms is another server's directory.
func (n *node) PublicRooms(_ context.Context, server string, q RemoteQuery) (json.RawMessage, error) {
	if server != "other.example" {
		return nil, matrixerr.Unknown(502, "no such server")
	}
	n.asked = q
	return json.RawMessage(`{"chunk":[],"next_batch":"theirs"}`), nil
}

type object = map[string]any

const v3 = "/_matrix/client/v3/"

func (n *node) expect(status int, code, token, method, path, body string) object {
	n.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	n.router.ServeHTTP(rec, req)
	var out object
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		n.t.Fatalf("%s %s: %d with %q", method, path, rec.Code, rec.Body)
	}
	if errcode, _ := out["errcode"].(string); rec.Code != status || errcode != code {
		n.t.Fatalf("%s %s %.200s as %s: %d %v, want %d %s", method, path, body, token, rec.Code, out, status, code)
	}
	return out
}

func (n *node) ok(token, method, path, body string) object {
	n.t.Helper()
	return n.expect(200, "", token, method, path, body)
}

func (n *node) create(q roomserver.CreateRequest) string {
	n.t.Helper()
	q.Creator = "@alice:hs"
	id, err := n.s.Create(context.Background(), q)
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) join(user, room string) {
	n.t.Helper()
	if _, err := n.s.Join(context.Background(), roomserver.JoinRequest{RoomIDOrAlias: room, User: "@" + user + ":hs"}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) set(room, typ, content string) {
	n.t.Helper()
	key := ""
	_, err := n.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@alice:hs", Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestAliases(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create(roomserver.CreateRequest{Preset: "public_chat"})
		n.join("bob", room)
		path := func(alias string) string { return v3 + "directory/room/" + url.PathEscape(alias) }
		body := fmt.Sprintf(`{"room_id":%q}`, room)
		n.expect(404, "M_NOT_FOUND", "", "GET", path("#a:hs"), "")
		n.expect(404, "M_NOT_FOUND", "", "GET", path("#a:other.example"), "")
		n.expect(400, "M_INVALID_PARAM", "", "GET", path("a:hs"), "")
		n.expect(401, "M_MISSING_TOKEN", "", "PUT", path("#a:hs"), body)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", path("#a"), body)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", path("#a:other.example"), body)
		n.expect(400, "M_MISSING_PARAM", "alice", "PUT", path("#a:hs"), `{}`)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", path("#a:hs"), `{"room_id":"x"}`)
		n.expect(400, "M_BAD_JSON", "alice", "PUT", path("#a:hs"), `{"room_id":1}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", path("#a:hs"), body)
		n.ok("alice", "PUT", path("#a:hs"), body)
		n.expect(409, "M_UNKNOWN", "alice", "PUT", path("#a:hs"), body)
		n.ok("bob", "PUT", path("#房间/b:hs"), body)
		if got := n.ok("", "GET", path("#房间/b:hs"), ""); got["room_id"] != room || fmt.Sprint(got["servers"]) != "[hs]" {
			t.Errorf("the alias gives %v", got)
		}
		list := v3 + "rooms/" + url.PathEscape(room) + "/aliases"
		if got := fmt.Sprint(n.ok("bob", "GET", list, "")["aliases"]); got != "[#a:hs #房间/b:hs]" {
			t.Errorf("aliases %s", got)
		}
		n.expect(403, "M_FORBIDDEN", "eve", "GET", list, "")
		n.set(room, "m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		n.ok("eve", "GET", list, "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", v3+"rooms/!none:hs/aliases", "")

		n.set(room, "m.room.canonical_alias", `{"alias":"#a:hs","alt_aliases":["#a:hs","#房间/b:hs"]}`)
		n.expect(403, "M_FORBIDDEN", "bob", "DELETE", path("#a:hs"), "")
		n.expect(404, "M_NOT_FOUND", "alice", "DELETE", path("#none:hs"), "")
		n.ok("alice", "DELETE", path("#a:hs"), "")
		e, err := n.s.CurrentState(context.Background(), room, "m.room.canonical_alias", "")
		if err != nil || string(e.Event.ContentJSON()) != `{"alt_aliases":["#房间/b:hs"]}` {
			t.Errorf("m.room.canonical_alias is %s, %v", e.Event.ContentJSON(), err)
		}
		n.ok("bob", "DELETE", path("#房间/b:hs"), "")
		n.expect(404, "M_NOT_FOUND", "", "GET", path("#a:hs"), "")
	})
}

func TestVisibility(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create(roomserver.CreateRequest{Preset: "public_chat"})
		n.join("bob", room)
		path := v3 + "directory/list/room/" + url.PathEscape(room)
		none := v3 + "directory/list/room/" + url.PathEscape("!none:hs")
		n.expect(404, "M_NOT_FOUND", "", "GET", none, "")
		n.expect(404, "M_NOT_FOUND", "alice", "PUT", none, `{}`)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", path, `{"visibility":"secret"}`)
		n.expect(403, "M_FORBIDDEN", "bob", "PUT", path, `{}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", path, `{}`)
		for _, step := range [][3]string{{"", "", "private"}, {"alice", `{}`, "public"}, {"alice", `{"visibility":"private"}`, "private"}, {"root", `{"visibility":"public"}`, "public"}} {
			if step[0] != "" {
				n.ok(step[0], "PUT", path, step[1])
			}
			if got := n.ok("", "GET", path, "")["visibility"]; got != step[2] {
				t.Errorf("%v: %v", step, got)
			}
		}
	})
}

// found returns the names of a page's rooms.
func found(page object) string {
	var names []string
	for _, room := range page["chunk"].([]any) {
		name, _ := room.(object)["name"].(string)
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

func TestPublicRooms(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		space := map[string]json.RawMessage{"type": json.RawMessage(`"m.space"`)}
		big := n.create(roomserver.CreateRequest{Public: true, Name: "Größte Halle", Topic: "Alles über Käse", Alias: "#cheese:hs"})
		n.create(roomserver.CreateRequest{Public: true, Name: "北京大学校友会", Topic: "欢迎新同学"})
		n.create(roomserver.CreateRequest{Public: true, Name: "ＦＵＬＬ width", CreationContent: space})
		n.create(roomserver.CreateRequest{Public: true, Preset: "private_chat", Name: "by invite"})
		n.create(roomserver.CreateRequest{Preset: "public_chat", Name: "not listed"})
		empty := n.create(roomserver.CreateRequest{Public: true, Name: "empty"})
		if err := n.s.Leave(context.Background(), empty, "@alice:hs", ""); err != nil {
			t.Fatal(err)
		}
		n.join("bob", big)
		all := n.ok("", "GET", v3+"publicRooms", "")
		if chunk := all["chunk"].([]any); len(chunk) != 3 || all["total_room_count_estimate"] != 3.0 || all["next_batch"] != nil || all["prev_batch"] != nil {
			t.Fatalf("all rooms: %v", all)
		} else if room := fmt.Sprint(chunk[0]); room != "map[canonical_alias:#cheese:hs guest_can_join:false join_rule:public name:Größte Halle num_joined_members:2 room_id:"+big+" topic:Alles über Käse world_readable:false]" {
			t.Errorf("a room is %s", room)
		}
		for filter, want := range map[string]string{
			`{"generic_search_term":"GRÖSSTE halle"}`:                         "Größte Halle",
			`{"generic_search_term":"käse halle"}`:                            "Größte Halle",
			`{"generic_search_term":"#CHEESE"}`:                               "Größte Halle",
			`{"generic_search_term":"大学"}`:                                    "北京大学校友会",
			`{"generic_search_term":"新同学 校友"}`:                                "北京大学校友会",
			`{"generic_search_term":"full"}`:                                  "ＦＵＬＬ width",
			`{"generic_search_term":"大学 käse"}`:                               "",
			`{"room_types":["m.space"]}`:                                      "ＦＵＬＬ width",
			`{"room_types":["x"]}`:                                            "",
			`{"room_types":[]}`:                                               "",
			`{"room_types":[null],"generic_search_term":"Halle"}`:             "Größte Halle",
			`{"room_types":["m.space",null],"generic_search_term":"北京大学校友会"}`: "北京大学校友会",
		} {
			if got := found(n.ok("eve", "POST", v3+"publicRooms", `{"filter":`+filter+`}`)); got != want {
				t.Errorf("%s: %s, want %s", filter, got, want)
			}
		}
		n.set(big, "m.room.name", `{"name":"Renamed"}`)
		if got := found(n.ok("eve", "POST", v3+"publicRooms", `{"filter":{"generic_search_term":"käse"}}`)); got != "Renamed" {
			t.Errorf("after a change: %s", got)
		}
		n.expect(400, "M_INVALID_PARAM", "", "GET", v3+"publicRooms?since=x", "")
		n.expect(400, "M_INVALID_PARAM", "", "GET", v3+"publicRooms?limit=x", "")
		n.expect(400, "M_BAD_JSON", "eve", "POST", v3+"publicRooms", `{"filter":1}`)
		n.expect(400, "M_BAD_JSON", "eve", "POST", v3+"publicRooms", `{"filter":{"room_types":[1]}}`)
		n.expect(401, "M_MISSING_TOKEN", "", "POST", v3+"publicRooms", `{}`)
	})
}

func TestPublicRoomsPages(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		var want []string
		for i := range 7 {
			room := n.create(roomserver.CreateRequest{Public: true, Name: fmt.Sprint("room ", i)})
			for j := range 7 - i {
				n.join(fmt.Sprint("u", j), room)
			}
			want = append(want, fmt.Sprint("room ", i))
		}
		var got []string
		page := n.ok("", "GET", v3+"publicRooms?limit=3", "")
		for {
			got = append(got, found(page))
			next, more := page["next_batch"].(string)
			if !more {
				break
			}
			page = n.ok("eve", "POST", v3+"publicRooms", `{"limit":3,"since":"`+next+`"}`)
		}
		if all := strings.Join(got, ", "); all != strings.Join(want, ", ") || len(got) != 3 {
			t.Errorf("pages %q", got)
		}
		page = n.ok("", "GET", v3+"publicRooms?limit=3&since="+page["prev_batch"].(string), "")
		if found(page) != "room 3, room 4, room 5" {
			t.Errorf("one page back: %s", found(page))
		}
	})
}

func TestOtherServersRooms(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		page := n.ok("bob", "POST", v3+"publicRooms?server=other.example", `{"limit":5,"since":"s","filter":{"generic_search_term":"x"},"include_all_networks":true}`)
		if page["next_batch"] != "theirs" || n.asked.Limit != 5 || n.asked.Since != "s" || string(n.asked.Filter) != `{"generic_search_term":"x"}` || !n.asked.IncludeAllNetworks {
			t.Errorf("%v, asked %+v", page, n.asked)
		}
		n.ok("bob", "GET", v3+"publicRooms?server=hs", "")
		n.expect(401, "M_MISSING_TOKEN", "", "GET", v3+"publicRooms?server=other.example", "")
		n.expect(502, "M_UNKNOWN", "bob", "GET", v3+"publicRooms?server=gone.example", "")
		n.expect(400, "M_INVALID_PARAM", "bob", "GET", v3+"publicRooms?server=a%20b", "")
	})
}

func TestSummary(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		open := n.create(roomserver.CreateRequest{Preset: "public_chat", Version: "11", Name: "Open", Alias: "#open:hs",
			InitialState: []roomserver.StateEvent{{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)}}})
		closed := n.create(roomserver.CreateRequest{Name: "Closed", Invite: []string{"@bob:hs"}})
		inner := n.create(roomserver.CreateRequest{Name: "Inner", InitialState: []roomserver.StateEvent{{Type: "m.room.join_rules",
			Content: json.RawMessage(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"` + open + `"}]}`)}}})
		n.join("dave", open)
		get := func(status int, code, token, room string) object {
			t.Helper()
			n.expect(status, code, token, "GET", "/_matrix/client/unstable/im.nheko.summary/summary/"+url.PathEscape(room), "")
			n.expect(status, code, token, "GET", "/_matrix/client/unstable/im.nheko.summary/rooms/"+url.PathEscape(room)+"/summary", "")
			return n.expect(status, code, token, "GET", "/_matrix/client/v1/room_summary/"+url.PathEscape(room), "")
		}
		sum := get(200, "", "", "#open:hs")
		if sum["room_id"] != open || sum["name"] != "Open" || sum["encryption"] != "m.megolm.v1.aes-sha2" || sum["room_version"] != "11" || sum["num_joined_members"] != 2.0 || sum["membership"] != nil {
			t.Errorf("open: %v", sum)
		}
		if sum = get(200, "", "dave", open); sum["membership"] != "join" {
			t.Errorf("open, for a member: %v", sum)
		}
		get(404, "M_NOT_FOUND", "", closed)
		get(404, "M_NOT_FOUND", "eve", closed)
		if sum = get(200, "", "bob", closed); sum["membership"] != "invite" || sum["join_rule"] != "invite" {
			t.Errorf("closed, for the invited: %v", sum)
		}
		get(404, "M_NOT_FOUND", "eve", inner)
		if sum = get(200, "", "dave", inner); fmt.Sprint(sum["allowed_room_ids"]) != "["+open+"]" {
			t.Errorf("restricted: %v", sum)
		}
		get(404, "M_NOT_FOUND", "eve", "!none:hs")
		get(404, "M_NOT_FOUND", "eve", "#none:hs")
		get(400, "M_INVALID_PARAM", "eve", "none")
	})
}
