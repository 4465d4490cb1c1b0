package httpx

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"knock/internal/matrixerr"
)

func echo(name string) Handler {
	return func(_ context.Context, r *Request) (any, error) {
		return map[string]any{"route": name, "vars": r.Vars, "user": r.Caller.UserID}, nil
	}
}

func testRouter(hooks Hooks) *Router {
	const v3 = "/_matrix/client/v3"
	return NewRouter([]Route{
		{Method: "GET", Path: v3 + "/rooms/{roomId}/state", Handler: echo("all")},
		{Method: "GET", Path: v3 + "/rooms/{roomId}/state/{type}", Handler: echo("type")},
		{Method: "GET", Path: v3 + "/rooms/{roomId}/state/{type}/{key:.*}", Handler: echo("key")},
		{Method: "PUT", Path: v3 + "/rooms/{roomId}/state/{type}/{key:.*}", Handler: echo("put")},
		{Method: "GET", Path: v3 + "/profile/{user}", Handler: echo("profile")},
		{Method: "GET", Path: v3 + "/whoami", Handler: echo("whoami"), Auth: AuthGuestOK, Hot: true},
		{Method: "GET", Path: v3 + "/user", Handler: echo("user"), Auth: AuthUser},
		{Method: "GET", Path: v3 + "/optional", Handler: echo("optional"), Auth: AuthOptional},
		{Method: "GET", Path: v3 + "/limited", Handler: echo("limited"), Limit: "login"},
		{Method: "GET", Path: v3 + "/panic", Handler: func(context.Context, *Request) (any, error) { panic("boom") }},
		{Method: "GET", Path: v3 + "/raw", Handler: func(context.Context, *Request) (any, error) { return Raw(`{"a":"<&>"}`), nil }},
		{Method: "GET", Path: v3 + "/html", Handler: func(context.Context, *Request) (any, error) {
			return map[string]any{"a": "<&>", "b": Raw(`{"c":1}`)}, nil
		}},
		{Method: "GET", Path: v3 + "/nil", Handler: func(context.Context, *Request) (any, error) { return nil, nil }},
		{Method: "GET", Path: v3 + "/secret", Handler: func(context.Context, *Request) (any, error) {
			return nil, errors.New("disk on fire")
		}},
		{Method: "GET", Path: v3 + "/teapot", Handler: func(context.Context, *Request) (any, error) {
			return &Response{Status: 418, Header: http.Header{"x-a": {"b"}}, Body: nil}, nil
		}},
		{Method: "GET", Path: v3 + "/half", Handler: func(context.Context, *Request) (any, error) {
			return Stream(func(w http.ResponseWriter) error {
				_, _ = io.WriteString(w, "half")
				return errors.New("disk gone")
			}), nil
		}},
		{Method: "GET", Path: v3 + "/none", Handler: func(context.Context, *Request) (any, error) {
			return Stream(func(http.ResponseWriter) error { return matrixerr.NotFound("no such file") }), nil
		}},
		{Method: "POST", Path: v3 + "/small", MaxBody: 20, Handler: decode},
		{Method: "POST", Path: v3 + "/opt", OptionalBody: true, Handler: decode},
		{Method: "GET", Path: "/_matrix/federation/v1/version", Handler: echo("version")},
		{Method: "PUT", Path: "/_matrix/federation/v1/send/{txnId}", Handler: echo("send"), Auth: AuthServer},
	}, hooks)
}

func decode(_ context.Context, r *Request) (any, error) {
	var v struct {
		A string `json:"a"`
	}
	err := r.JSON(&v)
	return v, err
}

