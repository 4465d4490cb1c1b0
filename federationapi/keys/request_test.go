package keys

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"knock/internal/clock"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/event"
)

func TestParseXMatrix(t *testing.T) {
	good := xMatrix{origin: "a.example:80", destination: "b.example", key: "ed25519:k", sig: "abc", hasDestination: true}
	older := good
	older.destination, older.hasDestination = "", false
	slash := good
	slash.sig = "a/b="
	tests := []struct {
		in   string
		want xMatrix
		ok   bool
	}{
		{`X-Matrix origin="a.example:80",destination="b.example",key="ed25519:k",sig="abc"`, good, true},
		{`x-MATRIX  origin=a.example:80 , Destination=b.example	,KEY=ed25519:k,sig=abc`, good, true},
		{`X-Matrix origin="a.example:80",key="ed25519:k",sig="abc"`, older, true},
		{`X-Matrix origin="a\.example:80",destination="b.example",key="ed25519:k",signature="abc",x=y`, good, true},
		{`X-Matrix ,origin="a.example:80",,destination="b.example",key="ed25519:k",sig="a/b=",`, slash, true},
		{`X-Matrix`, xMatrix{}, false},
		{`X-Matrix origin`, xMatrix{}, false},
		{`X-Matrix origin=`, xMatrix{}, false},
		{`X-Matrix origin="a.example`, xMatrix{}, false},
		{`X-Matrix origin="a.example:80" destination="b.example",key="ed25519:k",sig="abc"`, xMatrix{}, false},
		{`X-Matrix origin="a.example:80",origin="c.example",key="ed25519:k",sig="abc"`, xMatrix{}, false},
		{`X-Matrix origin="not a name",key="ed25519:k",sig="abc"`, xMatrix{}, false},
		{`X-Matrix origin="a.example",key="rsa:k",sig="abc"`, xMatrix{}, false},
		{`X-Matrix origin="a.example",key="ed25519:k",sig=a/b`, xMatrix{}, false},
		{`X-Matrix origin="a.example",key="ed25519:k",sig="` + strings.Repeat("a", maxHeader) + `"`, xMatrix{}, false},
		{"X-Matrix " + strings.Repeat("a=b,", 40) + `origin="a.example"`, xMatrix{}, false},
	}
	for _, tt := range tests {
		got, isOurs, err := parseXMatrix(tt.in)
		if !isOurs || (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%.80s: got %+v, %v", tt.in, got, err)
		}
	}
	if _, ok, _ := parseXMatrix("Bearer x"); ok {
		t.Error("a bearer token is no X-Matrix header")
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a.example:80",destination="b.example",key="ed25519:k",sig="abc"`)
	f.Add(`X-Matrix origin=a.example,key=ed25519:k,sig="a\"b"`)
	f.Fuzz(func(t *testing.T, header string) {
		x, ok, err := parseXMatrix(header)
		if !ok || err != nil {
			return
		}
		quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
		h := "X-Matrix origin=" + quote(x.origin) + ",key=" + quote(x.key) + ",sig=" + quote(x.sig)
		if x.hasDestination {
			h += ",destination=" + quote(x.destination)
		}
		if len(h) > maxHeader {
			return
		}
		if again, _, err := parseXMatrix(h); err != nil || again != x {
			t.Errorf("%q: %+v, then %+v, %v", header, x, again, err)
		}
	})
}

// sign makes the header for a request, as the specification's example does.
func sign(t testing.TB, s *remote, method, uri, destination, body string) string {
	t.Helper()
	obj := map[string]any{"method": method, "uri": uri, "origin": s.name}
	h := `X-Matrix origin="` + s.name + `",key="` + s.id + `"`
	if destination != "" {
		obj["destination"] = destination
		h += `,destination="` + destination + `"`
	}
	if body != "" {
		obj["content"] = json.RawMessage(body)
	}
	raw, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := event.Canonical(nil, raw)
	if err != nil {
		t.Fatal(err)
	}
	return h + `,sig="` + base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.key, canonical)) + `"`
}

// signText signs a body byte by byte.
func signText(s *remote, method, uri, destination, body string) string {
	text := `{"content":` + body + `,"destination":"` + destination + `","method":"` + method + `","origin":"` + s.name + `","uri":"` + uri + `"}`
	return `X-Matrix origin=` + s.name + `,destination="` + destination + `",key="` + s.id + `",sig="` +
		base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.key, []byte(text))) + `"`
}

