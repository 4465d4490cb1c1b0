package client

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"knock/internal/matrixerr"
)

// server routes a.example:1 to a mux and returns the rig.
func withServer(t testing.TB, routes map[string]http.HandlerFunc) *rig {
	t.Helper()
	r := newRig(t)
	r.host("a.example", "8.8.8.1")
	mux := http.NewServeMux()
	for pattern, h := range routes {
		mux.HandleFunc(pattern, h)
	}
	r.route(t, "8.8.8.1:1", mux.ServeHTTP, "a.example")
	return r
}

const there = "a.example:1"

func TestCalls(t *testing.T) {
	ctx := context.Background()
	const fed = "/_matrix/federation"
	r := withServer(t, map[string]http.HandlerFunc{
		"GET " + fed + "/v1/make_join/{room}/{user}": func(w http.ResponseWriter, req *http.Request) {
			if got := req.URL.Query()["ver"]; len(got) != 2 || req.PathValue("room") != "!r/1:a.example" {
				t.Errorf("%s", req.URL)
			}
			_, _ = io.WriteString(w, `{"room_version":"11","event":{"type":"m.room.member"}}`)
		},
		"GET " + fed + "/v1/make_leave/{room}/{user}": answer(`{"event":{}}`),
		"GET " + fed + "/v1/make_knock/{room}/{user}": answer(`{"event":7}`),
		"PUT " + fed + "/v2/send_join/{room}/{event}": func(w http.ResponseWriter, req *http.Request) {
			rest := `"members_omitted":false}`
			if req.PathValue("event") == "$partial" && req.URL.RawQuery == "omit_members=true" {
				rest = `"servers_in_room":["a.example","b.example"],"members_omitted":true}`
			}
			_, _ = io.WriteString(w, `{"origin":"a.example","auth_chain":[{"a":1},{"a":2}],"state":[{"s":"]}\"["}] ,"event":{"e":1},`+rest)
		},
		"PUT " + fed + "/v1/send_knock/{room}/{event}":  answer(`{"knock_room_state":[{},{}]}`),
		"PUT " + fed + "/v2/invite/{room}/{event}":      answer(`{"event":{"i":1}}`),
		"GET " + fed + "/v1/state/{room}":               answer(`{"pdus":[{},{}],"auth_chain":[]}`),
		"GET " + fed + "/v1/state_ids/{room}":           answer(`{"pdu_ids":["$1"],"auth_chain_ids":["$2","$3"]}`),
		"GET " + fed + "/v1/event/{event}":              answer(`{"origin":"a.example","pdus":[{"e":2}]}`),
		"GET " + fed + "/v1/event_auth/{room}/{event}":  answer(`{"auth_chain":[{}]}`),
		"GET " + fed + "/v1/backfill/{room}":            answer(`{"pdus":[{},{},{}]}`),
		"POST " + fed + "/v1/get_missing_events/{room}": answer(`{"events":[{},{},{}]}`),
		"GET " + fed + "/v1/timestamp_to_event/{room}": func(w http.ResponseWriter, req *http.Request) {
			_, _ = fmt.Fprintf(w, `{"event_id":"$%s","origin_server_ts":%s}`, req.FormValue("dir"), req.FormValue("ts"))
		},
		"GET " + fed + "/v1/query/profile":                  answer(`{"displayname":"A"}`),
		"GET " + fed + "/v1/query/directory":                answer(`{"room_id":"!r:a.example","servers":["a.example"]}`),
		"GET " + fed + "/v1/publicRooms":                    answer(`{"chunk":[]}`),
		"POST " + fed + "/v1/publicRooms":                   answer(`{"chunk":[1]}`),
		"GET " + fed + "/v1/hierarchy/{room}":               answer(`{"room":{}}`),
		"GET " + fed + "/v1/user/devices/{user}":            answer(`{"devices":[]}`),
		"GET /_matrix/key/v2/server":                        answer(`{"server_name":"a.example"}`),
		"POST /_matrix/key/v2/query":                        answer(`{"server_keys":[{}]}`),
		"PUT " + fed + "/v1/send/{txn}":                     answer(`{"pdus":{"$1":{},"$2":{"error":"no"}}}`),
		"PUT " + fed + "/v1/send_leave/{room}/{event}":      answer(`[200,{}]`),
		"GET " + fed + "/v1/version":                        answer(`{"server":{"name":"X","version":"1"}}`),
		"PUT /_matrix/federation/v2/send_leave/{room}/{ev}": refuse(404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`),
	})
	check := func(name string, ok bool, err error) {
		t.Helper()
		if !ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	version, tmpl, err := r.Make(ctx, "join", there, "!r/1:a.example", "@u:us.example", []string{"10", "11"})
	check("make_join", version == "11" && string(tmpl) == `{"type":"m.room.member"}`, err)
	version, _, err = r.Make(ctx, "leave", there, "!r", "@u", nil)
	check("make_leave", version == "1", err)
	if _, _, err = r.Make(ctx, "knock", there, "!r", "@u", nil); kindOf(err) != KindBadBody {
		t.Error(err)
	}
	var got []string
	into := func(name string) func(json.RawMessage) error {
		return func(raw json.RawMessage) error {
			got = append(got, name+string(raw))
			return nil
		}
	}
	err = r.SendJoin(ctx, there, "!r", "$e", json.RawMessage(`{}`), false, JoinSink{State: into("s"), Auth: into("a"), Event: into("e")})
	check("send_join", strings.Join(got, " ") == `a{"a":1} a{"a":2} s{"s":"]}\"["} e{"e":1}`, err)
	var named []string
	err = r.SendJoin(ctx, there, "!r", "$partial", json.RawMessage(`{}`), true, JoinSink{State: into("s"), Auth: into("a"), Event: into("e"), Omitted: func(servers []string) error {
		named = servers
		return nil
	}})
	check("send_join without members", strings.Join(named, " ") == "a.example b.example", err)
	check("send_leave", true, r.SendLeave(ctx, there, "!r", "$e", json.RawMessage(`{}`)))
	list, err := r.SendKnock(ctx, there, "!r", "$e", json.RawMessage(`{}`))
	check("send_knock", len(list) == 2, err)
	raw, err := r.Invite(ctx, there, "!r", "$e", "11", json.RawMessage(`{}`), nil)
	check("invite", string(raw) == `{"i":1}`, err)
	got = nil
	err = r.State(ctx, there, "!r", "$e", JoinSink{State: into("s"), Auth: into("a")})
	check("state", len(got) == 2 && got[1][0] == 's', err)
	ids, authIDs, err := r.StateIDs(ctx, there, "!r", "$e")
	check("state_ids", len(ids) == 1 && len(authIDs) == 2, err)
	raw, err = r.Event(ctx, there, "$e")
	check("event", string(raw) == `{"e":2}`, err)
	list, err = r.EventAuth(ctx, there, "!r", "$e")
	check("event_auth", len(list) == 1, err)
	list, err = r.Backfill(ctx, there, "!r", []string{"$e"}, 2)
	check("backfill", len(list) == 2, err)
	list, err = r.MissingEvents(ctx, there, "!r", nil, []string{"$e"}, 10, 0)
	check("missing", len(list) == 3, err)
	for dir, want := range map[bool]string{true: "$f", false: "$b"} {
		id, ts, err := r.EventAtTime(ctx, there, "!r", 1_700_000_000_000, dir)
		check("timestamp_to_event", id == want && ts == 1_700_000_000_000, err)
	}
	profile, err := r.QueryProfile(ctx, there, "@u", "displayname")
	check("profile", string(profile["displayname"]) == `"A"`, err)
	room, servers, err := r.Alias(ctx, there, "#a:a.example")
	check("directory", room == "!r:a.example" && len(servers) == 1, err)
	raw, err = r.Hierarchy(ctx, there, "!r/1:a.example", true)
	check("hierarchy", string(raw) == `{"room":{}}`, err)
	raw, err = r.PublicRooms(ctx, there, PublicRoomsQuery{Limit: 1})
	check("publicRooms", string(raw) == `{"chunk":[]}`, err)
	raw, err = r.PublicRooms(ctx, there, PublicRoomsQuery{Filter: json.RawMessage(`{}`)})
	check("publicRooms", string(raw) == `{"chunk":[1]}`, err)
	raw, err = r.UserDevices(ctx, there, "@u")
	check("devices", string(raw) == `{"devices":[]}`, err)
	raw, err = r.ServerKeys(ctx, there)
	check("keys", string(raw) == `{"server_name":"a.example"}`, err)
	list, err = r.QueryKeys(ctx, there, map[string]map[string]int64{"b": {"ed25519:1": 5}})
	check("query keys", len(list) == 1, err)
	refused, err := r.SendTransaction(ctx, there, "1", &Transaction{Origin: "us.example"})
	check("send", len(refused) == 1 && refused["$2"] == "no", err)
	name, _, err := r.Version(ctx, there)
	check("version", name == "X", err)
	if n := r.net.count(); n > 2 {
		t.Errorf("%d connections for all calls", n)
	}
}

func refuse(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func TestInviteV1(t *testing.T) {
	r := withServer(t, map[string]http.HandlerFunc{
		"PUT /_matrix/federation/v1/invite/{room}/{event}": func(w http.ResponseWriter, req *http.Request) {
			var e struct {
				Unsigned struct {
					State []json.RawMessage `json:"invite_room_state"`
				} `json:"unsigned"`
			}
			if err := json.NewDecoder(req.Body).Decode(&e); err != nil || len(e.Unsigned.State) != 1 {
				t.Errorf("%+v, %v", e, err)
			}
			_, _ = io.WriteString(w, `[200,{"event":{"signed":1}}]`)
		},
	})
	state := []json.RawMessage{json.RawMessage(`{}`)}
	e, err := r.Invite(context.Background(), there, "!r", "$e", "1", json.RawMessage(`{}`), state)
	if err != nil || string(e) != `{"signed":1}` {
		t.Errorf("%s, %v", e, err)
	}
	if _, err := r.Invite(context.Background(), there, "!r", "$e", "6", json.RawMessage(`{}`), state); !unsupported(err) {
		t.Errorf("version 6 through the old endpoint: %v", err)
	}
}

func TestErrors(t *testing.T) {
	ctx := context.Background()
	r := withServer(t, map[string]http.HandlerFunc{
		"GET /_matrix/federation/v1/event/forbidden": refuse(403, `{"errcode":"M_FORBIDDEN","error":"no"}`),
		"GET /_matrix/federation/v1/event/version":   refuse(400, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"no","room_version":"99"}`),
		"GET /_matrix/federation/v1/event/limited":   refuse(429, `{"errcode":"M_LIMIT_EXCEEDED","error":"no","retry_after_ms":0}`),
		"GET /_matrix/federation/v1/event/text":      refuse(502, `<html>`),
		"GET /_matrix/federation/v1/event/json":      answer(`<html>`),
		"GET /_matrix/federation/v1/event/redirect": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "/_matrix/federation/v1/event/forbidden", http.StatusFound)
		},
	})
	for _, tt := range []struct {
		path, code string
		kind       Kind
		status     int
	}{
		{"forbidden", "M_FORBIDDEN", KindStatus, 403},
		{"version", "M_INCOMPATIBLE_ROOM_VERSION", KindStatus, 400},
		{"limited", "M_LIMIT_EXCEEDED", KindStatus, 429},
		{"redirect", "", KindStatus, 302},
		{"json", "", KindBadBody, 0},
		{"text", "", KindStatus, 502},
		{"text", "", KindBackoff, 0},
	} {
		_, err := r.Event(ctx, there, tt.path)
		var e *Error
		if !errors.As(err, &e) || e.Kind != tt.kind || e.Code != tt.status || (tt.code != "") != (e.Matrix != nil) || e.Matrix != nil && e.Matrix.Code != tt.code {
			t.Errorf("%s: %+v", tt.path, err)
		}
		if tt.path == "version" && e.Matrix.Fields["room_version"] != "99" {
			t.Errorf("%+v", e.Matrix.Fields)
		}
	}
}

