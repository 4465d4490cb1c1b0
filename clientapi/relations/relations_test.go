package relations

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/internal/threads"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

type node struct {
	t     *testing.T
	rooms *roomserver.Server
	serve func(user, path string) (int, gjson.Result)
	call  func(user, method, path, body string) (int, gjson.Result)
}

func newNode(t *testing.T, db *sqldb.DB) *node {
	t.Helper()
	st := store.New(store.Options{DB: db})
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	n := &node{t: t}
	n.rooms = roomserver.New(roomserver.Options{ServerName: "hs", Store: st, Hub: hub,
		Participants: []roomserver.Participant{relations.NewIndex(st)},
		Signer:       event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}})
	api := New(Options{Rooms: n.rooms, Relations: relations.NewReader(relations.Options{Rooms: n.rooms}), Threads: threads.New(n.rooms),
		SyncPosition: func(token string) (int64, bool) {
			pos, err := strconv.ParseInt(strings.TrimPrefix(token, "s"), 10, 64)
			return pos, err == nil && strings.HasPrefix(token, "s")
		}})
	router := shapes.Watched(t, httpx.NewRouter(api.Routes(), httpx.Hooks{
		Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
			return httpx.Caller{UserID: "@" + token + ":hs", DeviceID: "D"}, nil
		}}))
	n.serve = func(user, path string) (int, gjson.Result) { return n.call(user, "GET", "v1/rooms/"+path, "") }
	n.call = func(user, method, path, body string) (int, gjson.Result) {
		req := httptest.NewRequest(method, "/_matrix/client/"+path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+user)
		w := httptest.NewRecorder()
		router.ServeHTTP(w, req)
		return w.Code, gjson.ParseBytes(w.Body.Bytes())
	}
	return n
}

func (n *node) create(preset string) string {
	n.t.Helper()
	room, err := n.rooms.Create(context.Background(), roomserver.CreateRequest{Creator: "@alice:hs", Preset: preset})
	if err != nil {
		n.t.Fatal(err)
	}
	return room
}

func (n *node) member(room, sender, user, membership string) {
	n.t.Helper()
	if _, err := n.rooms.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: user, Membership: membership}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) send(room, user, typ, rel, parent string) string {
	n.t.Helper()
	id, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, TxnID: strconv.Itoa(len(parent)),
		Content: json.RawMessage(fmt.Sprintf(`{"m.relates_to":{"rel_type":%q,"event_id":%q}}`, rel, parent)), Path: rel + typ + parent})
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func ids(chunk gjson.Result) string { return chunk.Get("chunk.#.event_id").String() }

func list(ids ...string) string {
	out, _ := json.Marshal(ids)
	return string(out)
}