func do(h http.Handler, method, target, content string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(content))
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPaths(t *testing.T) {
	h := testRouter(Hooks{})
	const room = "/_matrix/client/v3/rooms/!r:x"
	for _, c := range []struct{ method, path, want string }{
		{"GET", room + "/state", `{"route":"all","user":"","vars":{"roomId":"!r:x"}}`},
		{"GET", room + "/state/m.room.name", `{"route":"type","user":"","vars":{"roomId":"!r:x","type":"m.room.name"}}`},
		{"GET", room + "/state/m.room.name/", `{"route":"key","user":"","vars":{"key":"","roomId":"!r:x","type":"m.room.name"}}`},
		{"GET", room + "/state/m.room.name//", `{"route":"key","user":"","vars":{"key":"/","roomId":"!r:x","type":"m.room.name"}}`},
		{"GET", room + "/state/t/a//b", `{"route":"key","user":"","vars":{"key":"a//b","roomId":"!r:x","type":"t"}}`},
		{"GET", room + "/state/t/a%2F..%2Fb", `{"route":"key","user":"","vars":{"key":"a/../b","roomId":"!r:x","type":"t"}}`},
		{"GET", room + "/state/t/..", `{"route":"key","user":"","vars":{"key":"..","roomId":"!r:x","type":"t"}}`},
		{"PUT", room + "/state/a%2Fb/", `{"route":"put","user":"","vars":{"key":"","roomId":"!r:x","type":"a/b"}}`},
		{"GET", "/_matrix/client/r0/rooms/%21r%3Ax/state", `{"route":"all","user":"","vars":{"roomId":"!r:x"}}`},
		{"GET", "/_matrix/client/v3/profile/@a%2f%C3%A4:x", `{"route":"profile","user":"","vars":{"user":"@a/ä:x"}}`},
		{"GET", "/_matrix/client/v3/profile/%ff", `{"errcode":"M_INVALID_PARAM","error":"The path holds something that is not percent-encoded UTF-8: user"}`},
		{"GET", "/_matrix/client/v3/../v3/whoami", `{"errcode":"M_UNRECOGNIZED","error":"Unknown endpoint"}`},
		{"GET", "//_matrix/client/v3/whoami", `{"errcode":"M_UNRECOGNIZED","error":"Unknown endpoint"}`},
		{"GET", "/", `{"errcode":"M_UNRECOGNIZED","error":"Unknown endpoint"}`},
		{"DELETE", room + "/state/t/k", `{"errcode":"M_UNRECOGNIZED","error":"This endpoint does not take this method"}`},
		{"POST", "/_matrix/federation/v1/version", `{"errcode":"M_UNRECOGNIZED","error":"This endpoint does not take this method"}`},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			if got := do(h, c.method, c.path, "").Body.String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	h := testRouter(Hooks{
		Authenticate: func(_ context.Context, token string, _ *Request) (Caller, error) {
			switch token {
			case "alice":
				return Caller{UserID: "@alice:x"}, nil
			case "guest":
				return Caller{UserID: "@1:x", Guest: true}, nil
			}
			return Caller{}, matrixerr.UnknownToken("unknown", false)
		},
		AuthenticateServer: func(context.Context, *Request) (string, error) { return "", matrixerr.Unauthorized("bad signature") },
		RateLimit: func(class string, _ Caller, ip string) *matrixerr.Error {
			if class == "login" && ip == "192.0.2.1" {
				return matrixerr.LimitExceeded(1500 * time.Millisecond)
			}
			return nil
		},
	})
	const v3 = "/_matrix/client/v3"
	for _, c := range []struct {
		method, path, body, token string
		code                      int
		want                      string
	}{
		{"GET", v3 + "/whoami", "", "", 401, "M_MISSING_TOKEN"},
		{"GET", v3 + "/whoami", "", "bad", 401, "M_UNKNOWN_TOKEN"},
		{"GET", v3 + "/whoami", "", "alice", 200, "@alice:x"},
		{"GET", v3 + "/whoami", "", "guest", 200, "@1:x"},
		{"GET", v3 + "/whoami?access_token=alice", "", "", 200, "@alice:x"},
		{"HEAD", v3 + "/whoami", "", "alice", 200, ""},
		{"GET", v3 + "/user", "", "guest", 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"GET", v3 + "/optional", "", "", 200, "optional"},
		{"GET", v3 + "/optional", "", "alice", 200, "@alice:x"},
		{"GET", v3 + "/optional", "", "bad", 401, "M_UNKNOWN_TOKEN"},
		{"GET", v3 + "/limited", "", "", 429, `"retry_after_ms":1500`},
		{"GET", v3 + "/panic", "", "", 500, `"Internal error"`},
		{"GET", v3 + "/secret", "", "", 500, `{"errcode":"M_UNKNOWN","error":"Internal error"}`},
		{"GET", v3 + "/raw", "", "", 200, `{"a":"<&>"}`},
		{"GET", v3 + "/html", "", "", 200, `{"a":"<&>","b":{"c":1}}`},
		{"GET", v3 + "/nil", "", "", 200, `{}`},
		{"GET", v3 + "/teapot", "", "", 418, `{}`},
		{"GET", v3 + "/none", "", "", 404, `no such file`},
		{"POST", v3 + "/small", `{"a":"b"}`, "", 200, `{"a":"b"}`},
		{"POST", v3 + "/small", "", "", 400, "M_NOT_JSON"},
		{"POST", v3 + "/small", "{", "", 400, "M_NOT_JSON"},
		{"POST", v3 + "/small", "{} {}", "", 400, "M_NOT_JSON"},
		{"POST", v3 + "/small", "[]", "", 400, "M_BAD_JSON"},
		{"POST", v3 + "/small", "null", "", 400, "M_BAD_JSON"},
		{"POST", v3 + "/small", "{\"a\":\"\xff\"}", "", 400, "M_NOT_JSON"},
		{"POST", v3 + "/small", `{"a":1}`, "", 400, `\"a\" must not be a number`},
		{"POST", v3 + "/small", `{"a":"12345678901234567890"}`, "", 413, "at most 20 bytes"},
		{"POST", v3 + "/opt", ``, "", 200, `{"a":""}`},
		{"POST", v3 + "/opt", `nope`, "", 400, "M_NOT_JSON"},
		{"PUT", "/_matrix/federation/v1/send/1", `{}`, "", 401, "M_UNAUTHORIZED"},
	} {
		t.Run(c.method+c.path+c.body+c.token, func(t *testing.T) {
			var header []string
			if c.token != "" {
				header = []string{"Authorization", "Bearer " + c.token}
			}
			w := do(h, c.method, c.path, c.body, header...)
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, c.code, c.want)
			}
			if c.code == 429 && w.Header().Get("Retry-After") != "2" {
				t.Errorf("Retry-After is %q", w.Header().Get("Retry-After"))
			}
		})
	}
}