// What our own clients may see of another server's error.
func TestErrorForClients(t *testing.T) {
	matrix := func(status int, code string) *Error {
		return &Error{Server: "a.example", Kind: KindStatus, Code: status, Matrix: matrixerr.New(status, code, "x")}
	}
	ofCall := func(call string, status int, code string) *Error {
		e := matrix(status, code)
		e.call = call
		return e
	}
	for _, tt := range []struct {
		in     *Error
		status int
		code   string
	}{
		{matrix(403, "M_FORBIDDEN"), 403, "M_FORBIDDEN"},
		{matrix(404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"},
		{matrix(400, "M_INVALID_PARAM"), 400, "M_INVALID_PARAM"},
		{ofCall("make_join", 400, "M_INVALID_PARAM"), 502, "M_UNKNOWN"},
		{ofCall("send_join", 400, "M_BAD_STATE"), 502, "M_UNKNOWN"},
		{ofCall("send_knock", 413, "M_TOO_LARGE"), 502, "M_UNKNOWN"},
		{ofCall("send_join", 500, "M_FORBIDDEN"), 502, "M_UNKNOWN"},
		{ofCall("send_join", 403, "M_FORBIDDEN"), 403, "M_FORBIDDEN"},
		{ofCall("make_join", 404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"},
		{ofCall("make_join", 400, "M_UNABLE_TO_GRANT_JOIN"), 400, "M_UNABLE_TO_GRANT_JOIN"},
		{ofCall("make_join", 400, "M_INCOMPATIBLE_ROOM_VERSION"), 400, "M_INCOMPATIBLE_ROOM_VERSION"},
		{matrix(401, "M_UNKNOWN_TOKEN"), 502, "M_UNKNOWN"},
		{matrix(401, "M_FORBIDDEN"), 502, "M_UNKNOWN"},
		{matrix(404, "M_UNRECOGNIZED"), 502, "M_UNKNOWN"},
		{matrix(429, "M_LIMIT_EXCEEDED"), 502, "M_UNKNOWN"},
		{&Error{Kind: KindStatus, Code: 404}, 502, "M_UNKNOWN"},
		{&Error{Kind: KindTimeout, Cause: context.DeadlineExceeded}, 504, "M_UNKNOWN"},
		{&Error{Kind: KindBackoff}, 502, "M_UNKNOWN"},
		{&Error{Kind: KindDenied}, 403, "M_FORBIDDEN"},
		{&Error{Kind: KindTooLarge, Cause: errTooLarge}, 502, "M_TOO_LARGE"},
		{&Error{Kind: KindBadName, Cause: errBadName}, 400, "M_INVALID_PARAM"},
	} {
		if got := matrixerr.From(fmt.Errorf("wrapped: %w", tt.in)); got.HTTP != tt.status || got.Code != tt.code {
			t.Errorf("%v: %d %s", tt.in, got.HTTP, got.Code)
		}
	}
}

// Servers that are not spoken to are asked for keys and for nothing else.
func TestServersThatAreNotSpokenTo(t *testing.T) {
	asked := 0
	r := withServer(t, map[string]http.HandlerFunc{"/": func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = io.WriteString(w, "{}")
	}})
	r.o.Speaks = func(server string) bool { return server != there }
	_, _, err := r.Make(t.Context(), "join", there, "!r", "@u", nil)
	if e := matrixerr.From(err); kindOf(err) != KindDenied || e.HTTP != 403 || e.Code != "M_FORBIDDEN" || asked != 0 {
		t.Errorf("a join through it: %v, asked %d times", err, asked)
	}
	if _, err := r.Download(t.Context(), there, "medium", 100); kindOf(err) != KindDenied || asked != 0 {
		t.Errorf("a file of it: %v, asked %d times", err, asked)
	}
	if _, err := r.ServerKeys(t.Context(), there); err != nil || asked != 1 {
		t.Errorf("its keys: %v, asked %d times", err, asked)
	}
	if _, _, err := r.Version(t.Context(), there); kindOf(err) != KindDenied {
		t.Errorf("its version: %v", err)
	}
}

func TestLimits(t *testing.T) {
	ctx := context.Background()
	bomb := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write([]byte(`{"server":{"name":"`))
		for range 64 {
			_, _ = z.Write([]byte(strings.Repeat("x", 1<<16)))
		}
		_ = z.Close()
	}
	huge := `{"pdus":[{"x":"` + strings.Repeat("x", maxEvent) + `"}],"auth_chain":[]}`
	r := withServer(t, map[string]http.HandlerFunc{
		"GET /_matrix/federation/v1/version":      bomb,
		"GET /_matrix/federation/v1/state/{room}": answer(huge),
		"GET /_matrix/federation/v1/event/{e}": func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
		},
	})
	if _, _, err := r.Version(ctx, there); kindOf(err) != KindTooLarge {
		t.Error(err)
	}
	if err := r.State(ctx, there, "!r", "$e", JoinSink{State: func(json.RawMessage) error { return nil }}); kindOf(err) != KindTooLarge {
		t.Error(err)
	}
	r.o.Timeout = 50 * time.Millisecond
	if _, err := r.Event(ctx, there, "stalls"); kindOf(err) != KindTimeout {
		t.Error(err)
	}
	r.o.Timeout = time.Minute
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := r.Event(short, there, "stalls"); kindOf(err) != KindTimeout {
		t.Error(err)
	}
}

func TestSinkErrorEndsTheCall(t *testing.T) {
	r := withServer(t, map[string]http.HandlerFunc{
		"PUT /_matrix/federation/v2/send_join/{room}/{event}": answer(`{"state":[{},{}],"auth_chain":[]}`),
	})
	mine := errors.New("enough")
	n := 0
	err := r.SendJoin(context.Background(), there, "!r", "$e", json.RawMessage(`{}`), false, JoinSink{State: func(json.RawMessage) error { n++; return mine }})
	if !errors.Is(err, mine) || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
}

func TestScanner(t *testing.T) {
	scanAll := func(in string) (n int, err error) {
		var sinkErr error
		count := func(json.RawMessage) error { n++; return nil }
		err = scanParts(newScanner(strings.NewReader(in)), map[string]part{"state": {list: count}, "event": {one: count}}, &sinkErr)
		return n, err
	}
	for in, want := range map[string]int{
		`{"state":[]}`: 0, ` { "x" : {"a":[1,2,{"b":"}]\\\""}]} , "state" : [ {} , [1] , "a" , 1 ] } `: 4,
		`{"event":null,"state":[{}]}`: 1, `{"state":[{}],"event":{}}`: 2, `{"st\u0061te":[1]}`: 1, `{"a":-1.5e3,"state":[true]}`: 1,
	} {
		if n, err := scanAll(in); n != want || err != nil {
			t.Errorf("%s: %d, %v", in, n, err)
		}
	}
	for _, in := range []string{
		``, `[]`, `{}`, `{"state":{}}`, `{"state":[`, `{"state":[{}`, `{"state":[{}]`, `{"state":[{} {}]}`, `{"state":[,]}`, `{"state":[],"state":[]}`,
		`{"state"}`, `{state:[]}`, `{"state":[1,]}`, `{"a":` + strings.Repeat("[", 2000), `{"a":,"state":[]}`, `{"` + strings.Repeat("k", 2000) + `":1}`,
		`{"state":[` + strings.Repeat("1", 100) + `]}`,
	} {
		if _, err := scanAll(in); err == nil {
			t.Errorf("%.60s: accepted", in)
		}
	}
}

func FuzzScanner(f *testing.F) {
	f.Add(`{"state":[{"a":"b"},[1]],"event":{}}`)
	f.Fuzz(func(t *testing.T, in string) {
		var sinkErr error
		var got []json.RawMessage
		keep := func(raw json.RawMessage) error { got = append(got, raw); return nil }
		err := scanParts(newScanner(strings.NewReader(in)), map[string]part{"state": {list: keep}}, &sinkErr)
		var want struct {
			State []json.RawMessage `json:"state"`
		}
		if err != nil || !json.Valid([]byte(in)) || json.Unmarshal([]byte(in), &want) != nil || len(want.State) != len(got) {
			return // what is not JSON, or has case variants of the key, may be read in its own way
		}
		for i := range got {
			if string(got[i]) != string(want.State[i]) {
				t.Errorf("%q: %s, want %s", in, got[i], want.State[i])
			}
		}
	})
}

func TestHealth(t *testing.T) {
	ctx := context.Background()
	var status atomic.Int32
	status.Store(http.StatusBadGateway)
	h := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
		_, _ = io.WriteString(w, `{}`)
	}
	r := withServer(t, map[string]http.HandlerFunc{"PUT /_matrix/federation/v1/send/{txn}": h, "GET /_matrix/federation/v1/query/profile": h})
	send := func() error {
		_, err := r.SendTransaction(ctx, there, "1", &Transaction{})
		return err
	}
	for i := range 5 {
		if err := send(); kindOf(err) != KindStatus {
			t.Fatalf("%d: %v", i, err)
		}
		wait := r.Wait(there)
		if most := time.Second << i; wait > most || wait < most*79/100 {
			t.Errorf("after %d failures: %s", i+1, wait)
		}
		if err := send(); kindOf(err) != KindBackoff {
			t.Errorf("%d: tried again at once: %v", i, err)
		}
		r.clock.Advance(wait)
	}
	_ = send() // a back-off of half a minute
	if _, err := r.QueryProfile(ctx, there, "@u", ""); kindOf(err) != KindBackoff {
		t.Error(err)
	}
	r.clock.Advance(hurried)
	status.Store(http.StatusOK)
	if _, err := r.QueryProfile(ctx, there, "@u", ""); err != nil {
		t.Errorf("a person waits: %v", err)
	}
	if r.Wait(there) != 0 {
		t.Error("an answer clears the back-off")
	}
	status.Store(http.StatusBadGateway)
	_ = send()
	if r.Wait(there) == 0 {
		t.Error("no back-off")
	}
	if r.Alive(there); r.Wait(there) != 0 {
		t.Error("a sign of life clears the back-off")
	}
}