func TestVerifyRequest(t *testing.T) {
	const uri = "/_matrix/federation/v1/send/1?x=%2F&y=<>"
	const req1 = `{"pdus":[{"content":{"a\"b":1,"c\\d":2,"é":" \u0001"}}], "origin":"a.example"}`
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s, other := newRemote("a.example", "ed25519:1"), newRemote("b.example", "ed25519:1")
		r := newRing(db, newWorld(s, other), clock.NewManual(start))
		tests := []struct {
			name      string
			headers   []string
			body      string
			code      string
			wantsName string
		}{
			{"no body", []string{sign(t, s, "PUT", uri, "us.example", "")}, "", "", "a.example"},
			{"req-1: keys with quotes", []string{sign(t, s, "PUT", uri, "us.example", req1)}, req1, "", "a.example"},
			{"no destination", []string{sign(t, s, "PUT", uri, "", "{}")}, " { } ", "", "a.example"},
			{"other headers beside", []string{"Bearer x", sign(t, s, "PUT", uri, "us.example", "")}, "", "", "a.example"},
			{"none", nil, "", "M_UNAUTHORIZED", ""},
			{"meant for another", []string{sign(t, s, "PUT", uri, "them.example", "")}, "", "M_UNAUTHORIZED", ""},
			{"another method", []string{sign(t, s, "GET", uri, "us.example", "")}, "", "M_UNAUTHORIZED", ""},
			{"another target", []string{sign(t, s, "PUT", "/x", "us.example", "")}, "", "M_UNAUTHORIZED", ""},
			{"another body", []string{sign(t, s, "PUT", uri, "us.example", "{}")}, `{"a":1}`, "M_UNAUTHORIZED", ""},
			{"not JSON", []string{sign(t, s, "PUT", uri, "us.example", "{}")}, `{"a":`, "M_NOT_JSON", ""},
			{"a key twice, as others sign it", []string{sign(t, s, "PUT", uri, "us.example", `{"a":[{"b":2}]}`)}, `{"a":[{"b":1,"b":2}]}`, "", "a.example"},
			{"a key twice, the first signed", []string{sign(t, s, "PUT", uri, "us.example", `{"a":[{"b":1}]}`)}, `{"a":[{"b":1,"b":2}]}`, "M_NOT_JSON", ""},
			{"signed as it came", []string{signText(s, "PUT", uri, "us.example", "{\"a\":\"\xff\",\"a\":1e999}")}, "{\"a\":\"\xff\",\"a\":1e999}", "", "a.example"},
			{"not as it came", []string{signText(s, "PUT", uri, "us.example", "{\"a\":\"\xff\"}")}, "{\"a\":\"\xfe\"}", "M_NOT_JSON", ""},
			{"signed for a longer target", []string{signText(s, "PUT", uri+`","uri":"`+uri, "us.example", `{`)}, `{`, "M_NOT_JSON", ""},
			{"a canonical body must be signed as one", []string{signText(s, "PUT", uri, "us.example", `{ }`)}, `{ }`, "M_UNAUTHORIZED", ""},
			{"two origins", []string{sign(t, s, "PUT", uri, "us.example", ""), sign(t, other, "PUT", uri, "us.example", "")}, "", "M_UNAUTHORIZED", ""},
			{"ourselves", []string{sign(t, newRemote("us.example", "ed25519:us"), "PUT", uri, "us.example", "")}, "", "M_UNAUTHORIZED", ""},
			{"forged", []string{sign(t, newRemote("a.example", "ed25519:1"), "PUT", uri, "us.example", "")}, "", "M_UNAUTHORIZED", ""},
			{"unknown server", []string{sign(t, newRemote("c.example", "ed25519:1"), "PUT", uri, "us.example", "")}, "", "M_UNAUTHORIZED", ""},
		}
		for _, tt := range tests {
			origin, err := r.VerifyRequest(context.Background(), "PUT", uri, tt.headers, []byte(tt.body), []string{"us.example"})
			if origin != tt.wantsName || (err == nil) != (tt.code == "") || err != nil && matrixerr.From(err).Code != tt.code {
				t.Errorf("%s: %q, %v", tt.name, origin, err)
			}
		}
	})
}