func TestCORS(t *testing.T) {
	h := testRouter(Hooks{})
	for _, c := range []struct {
		method, path string
		code         int
		open         bool
	}{
		{"OPTIONS", "/_matrix/client/v3/whoami", 204, true},
		{"GET", "/_matrix/client/v3/whoami", 401, true},
		{"GET", "/_matrix/client/v3/nothing", 404, true},
		{"OPTIONS", "/_matrix/federation/v1/version", 405, false},
		{"GET", "/_matrix/federation/v1/version", 200, false},
	} {
		w := do(h, c.method, c.path, "")
		if open := w.Header().Get("Access-Control-Allow-Origin") == "*"; w.Code != c.code || open != c.open {
			t.Errorf("%s %s: got %d open=%v", c.method, c.path, w.Code, open)
		}
	}
}

func TestLogNamesNoSecrets(t *testing.T) {
	logger, hook := logtest.NewNullLogger()
	reg := prometheus.NewRegistry()
	h := testRouter(Hooks{Log: logrus.NewEntry(logger), Registerer: reg})
	do(h, "GET", "/_matrix/client/v3/profile/@a:x?access_token=sesame", "", "Authorization", "Bearer sesame")
	do(h, "GET", "/_matrix/client/v3/secret", "")
	do(h, "GET", "/_matrix/client/v3/panic", "")
	entries := hook.AllEntries()
	if len(entries) != 4 {
		t.Fatalf("%d lines for three requests and a panic", len(entries))
	}
	for _, e := range entries {
		s, err := e.String()
		if err != nil || strings.Contains(s, "sesame") || strings.Contains(s, "@a:x") {
			t.Errorf("line %q (%v)", s, err)
		}
	}
	if got := entries[1].Data["error"]; got != "M_UNKNOWN: Internal error: disk on fire" && got != "disk on fire" {
		t.Errorf("the cause is %v", got)
	}
	if entries[2].Data["stack"] == nil || entries[3].Level != logrus.ErrorLevel {
		t.Error("the panic has no stack or no error line")
	}
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 3 {
		t.Errorf("metrics: %v, %v", families, err)
	}
}