func TestBackoffLimits(t *testing.T) {
	for name, most := range map[string]time.Duration{"other.example": backoffMax, "partner.example": backoffPartner} {
		r := newRig(t)
		d, err := r.dests.get(name)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			r.clock.Advance(2 * time.Hour)
			d.health.fail(r.clock.Now(), 0)
			d.health.fail(r.clock.Now().Add(-time.Minute), 0) // was under way before: counts no more
		}
		if wait := d.health.wait(false); wait > most || wait < most*79/100 || d.health.failures != 40 {
			t.Errorf("%s: %s after %d", name, wait, d.health.failures)
		}
		r.clock.Advance(2 * time.Hour)
		d.health.fail(r.clock.Now(), 50*time.Minute) // which the server asked for
		if wait, want := d.health.wait(false), min(most, 50*time.Minute); wait < want*79/100 || wait > most {
			t.Errorf("%s: %s after it asked for 50 minutes", name, wait)
		}
	}
}

// TestBecomingPartner counts a server as a partner as soon as it is one, not only when it was met as one.
func TestBecomingPartner(t *testing.T) {
	r := newRig(t)
	partner := false
	r.dests.c.o.Partners = func(string) bool { return partner }
	d, err := r.dests.get("other.example")
	if err != nil {
		t.Fatal(err)
	}
	partner = true
	for range 40 {
		r.clock.Advance(2 * time.Hour)
		d.health.fail(r.clock.Now(), 0)
	}
	if wait := d.health.wait(false); wait > backoffPartner {
		t.Errorf("a partner waits %s", wait)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	var now, most atomic.Int32
	gate := make(chan struct{})
	r := withServer(t, map[string]http.HandlerFunc{"GET /_matrix/federation/v1/version": func(w http.ResponseWriter, _ *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-gate
		now.Add(-1)
		_, _ = io.WriteString(w, `{}`)
	}})
	errs := make(chan error)
	for range 3 * r.o.PerDestination {
		go func() {
			_, _, err := r.Version(context.Background(), there)
			errs <- err
		}()
	}
	for range 3 * r.o.PerDestination {
		gate <- struct{}{}
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if m := int(most.Load()); m > r.o.PerDestination {
		t.Errorf("%d at once", m)
	}
}

func multipartAnswer(file string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "multipart/mixed; boundary=b")
		_, _ = io.WriteString(w, "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n"+file+"\r\n--b--\r\n")
	}
}