func TestRelations(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db)
		room := n.create("public_chat")
		root := n.send(room, "@alice:hs", "m.room.message", "", "")
		var made []string
		for _, typ := range []string{"a", "b", "c", "d", "e"} {
			made = append(made, n.send(room, "@alice:hs", typ, "m.thread", root))
		}
		reaction := n.send(room, "@alice:hs", "m.reaction", "m.annotation", made[0])
		second := n.send(room, "@alice:hs", "m.reaction", "m.reference", reaction)
		third := n.send(room, "@alice:hs", "m.reaction", "m.reference", second)
		base := url.PathEscape(room) + "/relations/" + url.PathEscape(root)
		get := func(path string) gjson.Result {
			t.Helper()
			code, body := n.serve("alice", path)
			if code != 200 {
				t.Fatalf("%s: %d %s", path, code, body)
			}
			return body
		}
		for path, want := range map[string]string{
			"":                   list(made[4], made[3], made[2], made[1], made[0]),
			"?dir=f":             list(made...),
			"/m.thread/b":        list(made[1]),
			"/m.thread/none":     "[]",
			"/m.annotation":      "[]",
			"?recurse=true":      list(second, reaction, made[4], made[3], made[2], made[1], made[0]),
			"?recurse=true&to=t": "",
		} {
			if want == "" {
				continue
			}
			if body := get(base + path); ids(body) != want {
				t.Errorf("%s: %s, want %s", path, ids(body), want)
			}
		}
		if body := get(base + "?recurse=true"); body.Get("recursion_depth").Int() != 3 || strings.Contains(ids(body), third) {
			t.Errorf("three levels: %s", body)
		}
		if body := get(base); body.Get("recursion_depth").Exists() || body.Get("prev_batch").Exists() || body.Get("next_batch").Exists() {
			t.Errorf("too much is said: %s", body)
		}

		var got []string
		from, first := "", ""
		for page := 0; page == 0 || from != ""; page++ {
			body := get(base + "?limit=2&from=" + from)
			if len(body.Get("chunk").Array()) > 2 || body.Get("prev_batch").Exists() != (page > 0) {
				t.Fatalf("page %d: %s", page, body)
			}
			for _, id := range body.Get("chunk.#.event_id").Array() {
				got = append(got, id.Str)
			}
			if from = body.Get("next_batch").Str; page == 0 {
				first = from
			}
		}
		if list(got...) != list(made[4], made[3], made[2], made[1], made[0]) {
			t.Errorf("paged %v", got)
		}
		if body := get(base + "?to=" + first); ids(body) != list(made[4], made[3]) {
			t.Errorf("until a token: %s", body)
		}
		if body := get(base + "?dir=f&from=" + first); ids(body) != list(made[3], made[4]) {
			t.Errorf("forward from a token: %s", body)
		}
		if body := get(fmt.Sprintf("%s?from=s%d", base, n.rooms.Hub.Published())); len(body.Get("chunk").Array()) != 5 {
			t.Errorf("from a token of sync: %s", body)
		}
		if body := get(base + "?from=s1"); ids(body) != "[]" {
			t.Errorf("from an early token of sync: %s", body)
		}
		event := get(base + "?limit=1").Get("chunk.0")
		if event.Get("room_id").Str != room || event.Get("unsigned.age").Type != gjson.Number {
			t.Errorf("not a client event: %s", event)
		}
		for path, want := range map[string]string{
			base + "?dir=x": "400 M_INVALID_PARAM", base + "?limit=0": "400 M_INVALID_PARAM", base + "?recurse=maybe": "400 M_INVALID_PARAM",
			base + "?from=nonsense": "400 M_INVALID_PARAM", url.PathEscape(room) + "/relations/$none": "404 M_NOT_FOUND",
			url.PathEscape("!none:hs") + "/relations/" + url.PathEscape(root): "404 M_NOT_FOUND",
		} {
			if code, body := n.serve("alice", path); fmt.Sprint(code, " ", body.Get("errcode").Str) != want {
				t.Errorf("%s: %d %s, want %s", path, code, body, want)
			}
		}
		private := n.create("private_chat")
		hidden := n.send(private, "@alice:hs", "m.room.message", "", "")
		if code, body := n.serve("bob", url.PathEscape(private)+"/relations/"+url.PathEscape(hidden)); code != 404 {
			t.Errorf("a stranger: %d %s", code, body)
		}
	})
}

func TestThreads(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db)
		room := n.create("public_chat")
		n.member(room, "@bob:hs", "@bob:hs", "join")
		var roots []string
		for i := range 4 {
			roots = append(roots, n.send(room, "@alice:hs", fmt.Sprint("root", i), "", ""))
		}
		for i, root := range roots {
			n.send(room, "@alice:hs", "m.room.message", "m.thread", root)
			if i%2 == 0 {
				n.send(room, "@bob:hs", "m.room.message", "m.thread", root)
			}
		}
		n.send(room, "@alice:hs", "again", "m.thread", roots[1])
		base := url.PathEscape(room) + "/threads"
		for _, c := range []struct{ user, query, want string }{
			{"alice", "", list(roots[1], roots[3], roots[2], roots[0])},
			{"bob", "?include=participated", list(roots[2], roots[0])},
			{"alice", "?include=participated", list(roots[1], roots[3], roots[2], roots[0])},
			{"alice", "?limit=2", list(roots[1], roots[3])},
		} {
			if code, body := n.serve(c.user, base+c.query); code != 200 || ids(body) != c.want {
				t.Errorf("%s for %s: %d %s, want %s", c.query, c.user, code, body, c.want)
			}
		}
		_, body := n.serve("alice", base+"?limit=2")
		if _, body = n.serve("alice", base+"?limit=2&from="+body.Get("next_batch").Str); ids(body) != list(roots[2], roots[0]) || body.Get("next_batch").Exists() {
			t.Errorf("the second page: %s", body)
		}
		bundle := body.Get(`chunk.0.unsigned.m\.relations.m\.thread`)
		if bundle.Get("count").Int() != 2 || bundle.Get("latest_event.sender").Str != "@bob:hs" {
			t.Errorf("the bundle: %s", bundle)
		}
		n.member(room, "@alice:hs", "@bob:hs", "ban")
		n.send(room, "@alice:hs", "later", "m.thread", roots[3])
		for _, c := range []struct{ user, path, want string }{
			{"alice", base + "?include=some", "400 M_INVALID_PARAM"},
			{"alice", base + "?from=x", "400 M_INVALID_PARAM"},
			{"carol", base, "403 M_FORBIDDEN"},
			{"alice", url.PathEscape("!none:hs") + "/threads", "403 M_FORBIDDEN"},
			{"bob", base, "200 "},
		} {
			if code, body := n.serve(c.user, c.path); fmt.Sprint(code, " ", body.Get("errcode").Str) != c.want {
				t.Errorf("%s for %s: %d %s", c.path, c.user, code, body)
			}
		}
	})
}
