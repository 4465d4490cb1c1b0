package rendezvous

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/clock"
	"knock/internal/httpx"
)

type server struct {
	t      *testing.T
	router *httpx.Router
	now    *clock.Manual
}

func newServer(t *testing.T) *server {
	now := clock.NewManual(time.UnixMilli(1_700_000_000_000))
	return &server{t, httpx.NewRouter(New(Options{BaseURL: "https://hs.example", Now: now.Now}).Routes(), httpx.Hooks{}), now}
}

// do does a request; header has names and values in turn.
func (s *server) do(status int, method, path, body string, header ...string) *httptest.ResponseRecorder {
	s.t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.router.ServeHTTP(w, req)
	if w.Code != status {
		s.t.Fatalf("%s %s: %d %s, want %d", method, path, w.Code, w.Body, status)
	}
	return w
}

func (s *server) json(status int, method, path, body string) gjson.Result {
	s.t.Helper()
	return gjson.Parse(s.do(status, method, path, body).Body.String())
}

// TestTalk has two devices write in turn.
func TestTalk(t *testing.T) {
	s := newServer(t)
	if !s.json(200, "GET", newer, "").Get("create_available").Bool() {
		t.Error("not available")
	}
	made := s.json(200, "POST", newer, `{"data":"hello"}`)
	at, first := newer+"/"+made.Get("id").Str, made.Get("sequence_token").Str
	if made.Get("expires_in_ms").Int() != lifetime.Milliseconds() || first == "" {
		t.Error(made)
	}
	if got := s.json(200, "GET", at, ""); got.Get("data").Str != "hello" || got.Get("sequence_token").Str != first {
		t.Error(got)
	}
	s.now.Advance(time.Second)
	second := s.json(200, "PUT", at, fmt.Sprintf(`{"sequence_token":%q,"data":"answer"}`, first)).Get("sequence_token").Str
	if got := s.json(409, "PUT", at, fmt.Sprintf(`{"sequence_token":%q,"data":"late"}`, first)); got.Get("errcode").Str != "IO_ELEMENT_MSC4388_CONCURRENT_WRITE" {
		t.Error(got)
	}
	if got := s.json(200, "GET", at, ""); got.Get("data").Str != "answer" || got.Get("sequence_token").Str != second || got.Get("expires_in_ms").Int() != 119_000 {
		t.Error(got)
	}
	s.do(403, "GET", at, "", "Sec-Fetch-Mode", "navigate")
	s.json(400, "PUT", at, `{"sequence_token":"x"}`)
	s.json(413, "POST", newer, `{"data":"`+strings.Repeat("x", maxData+1)+`"}`)
	s.json(404, "GET", older+"/"+made.Get("id").Str, "")
	s.json(200, "DELETE", at, "")
	s.json(404, "DELETE", at, "")
	s.json(404, "PUT", at, `{"sequence_token":"x","data":""}`)
}

func TestOlderForm(t *testing.T) {
	s := newServer(t)
	text := []string{"Content-Type", "text/plain"}
	made := s.do(201, "POST", older, "hello", text...)
	url, ok := strings.CutPrefix(gjson.Get(made.Body.String(), "url").Str, "https://hs.example")
	tag := made.Header().Get("ETag")
	if !ok || tag == "" || made.Header().Get("Expires") != "Tue, 14 Nov 2023 22:15:20 GMT" || made.Header().Get("Last-Modified") == "" {
		t.Fatal(made.Body, made.Header())
	}
	got := s.do(200, "GET", url, "")
	if got.Body.String() != "hello" || got.Header().Get("Content-Type") != "text/plain" || got.Header().Get("ETag") != tag ||
		got.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(got.Header().Get("Content-Security-Policy"), "sandbox") {
		t.Error(got.Body, got.Header())
	}
	for _, same := range []string{tag, "W/" + tag} {
		if got := s.do(304, "GET", url, "", "If-None-Match", same); got.Header().Get("ETag") != tag || got.Body.Len() != 0 {
			t.Error(got.Header())
		}
	}
	next := s.do(202, "PUT", url, "answer", append(text, "If-Match", tag)...).Header().Get("ETag")
	late := s.do(412, "PUT", url, "late", append(text, "If-Match", tag)...)
	if late.Header().Get("ETag") != next || gjson.Get(late.Body.String(), `org\.matrix\.msc4108\.errcode`).Str != "M_CONCURRENT_WRITE" {
		t.Error(late.Body)
	}
	if got := s.do(200, "GET", url, "", "If-None-Match", tag); got.Body.String() != "answer" {
		t.Error(got.Body)
	}
	s.do(400, "PUT", url, "x", text...)
	s.do(400, "POST", older, "<script>", "Content-Type", "text/html")
	s.do(413, "POST", older, strings.Repeat("x", maxData+1), text...)
	s.do(204, "DELETE", url, "")
	s.do(404, "GET", url, "")
}

func TestSessionsEnd(t *testing.T) {
	s := newServer(t)
	first := newer + "/" + s.json(200, "POST", newer, `{"data":""}`).Get("id").Str
	s.now.Advance(lifetime - 1)
	s.json(200, "GET", first, "")
	s.now.Advance(1)
	s.json(404, "GET", first, "")
	all := newSessions(s.now.Now)
	var ids []string
	for range maxSessions + 1 {
		ids = append(ids, all.create("x", "").id)
	}
	if _, ok := all.get(ids[0]); ok || all.all.Len() != maxSessions || len(all.byID) != maxSessions {
		t.Error("sessions are not bounded")
	}
	if _, ok := all.get(ids[1]); !ok {
		t.Error("more than the oldest went")
	}
}

func TestOlderFormNeedsAURL(t *testing.T) {
	rt := httpx.NewRouter(New(Options{}).Routes(), httpx.Hooks{})
	w := httptest.NewRecorder()
	rt.ServeHTTP(w, httptest.NewRequest(http.MethodPost, older, nil))
	if w.Code != 404 {
		t.Error(w.Code)
	}
}