func TestMedia(t *testing.T) {
	ctx := context.Background()
	const dl = "GET /_matrix/federation/v1/media/download/"
	r := withServer(t, map[string]http.HandlerFunc{
		dl + "plain":  multipartAnswer("Content-Type: image/png\r\nContent-Disposition: inline\r\n\r\nPICTURE"),
		dl + "moved":  multipartAnswer("Location: https://cdn.example/x\r\n\r\n"),
		dl + "inside": multipartAnswer("Location: https://169.254.169.254/x\r\n\r\n"),
		dl + "http":   multipartAnswer("Location: http://cdn.example/x\r\n\r\n"),
		dl + "json":   answer(`{}`),
		dl + "gone":   refuse(404, `{"errcode":"M_NOT_FOUND","error":"gone"}`),
		dl + "cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "multipart/mixed; boundary=b")
			_, _ = io.WriteString(w, "--b\r\n\r\n{}\r\n--b\r\n\r\nhalf")
		},
		dl + "old":      refuse(404, `{"errcode":"M_UNRECOGNIZED","error":"?"}`),
		dl + "oldproxy": refuse(404, `not found`),
		dl + "oldplain": refuse(400, `bad request`),
		dl + "bad":      refuse(400, `{"errcode":"M_INVALID_PARAM","error":"bad"}`),
		"GET /_matrix/media/v3/download/{server}/{id}": func(w http.ResponseWriter, req *http.Request) {
			if req.URL.Query().Get("allow_remote") != "false" || req.Header.Get("Authorization") != "" {
				t.Errorf("%s %s", req.URL, req.Header)
			}
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, "LEGACY")
		},
		"GET /_matrix/federation/v1/media/thumbnail/{id}": func(w http.ResponseWriter, req *http.Request) {
			multipartAnswer(fmt.Sprintf("Content-Type: image/%s\r\n\r\n%s", req.FormValue("method"), req.FormValue("width")))(w, req)
		},
	})
	r.host("cdn.example", "8.8.8.2")
	r.route(t, "8.8.8.2:443", func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the signature goes to a third party")
		}
		_, _ = io.WriteString(w, "FROM CDN")
	}, "cdn.example")
	for _, tt := range []struct {
		id, kind, body string
		limit          int64
		err            Kind
	}{
		{"plain", "image/png", "PICTURE", 7, ""},
		{"moved", "text/plain; charset=utf-8", "FROM CDN", 8, ""},
		{"old", "text/plain", "LEGACY", 6, ""},
		{"oldproxy", "text/plain", "LEGACY", 6, ""},
		{"oldplain", "text/plain", "LEGACY", 6, ""},
		{"bad", "", "", 100, KindStatus},
		{"inside", "", "", 100, KindRefused},
		{"http", "", "", 100, KindBadBody},
		{"json", "", "", 100, KindBadBody},
		{"gone", "", "", 100, KindStatus},
	} {
		m, err := r.Download(ctx, there, tt.id, tt.limit)
		if err != nil || tt.err != "" {
			if kindOf(err) != tt.err {
				t.Errorf("%s: %v", tt.id, err)
			}
			continue
		}
		body, err := io.ReadAll(m.Body)
		_ = m.Body.Close()
		if err != nil || string(body) != tt.body || m.ContentType != tt.kind {
			t.Errorf("%s: %q %q, %v", tt.id, m.ContentType, body, err)
		}
		if m, err = r.Download(ctx, there, tt.id, tt.limit-1); err != nil {
			t.Errorf("%s: %v", tt.id, err)
			continue
		}
		body, err = io.ReadAll(m.Body)
		_ = m.Body.Close()
		if !IsTooLarge(err) || int64(len(body)) != tt.limit-1 {
			t.Errorf("%s: %q, %v", tt.id, body, err)
		}
	}
	m, err := r.Download(ctx, there, "cut", 100)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(m.Body); err == nil {
		t.Error("half a file was taken for a whole one")
	}
	_ = m.Body.Close()
	m, err = r.Thumbnail(ctx, there, "x", ThumbnailQuery{Width: 32, Height: 32, Method: "crop"}, 100)
	if err != nil || m.ContentType != "image/crop" {
		t.Fatal(err)
	}
	_ = m.Body.Close()
	d, _ := r.dests.get(there)
	if len(d.slots) != 0 {
		t.Errorf("%d slots are still taken", len(d.slots))
	}
}

func BenchmarkStream(b *testing.B) {
	item := `{"type":"m.room.member","content":{"membership":"join","displayname":"` + strings.Repeat("x", 600) + `"}}`
	in := `{"state":[` + strings.Repeat(item+",", 20_000) + item + `]}`
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		var sinkErr error
		n := 0
		count := func(json.RawMessage) error { n++; return nil }
		if err := scanParts(newScanner(strings.NewReader(in)), map[string]part{"state": {list: count}}, &sinkErr); err != nil || n != 20_001 {
			b.Fatal(n, err)
		}
	}
}
