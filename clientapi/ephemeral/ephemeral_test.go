package ephemeral

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/test/shapes"
)

// room has the event $e in its main timeline.
type room struct{}

func (room) Locate(_ context.Context, room, id string) (ephemeral.Place, bool, error) {
	return ephemeral.Place{RoomNID: 1, Ord: 1, Pos: 1, Thread: "main"}, room == "!r:x" && id == "$e", nil
}

type accountData map[string]json.RawMessage

func (m accountData) AccountData(_ context.Context, _, _, kind string) (json.RawMessage, error) {
	if c, ok := m[kind]; ok {
		return c, nil
	}
	return nil, matrixerr.NotFound("none")
}

func (m accountData) PutAccountData(_ context.Context, _, _, kind string, content json.RawMessage) error {
	m[kind] = content
	return nil
}

func TestRoutes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		hub := stream.New(0)
		hub.SetJoined("@a:x", "!r:x", true)
		hub.SetJoined("@b:x", "!r:x", true)
		data := accountData{}
		a := New(Options{Rooms: hub, Typing: ephemeral.NewTyping(ephemeral.TypingOptions{Hub: hub}),
			Receipts: ephemeral.NewReceipts(ephemeral.ReceiptOptions{DB: db, Hub: hub, Events: room{}, AccountData: data,
				Log: logrus.NewEntry(logrus.New())}),
			Presence: ephemeral.NewPresence(ephemeral.PresenceOptions{Enabled: true, Hub: hub})})
		router := shapes.Watched(t, httpx.NewRouter(a.Routes(), httpx.Hooks{
			Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
				return httpx.Caller{UserID: token}, nil
			}}))
		for _, c := range []struct{ user, method, path, body, want string }{
			{"@a:x", "PUT", "rooms/!r:x/typing/@a:x", `{"typing":true,"timeout":30000}`, `200 {}`},
			{"@a:x", "PUT", "rooms/!r:x/typing/@a:x", `{"typing":false}`, `200 {}`},
			{"@a:x", "PUT", "rooms/!r:x/typing/@a:x", `{}`, `400 M_MISSING_PARAM`},
			{"@a:x", "PUT", "rooms/!r:x/typing/@a:x", `{"typing":"yes"}`, `400 M_BAD_JSON`},
			{"@a:x", "PUT", "rooms/!r:x/typing/@a:x", `{"typing":true,"timeout":-9223372036854775808}`, `200 {}`},
			{"@a:x", "PUT", "rooms/!r:x/typing/@b:x", `{"typing":true}`, `403 M_FORBIDDEN`},
			{"@c:x", "PUT", "rooms/!r:x/typing/@c:x", `{"typing":true}`, `403 M_FORBIDDEN`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.read/$e", ``, `200 {}`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.read.private/$e", `{"thread_id":"main"}`, `200 {}`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.read/$e", `{"thread_id":""}`, `400 M_INVALID_PARAM`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.read/$e", `{"thread_id":7}`, `400 M_INVALID_PARAM`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.read/$e", `{"thread_id":"$other"}`, `400 M_INVALID_PARAM`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.read/$none", `{}`, `404 M_NOT_FOUND`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.other/$e", `{}`, `400 M_INVALID_PARAM`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.fully_read/$e", `{"thread_id":"main"}`, `400 M_INVALID_PARAM`},
			{"@a:x", "POST", "rooms/!r:x/receipt/m.fully_read/$e", `{}`, `200 {}`},
			{"@c:x", "POST", "rooms/!r:x/receipt/m.read/$e", `{}`, `403 M_FORBIDDEN`},
			{"@a:x", "POST", "rooms/!r:x/read_markers", `{"m.fully_read":"$e","m.read":"$e","m.read.private":"$e"}`, `200 {}`},
			{"@a:x", "POST", "rooms/!r:x/read_markers", `{"m.fully_read":"$none"}`, `404 M_NOT_FOUND`},
			{"@a:x", "POST", "rooms/!r:x/read_markers", `{"m.read":{}}`, `400 M_BAD_JSON`},
			{"@c:x", "POST", "rooms/!r:x/read_markers", `{}`, `403 M_FORBIDDEN`},
			{"@a:x", "PUT", "presence/@a:x/status", `{"presence":"unavailable","status_msg":"lunch"}`, `200 {}`},
			{"@a:x", "PUT", "presence/@a:x/status", `{"presence":"dancing"}`, `400 M_INVALID_PARAM`},
			{"@a:x", "PUT", "presence/@a:x/status", `{}`, `400 M_MISSING_PARAM`},
			{"@a:x", "PUT", "presence/@b:x/status", `{"presence":"online"}`, `403 M_FORBIDDEN`},
			{"@b:x", "GET", "presence/@a:x/status", ``, `200 "presence":"unavailable"`},
			{"@b:x", "GET", "presence/@a:x/status", ``, `200 "status_msg":"lunch"`},
			{"@c:x", "GET", "presence/@a:x/status", ``, `403 M_FORBIDDEN`},
		} {
			req := httptest.NewRequest(c.method, "/_matrix/client/v3/"+c.path, strings.NewReader(c.body))
			req.Header.Set("Authorization", "Bearer "+c.user)
			w := httptest.NewRecorder()
			router.ServeHTTP(w, req)
			status, text, _ := strings.Cut(c.want, " ")
			if status != strconv.Itoa(w.Code) || !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s %s %s as %s: %d %s, want %s", c.method, c.path, c.body, c.user, w.Code, w.Body, c.want)
			}
		}
		if string(data[ephemeral.FullyRead]) != `{"event_id":"$e"}` {
			t.Errorf("the marker is %s", data[ephemeral.FullyRead])
		}
	})
}
