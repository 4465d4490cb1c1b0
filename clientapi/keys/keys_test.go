package keys_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	accountapi "knock/clientapi/account"
	"knock/clientapi/keys"
	"knock/internal/account"
	"knock/internal/e2ee"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver/event"
	"knock/test/shapes"
)

// nowhere is a server without rooms.
type nowhere struct{}

func (nowhere) Servers(*sqldb.Tx, string) ([]string, error)                   { return nil, nil }
func (nowhere) SharedRooms(*sqldb.Tx, string) ([]string, error)               { return nil, nil }
func (nowhere) Members(*sqldb.Tx, string) ([]string, error)                   { return nil, nil }
func (nowhere) Sharing(*sqldb.Tx, string, []string) ([]string, error)         { return nil, nil }
func noMoves(context.Context, string, int64, int64) (m e2ee.Moves, err error) { return m, nil }

func position(token string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimPrefix(token, "s"), 10, 64)
	if err != nil {
		return 0, matrixerr.InvalidParam("not a token")
	}
	return n, nil
}

const (
	key1 = "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk"
	key2 = "CgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo"
)

func masterKey(public string) string {
	return `{"user_id":"@a:hs","usage":["master"],"keys":{"ed25519:` + public + `":"` + public + `"}}`
}

type node struct {
	t      *testing.T
	router http.Handler
	token  string
}

func newNode(t *testing.T, db *sqldb.DB) *node {
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	db.Start(t.Context())
	accounts := account.New(account.Options{DB: db, Hub: hub, ServerName: "hs"})
	service := e2ee.New(e2ee.Options{DB: db, Hub: hub, Rooms: nowhere{}, Accounts: accounts, ServerName: "hs", Verify: event.VerifyJSON})
	accounts.OnDevices(service)
	api := keys.New(keys.Options{E2EE: service, DB: db, Position: position, Moves: noMoves, Published: hub.Published,
		Confirm: accountapi.New(accountapi.Options{Accounts: accounts}).Confirm})
	login, err := accounts.CreateUser(t.Context(), account.NewUser{Username: "a", Password: "correct horse",
		Device: &account.NewDevice{ID: "D"}})
	if err != nil {
		t.Fatal(err)
	}
	return &node{t, shapes.Watched(t, httpx.NewRouter(api.Routes(), httpx.Hooks{Authenticate: accounts.Caller})), login.AccessToken}
}