// Old keys sign events only, and keys that ran out are asked for again.
func TestRequestKeyMustBeInUse(t *testing.T) {
	s := newRemote("a.example", "ed25519:1")
	c := clock.NewManual(start)
	r := newRing(sqldbtest.Open(t, sqldb.SQLite), newWorld(s), c)
	verify := func(h string) error {
		_, err := r.VerifyRequest(context.Background(), "GET", "/x", []string{h}, nil, []string{"us.example"})
		return err
	}
	h := sign(t, s, "GET", "/x", "us.example", "")
	if err := verify(h); err != nil {
		t.Fatal(err)
	}
	c.Advance(48 * time.Hour)
	if err := verify(h); err == nil {
		t.Error("a key that ran out was accepted")
	}
	s.until = c.Now().Add(time.Hour).UnixMilli()
	c.Advance(time.Minute)
	if err := verify(h); err != nil {
		t.Errorf("after the server extended it: %v", err)
	}
	s.rotate("ed25519:2", c.Now().UnixMilli())
	c.Advance(2 * time.Hour)
	s.until = c.Now().Add(time.Hour).UnixMilli()
	if err := verify(h); err == nil {
		t.Error("a retired key was accepted")
	}
	if err := verify(sign(t, s, "GET", "/x", "us.example", "")); err != nil {
		t.Errorf("the new key: %v", err)
	}
}

func TestRoutes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s, dead := newRemote("a.example", "ed25519:1"), newRemote("dead.example", "ed25519:1")
		dead.down = true
		c := clock.NewManual(start)
		r := newRing(db, newWorld(s, dead), c)
		call := func(h httpx.Handler, target, body string, vars map[string]string) ([]byte, error) {
			method := http.MethodGet
			if body != "" {
				method = http.MethodPost
			}
			req := httpx.NewRequest(httptest.NewRequest(method, target, strings.NewReader(body)), vars, httpx.Caller{})
			v, err := h(context.Background(), req)
			if err != nil {
				return nil, err
			}
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return raw, nil
		}
		own, err := call(r.serveOwn, "/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := parseAnswer(own, "us.example"); err != nil || a.ValidUntil != start.Add(week).UnixMilli() {
			t.Errorf("our own answer: %v", err)
		}

		type list struct {
			Keys []json.RawMessage `json:"server_keys"`
		}
		query := func(h httpx.Handler, target, body, name string) []json.RawMessage {
			t.Helper()
			raw, err := call(h, target, body, map[string]string{"serverName": name})
			var out list
			if err != nil || json.Unmarshal(raw, &out) != nil || out.Keys == nil {
				t.Fatalf("%s: %v", raw, err)
			}
			return out.Keys
		}
		got := query(r.serveQuery, "/", "", "a.example")
		if len(got) != 1 {
			t.Fatalf("%d answers", len(got))
		}
		if a, err := parseAnswer(got[0], "a.example"); err != nil || event.VerifyJSON(a.raw, "us.example", "ed25519:us", r.own["ed25519:us"].key) != nil {
			t.Errorf("not countersigned: %s", got[0])
		}
		if got := query(r.serveQuery, "/", "", "dead.example"); len(got) != 0 {
			t.Errorf("a dead server: %s", got)
		}
		if got := query(r.serveQuery, "/", "", "not a name"); len(got) != 0 {
			t.Errorf("no server: %s", got)
		}
		all := `{"server_keys":{"a.example":{"ed25519:1":{}},"us.example":{},"dead.example":{}}}`
		if got := query(r.serveQueries, "/", all, ""); len(got) != 2 {
			t.Errorf("%d answers", len(got))
		}
		if s.asked != 1 {
			t.Errorf("asked %d times", s.asked)
		}
		// A server that is gone is answered for from what was stored.
		s.down = true
		c.Advance(30 * 24 * time.Hour)
		if got := query(r.serveQuery, "/?minimum_valid_until_ts=1800000000000", "", "a.example"); len(got) != 1 || s.asked != 2 {
			t.Errorf("%d answers, asked %d times", len(got), s.asked)
		}
		for _, bad := range []string{`{}`, `{"server_keys":7}`, `[]`} {
			if _, err := call(r.serveQueries, "/", bad, nil); err == nil {
				t.Errorf("%s accepted", bad)
			}
		}
		if len(r.Routes()) != 3 {
			t.Error("routes")
		}
	})
}
