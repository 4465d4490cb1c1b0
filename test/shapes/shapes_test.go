package shapes

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
)

func TestCheck(t *testing.T) {
	b, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		status       int
		body         string
		want         []string
	}{
		{"GET", "/_matrix/client/v3/account/whoami", 200, `{"user_id":"@a:b","more":1}`, nil},
		{"GET", "/_matrix/client/r0/account/whoami", 200, `{}`, []string{"GET /_matrix/client/v3/account/whoami answers 200: the body lacks user_id"}},
		{"GET", "/_matrix/client/v3/account/whoami", 200, `{"user_id":"@a:b","is_guest":"no"}`, []string{"GET /_matrix/client/v3/account/whoami answers 200: .is_guest should be boolean and is string"}},
		{"GET", "/_matrix/client/v3/account/whoami", 201, `{}`, []string{"GET /_matrix/client/v3/account/whoami answers 201"}},
		{"GET", "/_matrix/client/v3/account/whoami", 401, `{"errcode":"M_X","error":"x"}`, nil},
		{"GET", "/_matrix/client/v3/account/whoami", 401, `{"error":"x"}`, []string{"GET /_matrix/client/v3/account/whoami answers 401: the body lacks errcode"}},
		{"POST", "/_matrix/client/v3/account/password", 401, `{"flows":[{"stages":["m.login.password"]}],"session":"x","params":{}}`, nil},
		{"POST", "/_matrix/client/v3/account/password", 401, `{"flows":[{}]}`, []string{"POST /_matrix/client/v3/account/password answers 401: .flows[] lacks stages"}},
		{"GET", "/_matrix/client/v3/rooms/%21a%2Fb/members", 200, `{"chunk":[]}`, nil},
		{"GET", "/_matrix/client/v3/rooms/%21a%2Fb/joined_members", 200, `{"joined":{"@a:b":5,"@b:c":6}}`, []string{"GET /_matrix/client/v3/rooms/{roomId}/joined_members answers 200: .joined.* should be an object and is number"}},
		{"GET", "/_matrix/client/v3/publicRooms", 200, `{"chunk":[{"room_id":"!a:b","num_joined_members":1.5,"world_readable":true,"guest_can_join":false}]}`,
			[]string{"GET /_matrix/client/v3/publicRooms answers 200: .chunk[].num_joined_members should be integer and is number"}},
		{"GET", "/_matrix/client/v3/account/whoami", 200, `{"user_id":`, []string{"GET /_matrix/client/v3/account/whoami answers 200 with a body that is no JSON: unexpected EOF"}},
		{"GET", "/_knock/anything", 200, `[]`, nil},
	} {
		at, err := url.Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Check(c.method, at, c.status, []byte(c.body)); !slices.Equal(got, c.want) {
			t.Errorf("%s %s %s: %q", c.method, c.path, c.body, got)
		}
	}
}

func TestWatch(t *testing.T) {
	b, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	h := b.Watch(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.URL.Query().Get("type"))
		_, _ = io.WriteString(w, "{}")
	}), func(text string) { got = append(got, text) })
	for _, kind := range []string{"text/plain", "application/json", "application/json; charset=utf-8"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", "/_matrix/client/v3/account/whoami?type="+url.QueryEscape(kind), nil))
		if rec.Body.String() != "{}" {
			t.Error(rec.Body)
		}
	}
	if len(got) != 2 {
		t.Error(got)
	}
}
