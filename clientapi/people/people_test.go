package people

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/reports"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/internal/userdir"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

type node struct {
	t       *testing.T
	rooms   *roomserver.Server
	reports *reports.Service
	call    func(user, method, path, body string) (int, gjson.Result)
}

func each(t *testing.T, fn func(t *testing.T, n *node)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { fn(t, newNode(t, db)) })
}

func newNode(t *testing.T, db *sqldb.DB) *node {
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	n := &node{t: t, reports: reports.New(db, nil)}
	n.rooms = roomserver.New(roomserver.Options{ServerName: "hs", Store: store.New(store.Options{DB: db}), Hub: hub,
		Participants: []roomserver.Participant{userdir.NewWatcher(hub, "hs")},
		Signer:       event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}})
	api := New(Options{Rooms: n.rooms, Reports: n.reports,
		Exists: func(_ context.Context, user string) (bool, error) { return user != "@none:hs", nil },
		Directory: userdir.New(userdir.Options{Rooms: n.rooms, Profile: func(_ context.Context, user string) (string, string, error) {
			return strings.ToUpper(event.LocalpartOf(user)), "mxc://hs/" + event.LocalpartOf(user), nil
		}})})
	router := shapes.Watched(t, httpx.NewRouter(api.Routes(), httpx.Hooks{
		Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
			return httpx.Caller{UserID: "@" + token + ":hs", Admin: token == "admin"}, nil
		}}))
	n.call = func(user, method, path, body string) (int, gjson.Result) {
		req := httptest.NewRequest(method, path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+user)
		w := httptest.NewRecorder()
		router.ServeHTTP(w, req)
		return w.Code, gjson.ParseBytes(w.Body.Bytes())
	}
	return n
}

func (n *node) create(q roomserver.CreateRequest, members ...string) string {
	n.t.Helper()
	q.Creator, q.Preset = "@alice:hs", "public_chat"
	room, err := n.rooms.Create(context.Background(), q)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, user := range members {
		if _, err := n.rooms.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: user, Target: user, Membership: "join"}); err != nil {
			n.t.Fatal(err)
		}
	}
	return room
}

type call struct{ user, method, path, body, want string }

func (n *node) expect(calls ...call) {
	n.t.Helper()
	for _, c := range calls {
		code, body := n.call(c.user, c.method, c.path, c.body)
		status, text, _ := strings.Cut(c.want, " ")
		if fmt.Sprint(code) != status || !strings.Contains(body.String(), text) {
			n.t.Errorf("%s %s %s: %d %s, want %s", c.method, c.path, c.body, code, body, c.want)
		}
	}
}

func TestUserDirectory(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		n.create(roomserver.CreateRequest{}, "@bob:hs", "@bobby:hs")
		const path = "/_matrix/client/v3/user_directory/search"
		n.expect(
			call{"eve", "POST", path, `{"search_term":"bob"}`, `200 {"limited":false,"results":[{"user_id":"@bob:hs","display_name":"BOB","avatar_url":"mxc://hs/bob"},{"user_id":"@bobby:hs","display_name":"BOBBY","avatar_url":"mxc://hs/bobby"}]}`},
			call{"eve", "POST", path, `{"search_term":"BOB","limit":1}`, `200 {"limited":true,"results":[{"user_id":"@bob:hs"`},
			call{"eve", "POST", path, `{"search_term":""}`, `200 {"limited":false,"results":[]}`},
			call{"eve", "POST", path, `{"search_term":"bob","limit":0}`, `400 M_INVALID_PARAM`},
			call{"eve", "POST", path, `{}`, `400 M_MISSING_PARAM`},
			call{"eve", "POST", path, `{"search_term":7}`, `400 M_BAD_JSON`},
		)
	})
}

func TestMutualRooms(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		rooms := []string{n.create(roomserver.CreateRequest{}, "@bob:hs"), n.create(roomserver.CreateRequest{}, "@bob:hs")}
		n.create(roomserver.CreateRequest{})
		slices.Sort(rooms)
		list, _ := json.Marshal(rooms)
		path := func(user string) string { return "/_matrix/client/v1/mutual_rooms?user_id=" + url.QueryEscape(user) }
		n.expect(
			call{"alice", "GET", path("@bob:hs"), ``, `200 {"joined":` + string(list) + `,"count":2}`},
			call{"bob", "GET", path("@alice:hs"), ``, `200 {"joined":` + string(list) + `,"count":2}`},
			call{"bob", "GET", path("@nobody:far"), ``, `200 {"joined":[],"count":0}`},
			call{"eve", "GET", path("@alice:hs"), ``, `200 {"joined":[],"count":0}`},
			call{"alice", "GET", path("@alice:hs"), ``, `400 M_INVALID_PARAM`},
			call{"alice", "GET", path("bob"), ``, `400 M_INVALID_PARAM`},
			call{"alice", "GET", path(""), ``, `400 M_MISSING_PARAM`},
			call{"alice", "GET", path("@bob:hs") + "&from=x", ``, `400 M_INVALID_PARAM`},
			call{"alice", "GET", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id=@bob:hs", ``, `200 "count":2`},
		)
	})
}