func TestHalfAnAnswerIsCut(t *testing.T) {
	srv := httptest.NewServer(testRouter(Hooks{}))
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/_matrix/client/v3/half")
	if err != nil {
		return // cut before the headers went out
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Fatal("half an answer was read without an error")
	}
}

func TestClientIP(t *testing.T) {
	p := proxies{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, c := range []struct{ peer, forwarded, want string }{
		{"203.0.113.9:1", "1.2.3.4", "203.0.113.9"},
		{"10.0.0.1:1", "", "10.0.0.1"},
		{"10.0.0.1:1", "1.2.3.4", "1.2.3.4"},
		{"10.0.0.1:1", "6.6.6.6, 1.2.3.4, 10.2.2.2", "1.2.3.4"},
		{"10.0.0.1:1", "10.3.3.3, 10.2.2.2", "10.3.3.3"},
		{"10.0.0.1:1", "6.6.6.6, garbage", "10.0.0.1"},
		{"[::1]:1", "2001:db8::1", "2001:db8::1"},
		{"[::ffff:10.0.0.1]:1", "::ffff:1.2.3.4", "1.2.3.4"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.peer
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		if got := p.clientIP(r); got != c.want {
			t.Errorf("%v: got %s", c, got)
		}
	}
}

func TestInt(t *testing.T) {
	r := NewRequest(httptest.NewRequest("GET", "/?a=5&b=-1&c=x&d=999", nil), nil, Caller{})
	for _, c := range []struct {
		name string
		want int
		ok   bool
	}{{"a", 5, true}, {"b", 0, false}, {"c", 0, false}, {"d", 100, true}, {"e", 10, true}} {
		if got, err := r.Int(c.name, 10, 100); got != c.want || (err == nil) != c.ok {
			t.Errorf("%s: %d, %v", c.name, got, err)
		}
	}
}

func TestTableMistakes(t *testing.T) {
	for name, rows := range map[string][]Route{
		"twice":    {{Method: "GET", Path: "/a", Handler: echo("")}, {Method: "GET", Path: "/a", Handler: echo("")}},
		"variable": {{Method: "GET", Path: "/a/{b}", Handler: echo("")}},
		"bad path": {{Method: "GET", Path: "/{a", Handler: echo("")}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("accepted")
				}
			}()
			NewRouter(rows, Hooks{})
		})
	}
}

func TestLongPollOutlivesItsBody(t *testing.T) {
	// The deadline of a body must not end the request's context later on.
	done := make(chan error, 1)
	srv := httptest.NewServer(NewRouter([]Route{{Method: "POST", Path: "/poll", Handler: func(ctx context.Context, r *Request) (any, error) {
		if _, err := r.Bytes(); err != nil {
			return nil, err
		}
		done <- ctx.Err()
		return nil, nil
	}}}, Hooks{}))
	defer srv.Close()
	resp, err := http.Post(srv.URL+"/poll", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := <-done; err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp.Status)
	}
}

func BenchmarkColdRoute(b *testing.B) {
	var rows []Route
	for _, noun := range []string{"rooms", "user", "keys", "devices", "profile", "pushrules", "directory", "account"} {
		for i := range 25 {
			rows = append(rows, Route{Method: "GET", Path: "/_matrix/client/v3/" + noun + "/{id}/do" + string(rune('a'+i)), Handler: echo("")})
		}
	}
	h := NewRouter(rows, Hooks{})
	r := httptest.NewRequest("GET", "/_matrix/client/v3/account/!r:x/do"+string(rune('a'+24)), nil)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