func (n *node) call(method, path, body string) (int, string) {
	n.t.Helper()
	req := httptest.NewRequestWithContext(context.Background(), method, "/_matrix/client/"+path, strings.NewReader(body))
	req.Header.Set("Authorization", "Bearer "+n.token)
	w := httptest.NewRecorder()
	n.router.ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

func TestRoutes(t *testing.T) {
	const device = `{"user_id":"@a:hs","device_id":"D","algorithms":[],"keys":{"ed25519:D":"k"},"signatures":{"@a:hs":{"ed25519:D":"s"}}}`
	const backedUp = `{"first_message_index":1,"forwarded_count":0,"is_verified":false,"session_data":{"x":"y"}}`
	const dehydrated = "unstable/org.matrix.msc3814.v1/dehydrated_device"
	cases := []struct{ method, path, body, want string }{
		{"POST", "v3/keys/upload", `{"device_keys":` + device + `,"one_time_keys":{"a:1":"k"}}`, `200 {"one_time_key_counts":{"a":1}}`},
		{"POST", "r0/keys/upload", `{}`, `200 {"one_time_key_counts":{"a":1}}`},
		{"POST", "v3/keys/upload", `{"one_time_keys":{"a:1":"other"}}`, `400 M_INVALID_PARAM`},
		{"POST", "v3/keys/upload", `{"one_time_keys":[]}`, `400 M_BAD_JSON`},
		{"POST", "v3/keys/query", `{"device_keys":{"@a:hs":[]},"timeout":10000}`, `200 "device_keys":{"@a:hs":{"D":{"algorithms"`},
		{"POST", "v3/keys/query", `{"device_keys":{"@x:far":[]}}`, `200 "failures":{"far":{}}`},
		{"POST", "v3/keys/query", `{}`, `400 M_MISSING_PARAM`},
		{"POST", "v3/keys/query", `{"device_keys":{"@a:hs":7}}`, `400 M_BAD_JSON`},
		{"POST", "v3/keys/claim", `{"one_time_keys":{"@a:hs":{"D":"a"}}}`, `200 "one_time_keys":{"@a:hs":{"D":{"a:1":"k"}}}`},
		{"POST", "v3/keys/claim", `{"one_time_keys":{"@a:hs":{"D":"a"}}}`, `200 {"failures":{},"one_time_keys":{}}`},
		{"POST", "v3/keys/claim", `{}`, `400 M_MISSING_PARAM`},
		{"GET", "v3/keys/changes?from=s0&to=s1", ``, `200 {"changed":["@a:hs"],"left":[]}`},
		{"GET", "v3/keys/changes?from=s99&to=s99", ``, `200 {"changed":[],"left":[]}`},
		{"GET", "v3/keys/changes?from=x&to=s1", ``, `400 M_INVALID_PARAM`},
		{"GET", "v3/keys/changes?from=s0", ``, `400 M_MISSING_PARAM`},

		{"POST", "v3/keys/device_signing/upload", `{"master_key":` + masterKey(key1) + `}`, `200 {}`},
		{"POST", "v3/keys/device_signing/upload", `{"master_key":` + masterKey(key1) + `}`, `200 {}`},
		{"POST", "v3/keys/device_signing/upload", `{"master_key":` + masterKey(key2) + `}`, `401 m.login.password`},
		{"POST", "v3/keys/device_signing/upload", `{"master_key":` + masterKey(key2) + `,"auth":{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a"},"password":"wrong"}}`, `401 M_FORBIDDEN`},
		{"POST", "v3/keys/device_signing/upload", `{"master_key":` + masterKey(key2) + `,"auth":{"type":"m.login.password","identifier":{"type":"m.id.user","user":"a"},"password":"correct horse"}}`, `200 {}`},
		{"POST", "v3/keys/device_signing/upload", `{"master_key":{"user_id":"@a:hs"}}`, `400 M_INVALID_PARAM`},
		{"POST", "v3/keys/signatures/upload", `{"@a:hs":{"X":{}}}`, `200 "X":{"errcode":"M_NOT_FOUND"`},
		{"POST", "v3/keys/signatures/upload", `{}`, `200 {"failures":{}}`},

		{"PUT", "v3/sendToDevice/m.x/t1", `{"messages":{"@a:hs":{"*":{}}}}`, `200 {}`},
		{"PUT", "v3/sendToDevice/m.x/t2", `{}`, `400 M_MISSING_PARAM`},
		{"PUT", "v3/sendToDevice/m.x/t4", `{"messages":{"@a:hs":{"D":{"a":"\ud800"}}}}`, `400 M_BAD_JSON`},
		{"PUT", "v3/sendToDevice/m.x/t5", `{"messages":{"@a:hs":{"D":{"a":1e400}}}}`, `400 M_BAD_JSON`},
		{"PUT", "v3/sendToDevice/m.x/t6", `{"messages":{"@a:hs":{"D":{"a":1.5,"a":2}}}}`, `200 {}`},
		{"PUT", "v3/sendToDevice/m.x/t3", `{"messages":{"@a:hs":{"D":[]}}}`, `400 M_BAD_JSON`},

		{"GET", "v3/room_keys/version", ``, `404 M_NOT_FOUND`},
		{"POST", "v3/room_keys/version", `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2"}`, `400 M_MISSING_PARAM`},
		{"POST", "v3/room_keys/version", `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{}}`, `200 {"version":"1"}`},
		{"GET", "v3/room_keys/version", ``, `200 "count":0,"etag":"0","version":"1"`},
		{"PUT", "v3/room_keys/version/1", `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"a":1},"version":"2"}`, `400 M_INVALID_PARAM`},
		{"PUT", "v3/room_keys/version/1", `{"algorithm":"m.megolm_backup.v1.curve25519-aes-sha2","auth_data":{"a":1}}`, `200 {}`},
		{"GET", "v3/room_keys/version/1", ``, `200 "auth_data":{"a":1}`},
		{"GET", "v3/room_keys/version/x", ``, `404 M_NOT_FOUND`},
		{"PUT", "v3/room_keys/keys/!r/s%2F1?version=1", backedUp, `200 {"etag":"1","count":1}`},
		{"PUT", "v3/room_keys/keys/!r/s%2F1", backedUp, `400 M_MISSING_PARAM`},
		{"PUT", "v3/room_keys/keys/!r/s?version=7", backedUp, `403 "current_version":"1"`},
		{"PUT", "v3/room_keys/keys/!r/s?version=1", `{}`, `400 M_MISSING_PARAM`},
		{"PUT", "v3/room_keys/keys/!r?version=1", `{"sessions":{"s2":` + backedUp + `}}`, `200 {"etag":"2","count":2}`},
		{"PUT", "v3/room_keys/keys?version=1", `{"rooms":{"!q":{"sessions":{"s":` + backedUp + `}}}}`, `200 {"etag":"3","count":3}`},
		{"PUT", "v3/room_keys/keys?version=1", `{}`, `400 M_MISSING_PARAM`},
		{"GET", "v3/room_keys/keys/!r/s%2F1?version=1", ``, `200 ` + backedUp},
		{"GET", "v3/room_keys/keys/!r/none?version=1", ``, `404 M_NOT_FOUND`},
		{"GET", "v3/room_keys/keys/!r?version=1", ``, `200 {"sessions":{"s/1":` + backedUp + `,"s2":` + backedUp + `}}`},
		{"GET", "v3/room_keys/keys/!none?version=1", ``, `200 {"sessions":{}}`},
		{"GET", "v3/room_keys/keys?version=1", ``, `200 {"rooms":{"!q":{"sessions":{"s":` + backedUp + `}},"!r":{"sessions":{"s/1":` + backedUp + `,"s2":` + backedUp + `}}}}`},
		{"GET", "v3/room_keys/keys?version=9", ``, `404 M_NOT_FOUND`},
		{"DELETE", "v3/room_keys/keys/!r/s2?version=1", ``, `200 {"etag":"4","count":2}`},
		{"DELETE", "v3/room_keys/keys/!r?version=1", ``, `200 {"etag":"5","count":1}`},
		{"DELETE", "v3/room_keys/keys?version=1", ``, `200 {"etag":"6","count":0}`},
		{"GET", "v3/room_keys/keys?version=1", ``, `200 {"rooms":{}}`},
		{"DELETE", "v3/room_keys/version/1", ``, `200 {}`},
		{"DELETE", "v3/room_keys/version/1", ``, `200 {}`},
		{"GET", "v3/room_keys/keys?version=1", ``, `404 M_NOT_FOUND`},

		{"GET", dehydrated, ``, `404 M_NOT_FOUND`},
		{"PUT", dehydrated, `{"device_id":"H+/","device_data":{"algorithm":"x"},"device_keys":{"user_id":"@a:hs","device_id":"H+/","algorithms":[],"keys":{}}}`, `200 {"device_id":"H+/"}`},
		{"PUT", dehydrated, `{"device_id":"H"}`, `400 M_MISSING_PARAM`},
		{"GET", dehydrated, ``, `200 {"device_data":{"algorithm":"x"},"device_id":"H+/"}`},
		{"GET", dehydrated + "/H+%2F/events", ``, `200 {"events":[],"next_batch":`},
		{"POST", dehydrated + "/H+%2F/events", `{}`, `200 {"events":[],"next_batch":`},
		{"GET", dehydrated + "/H+%2F/events?next_batch=x", ``, `400 M_INVALID_PARAM`},
		{"GET", dehydrated + "/D/events", ``, `403 M_FORBIDDEN`},
		{"DELETE", dehydrated, ``, `200 {"device_id":"H+/"}`},
		{"DELETE", dehydrated, ``, `404 M_NOT_FOUND`},
	}
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			n := newNode(t, sqldbtest.OpenURL(t, sqldbtest.URL(t, d)))
			for _, c := range cases {
				status, text, _ := strings.Cut(c.want, " ")
				if got, body := n.call(c.method, c.path, c.body); strconv.Itoa(got) != status || !strings.Contains(body, text) {
					t.Errorf("%s %s %s: %d %s, want %s", c.method, c.path, c.body, got, body, c.want)
				}
			}
		})
	}
}