func TestReports(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create(roomserver.CreateRequest{Name: "The room"}, "@bob:hs")
		id, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@alice:hs", Type: "m.room.message", Content: json.RawMessage(`{"body":"bad"}`)})
		if err != nil {
			t.Fatal(err)
		}
		in := "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/report"
		const admin = "/_synapse/admin/v1/event_reports"
		n.expect(
			call{"bob", "POST", in + "/" + url.PathEscape(id), `{"reason":"one","score":-100}`, `200 {}`},
			call{"alice", "POST", in + "/" + url.PathEscape(id), `{}`, `200 {}`},
			call{"eve", "POST", in + "/" + url.PathEscape(id), `{"reason":"x"}`, `404 M_NOT_FOUND`},
			call{"bob", "POST", in + "/$none", `{"reason":"x"}`, `404 M_NOT_FOUND`},
			call{"bob", "POST", in + "/" + url.PathEscape(id), `{"reason":7}`, `400 M_BAD_JSON`},
			call{"bob", "POST", in + "/" + url.PathEscape(id), `{"reason":"` + strings.Repeat("x", 5000) + `"}`, `400 M_INVALID_PARAM`},
			call{"eve", "POST", in, `{"reason":"room"}`, `200 {}`},
			call{"eve", "POST", "/_matrix/client/v3/rooms/!none:hs/report", `{"reason":"room"}`, `404 M_NOT_FOUND`},
			call{"eve", "POST", "/_matrix/client/v3/users/@alice:hs/report", `{"reason":"user"}`, `200 {}`},
			call{"eve", "POST", "/_matrix/client/v3/users/@x:far/report", `{"reason":"user"}`, `200 {}`},
			call{"eve", "POST", "/_matrix/client/v3/users/@none:hs/report", `{"reason":"user"}`, `404 M_NOT_FOUND`},
			call{"eve", "POST", "/_matrix/client/v3/users/none/report", `{"reason":"user"}`, `400 M_INVALID_PARAM`},
			call{"eve", "GET", admin, ``, `403 M_FORBIDDEN`},
			call{"admin", "GET", admin + "?dir=x", ``, `400 M_INVALID_PARAM`},
			call{"admin", "GET", admin + "?limit=x", ``, `400 M_INVALID_PARAM`},
			call{"admin", "GET", admin + "?user_id=@bob:hs", ``, `200 "total":1`},
			call{"admin", "GET", admin + "?event_sender_user_id=@bob:hs", ``, `200 "total":0`},
			call{"admin", "GET", admin + "?room_id=" + url.QueryEscape(room), ``, `200 "total":2`},
			call{"admin", "GET", admin + "/x", ``, `400 M_INVALID_PARAM`},
			call{"admin", "GET", admin + "/0", ``, `404 M_NOT_FOUND`},
		)
		_, body := n.call("admin", "GET", admin+"?dir=f&limit=1", "")
		first := body.Get("event_reports.0")
		for path, want := range map[string]string{"room_id": room, "event_id": id, "user_id": "@bob:hs", "sender": "@alice:hs", "reason": "one", "score": "-100", "name": "The room", "canonical_alias": ""} {
			if got := first.Get(path).String(); got != want {
				t.Errorf("%s is %q, want %q", path, got, want)
			}
		}
		if body.Get("next_token").Int() != 1 || body.Get("total").Int() != 2 {
			t.Errorf("%s", body)
		}
		if _, body := n.call("admin", "GET", admin+"?from=1", ""); body.Get("next_token").Exists() || body.Get("event_reports.0.user_id").Str != "@bob:hs" {
			t.Errorf("the second page: %s", body)
		}
		one := admin + "/" + first.Get("id").String()
		n.expect(
			call{"admin", "GET", one, ``, `200 "body":"bad"`},
			call{"eve", "DELETE", one, ``, `403 M_FORBIDDEN`},
			call{"admin", "DELETE", one, ``, `200 {}`},
			call{"admin", "DELETE", one, ``, `404 M_NOT_FOUND`},
		)
		for kind, want := range map[reports.Kind]int64{0: 4, reports.Event: 1, reports.Room: 1, reports.User: 2} {
			list, total, err := n.reports.List(context.Background(), reports.Filter{Kind: kind, Limit: 10})
			if err != nil || total != want || int64(len(list)) != want {
				t.Errorf("kind %d: %+v, %d, %v", kind, list, total, err)
			}
		}
	})
}
