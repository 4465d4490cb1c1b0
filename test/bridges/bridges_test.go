// Package bridges tests whole nodes with application services that behave, and that do not.
package bridges

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

const (
	server  = "hs.test"
	asToken = "as-token-of-irc"
	hsToken = "hs-token-of-irc"
)

// service is an application service. It takes a transaction once, by its number.
type service struct {
	t    testing.TB
	http *httptest.Server
	file string

	mu      hstest.Board
	mood    func(w http.ResponseWriter, txn string, body []byte) bool // answers itself when it returns true
	txns    map[string]string                                         // number → event ids
	events  []event
	beside  []beside // of transactions that have any
	queries []string
	create  func(path string) bool
	network func(path string, query url.Values) (answer any) // of third-party lookups; nil: 404
}

type event struct {
	ID       string  `json:"event_id"`
	Room     string  `json:"room_id"`
	Type     string  `json:"type"`
	Sender   string  `json:"sender"`
	StateKey *string `json:"state_key"`
	TS       int64   `json:"origin_server_ts"`
	Content  struct {
		Body       string `json:"body"`
		Membership string `json:"membership"`
	} `json:"content"`
}

// beside is what a transaction has beside events.
type beside struct {
	Ephemeral []passing      `json:"ephemeral"`
	Unstable  []passing      `json:"de.sorunome.msc2409.ephemeral"`
	ToDevice  []toDevice     `json:"de.sorunome.msc2409.to_device"`
	Lists     deviceLists    `json:"org.matrix.msc3202.device_lists"`
	OneTime   oneTimeKeys    `json:"org.matrix.msc3202.device_one_time_keys_count"`
	Fallback  fallbackUnused `json:"org.matrix.msc3202.device_unused_fallback_key_types"`
}

type (
	passing struct {
		Type    string          `json:"type"`
		Room    string          `json:"room_id"`
		Sender  string          `json:"sender"`
		Content json.RawMessage `json:"content"`
	}
	toDevice struct {
		Type    string         `json:"type"`
		Sender  string         `json:"sender"`
		User    string         `json:"to_user_id"`
		Device  string         `json:"to_device_id"`
		Content map[string]any `json:"content"`
	}
	deviceLists struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	}
	oneTimeKeys    map[string]map[string]map[string]int
	fallbackUnused map[string]map[string][]string
)

func newService(t testing.TB, more ...string) *service {
	v := &service{t: t, txns: map[string]string{}}
	v.http = httptest.NewServer(v)
	t.Cleanup(v.http.Close)
	v.file = filepath.Join(t.TempDir(), "irc.yaml")
	text := fmt.Sprintf(`id: irc
url: %s
as_token: %s
hs_token: %s
sender_localpart: ircbot
rate_limited: false
namespaces:
  users: [{exclusive: true, regex: "@irc_.*"}]
  aliases: [{exclusive: true, regex: "#irc_.*"}]
`, v.http.URL, asToken, hsToken) + strings.Join(more, "\n")
	if err := os.WriteFile(v.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+hsToken {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/_matrix/app/v1/")
	kind, rest, _ := strings.Cut(path, "/")
	v.mu.Lock()
	mood := v.mood
	v.mu.Unlock()
	switch {
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case kind == "transactions":
		body, err := io.ReadAll(r.Body)
		if err != nil || mood != nil && mood(w, rest, body) {
			return
		}
		v.take(rest, body)
		_, _ = io.WriteString(w, "{}")
	case kind == "thirdparty":
		v.mu.Lock()
		v.queries = append(v.queries, path)
		network := v.network
		v.mu.Unlock()
		answer := network(rest, r.URL.Query())
		if answer == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	case kind == "ping":
		_, _ = io.WriteString(w, "{}")
	default:
		v.mu.Lock()
		v.queries = append(v.queries, path)
		create := v.create
		v.mu.Unlock()
		if create == nil || !create(path) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, "{}")
	}
}

func (v *service) take(txn string, body []byte) {
	var t struct{ Events []event }
	if err := json.Unmarshal(body, &t); err != nil {
		v.t.Error(err)
	}
	ids := ""
	for _, e := range t.Events {
		ids += e.ID + " "
	}
	var fields map[string]json.RawMessage
	var more beside
	if err := errors.Join(json.Unmarshal(body, &fields), json.Unmarshal(body, &more)); err != nil {
		v.t.Error(err)
	}
	delete(fields, "events") // their ages differ from one try to the next
	if len(fields) > 0 {
		ids += fmt.Sprintf("%s", fields)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if before, again := v.txns[txn]; again {
		if before != ids {
			v.t.Errorf("transaction %s had %s and has %s", txn, before, ids)
		}
		return
	}
	v.txns[txn] = ids
	v.events = append(v.events, t.Events...)
	if len(fields) > 0 {
		v.beside = append(v.beside, more)
	}
	v.mu.Changed()
}

func (v *service) behave(mood func(http.ResponseWriter, string, []byte) bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mood = mood
}

// until waits until the service has got an event.
func (v *service) until(what string, want func(e event) bool) (found event) {
	v.t.Helper()
	v.mu.Until(v.t, func() bool {
		at := slices.IndexFunc(v.events, want)
		if at >= 0 {
			found = v.events[at]
		}
		return at >= 0
	}, func() string {
		return fmt.Sprintf("the service has waited in vain for %s; it has %v", what, texts(v.events, ""))
	})
	return found
}

// gets waits until something beside events is wanted.
func (v *service) gets(what string, want func(b beside) bool) {
	v.t.Helper()
	v.mu.Until(v.t, func() bool { return slices.ContainsFunc(v.beside, want) }, func() string {
		return fmt.Sprintf("the service has waited in vain for %s; it has %+v", what, v.beside)
	})
}

// passes waits for an ephemeral event.
func (v *service) passes(what string, want func(p passing) bool) {
	v.t.Helper()
	v.gets(what, func(b beside) bool { return slices.ContainsFunc(b.Ephemeral, want) })
}

func (v *service) said(body string) event {
	v.t.Helper()
	return v.until(body, func(e event) bool { return e.Content.Body == body })
}

// bodies are the texts of a room, in the order in which they came.
func (v *service) bodies(room string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return texts(v.events, room)
}

func texts(events []event, room string) (out []string) {
	for _, e := range events {
		if (room == "" || e.Room == room) && e.Content.Body != "" {
			out = append(out, e.Content.Body)
		}
	}
	return out
}

// bot calls the client API with the service's token.
type bot struct {
	t testing.TB
	c *lab.Client
}

func (b bot) as(user, method, path string, body any) map[string]any {
	b.t.Helper()
	out := map[string]any{}
	if err := b.try(user, method, path, body, &out); err != nil {
		b.t.Fatalf("as %s: %v", user, err)
	}
	return out
}

func (b bot) try(user, method, path string, body, out any) error {
	sep := "?"
	if strings.Contains(path, "?") {
		sep = "&"
	}
	if user != "" {
		path += sep + "user_id=" + url.QueryEscape("@"+user+":"+server)
	}
	return b.c.Call(b.t.Context(), method, path, body, out)
}

func (b bot) register(name string) error {
	return b.try("", "POST", lab.V3("register"), map[string]any{"type": "m.login.application_service", "username": name, "inhibit_login": true}, nil)
}

func (b bot) say(user, room, text string) string {
	b.t.Helper()
	id, _ := b.as(user, "PUT", lab.V3("rooms", room, "send", "m.room.message", text), map[string]string{"msgtype": "m.text", "body": text})["event_id"].(string)
	return id
}

func refused(t *testing.T, err error, status int, code string) {
	t.Helper()
	var e *lab.Error
	if !errors.As(err, &e) || e.Status != status || e.Code != code {
		t.Errorf("%v, want %d %s", err, status, code)
	}
}

func start(t testing.TB, s *hstest.Site) (*hstest.Node, *service, bot) {
	v := newService(t)
	n := s.Start(server, "registration.mode=open", "app_service_files=["+v.file+"]")
	b := bot{t, n.Client()}
	b.c.Token = asToken
	return n, v, b
}

func TestBridge(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		n, v, b := start(t, s)
		ctx := t.Context()
		alice := n.MustRegister("alice")

		// Names.
		if err := b.register("irc_zoe"); err != nil {
			t.Fatal(err)
		}
		refused(t, b.register("irc_zoe"), 400, "M_USER_IN_USE")
		refused(t, b.register("bob"), 400, "M_EXCLUSIVE")
		_, err := n.Register("irc_yves")
		refused(t, err, 400, "M_EXCLUSIVE")
		_, err = n.Register("ircbot")
		refused(t, err, 400, "M_EXCLUSIVE")
		anybody := n.Client()
		byService := map[string]any{"type": "m.login.application_service", "username": "irc_x"}
		refused(t, anybody.Call(ctx, "POST", lab.V3("register"), byService, nil), 401, "M_MISSING_TOKEN")
		anybody.Token = "nonsense"
		refused(t, anybody.Call(ctx, "POST", lab.V3("register"), byService, nil), 401, "M_UNKNOWN_TOKEN")

		// Who acts.
		if who := b.as("", "GET", lab.V3("account", "whoami"), nil); who["user_id"] != "@ircbot:"+server || who["device_id"] != nil {
			t.Error(who)
		}
		if who := b.as("irc_zoe", "GET", lab.V3("account", "whoami"), nil); who["user_id"] != "@irc_zoe:"+server {
			t.Error(who)
		}
		refused(t, b.try("alice", "GET", lab.V3("account", "whoami"), nil, nil), 403, "M_FORBIDDEN")
		refused(t, b.try("irc_nobody", "GET", lab.V3("account", "whoami"), nil, nil), 403, "M_FORBIDDEN")
		refused(t, b.try("irc_zoe", "GET", lab.V3("account", "whoami")+"?device_id=D", nil, nil), 400, "M_UNKNOWN_DEVICE")
		refused(t, b.try("irc_zoe", "PUT", lab.V3("devices", "D"), map[string]string{"display_name": "Zoe"}, nil), 201, "")
		b.as("irc_zoe", "PUT", lab.V3("devices", "D"), map[string]string{})
		for _, name := range []string{"device_id", "org.matrix.msc3202.device_id"} {
			if who := b.as("irc_zoe", "GET", lab.V3("account", "whoami")+"?"+name+"=D", nil); who["device_id"] != "D" {
				t.Error(who)
			}
		}
		b.as("irc_zoe", "DELETE", lab.V3("devices", "D"), map[string]string{})
		refused(t, b.try("irc_zoe", "GET", lab.V3("account", "whoami")+"?device_id=D", nil, nil), 400, "M_UNKNOWN_DEVICE")
		login := b.as("", "POST", lab.V3("login"), map[string]any{"type": "m.login.application_service",
			"identifier": map[string]string{"type": "m.id.user", "user": "irc_zoe"}})
		if login["user_id"] != "@irc_zoe:"+server || login["access_token"] == nil {
			t.Error(login)
		}
		if took := b.as("", "POST", "/_matrix/client/v1/appservice/irc/ping", map[string]string{"transaction_id": "x"}); took["duration_ms"] == nil {
			t.Error(took)
		}
		refused(t, alice.Call(ctx, "POST", "/_matrix/client/v1/appservice/irc/ping", nil, nil), 403, "M_FORBIDDEN")

		// A room, both ways.
		room := b.as("", "POST", lab.V3("createRoom"), map[string]any{"preset": "public_chat", "room_alias_name": "irc_room"})["room_id"].(string)
		refused(t, b.try("", "POST", lab.V3("createRoom"), map[string]any{"room_alias_name": "other"}, nil), 400, "M_EXCLUSIVE")
		refused(t, alice.Call(ctx, "POST", lab.V3("createRoom"), map[string]any{"room_alias_name": "irc_mine"}, nil), 400, "M_EXCLUSIVE")
		refused(t, alice.Call(ctx, "PUT", lab.V3("directory", "room", "#irc_mine:"+server), map[string]any{"room_id": room}, nil), 400, "M_EXCLUSIVE")
		if _, err := alice.Join(ctx, "#irc_room:"+server); err != nil {
			t.Fatal(err)
		}
		b.as("irc_zoe", "POST", lab.V3("rooms", room, "join"), map[string]string{})
		if _, err := alice.Say(ctx, room, "hello bridge"); err != nil {
			t.Fatal(err)
		}
		if e := v.said("hello bridge"); e.Sender != alice.UserID || e.Room != room {
			t.Errorf("%+v", e)
		}
		const then = 1500000000000
		b.as("irc_zoe", "PUT", lab.V3("rooms", room, "send", "m.room.message", "1")+fmt.Sprint("?ts=", then), map[string]string{"msgtype": "m.text", "body": "from then"})
		if e := v.said("from then"); e.TS != then || e.Sender != "@irc_zoe:"+server {
			t.Errorf("%+v", e)
		}
		b.as("", "PUT", lab.V3("rooms", room, "send", "m.room.message", "0")+"?ts=0", map[string]string{"msgtype": "m.text", "body": "from 1970"})
		if e := v.said("from 1970"); e.TS != 0 {
			t.Errorf("%+v", e)
		}
		for _, ts := range []string{"x", "-1", "9007199254740992"} {
			refused(t, b.try("irc_zoe", "PUT", lab.V3("rooms", room, "send", "m.room.message", "2")+"?ts="+ts, map[string]string{}, nil), 400, "M_INVALID_PARAM")
		}
		// Others have no say in it.
		if err := alice.Call(ctx, "PUT", lab.V3("rooms", room, "send", "m.room.message", "3")+"?ts=0", map[string]string{"body": "now"}, nil); err != nil {
			t.Fatal(err)
		}
		if e := v.said("now"); e.TS < then {
			t.Errorf("%+v", e)
		}

		// Only what is of interest.
		private, err := alice.CreateRoom(ctx, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []string{"before", "invite", "secret", "join", "within", "kick", "after"} {
			switch step {
			case "invite", "kick":
				if err := alice.Act(ctx, private, step, map[string]string{"user_id": "@irc_zoe:" + server}); err != nil {
					t.Fatal(err)
				}
			case "join":
				b.as("irc_zoe", "POST", lab.V3("rooms", private, "join"), map[string]string{})
			default:
				if _, err := alice.Say(ctx, private, step); err != nil {
					t.Fatal(err)
				}
			}
		}
		v.until("the kick", func(e event) bool { return e.Room == private && e.Content.Membership == "leave" })
		b.say("", room, "last")
		v.said("last")
		if got := fmt.Sprint(v.bodies(private)); got != "[within]" {
			t.Errorf("of the private room it has %s", got)
		}
		v.until("the invite", func(e event) bool { return e.Room == private && e.Content.Membership == "invite" })
	})
}

func TestQueries(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		n, v, b := start(t, s)
		ctx := t.Context()
		alice := n.MustRegister("alice")
		room := b.as("", "POST", lab.V3("createRoom"), map[string]any{"preset": "public_chat"})["room_id"].(string)
		mine, err := alice.CreateRoom(ctx, map[string]any{})
		if err != nil {
			t.Fatal(err)
		}
		invite := map[string]string{"user_id": "@irc_new:" + server}
		if err := alice.Act(ctx, mine, "invite", invite); err == nil {
			t.Error("somebody was invited whom the service does not know")
		}
		v.mu.Lock()
		v.create = func(path string) bool {
			switch path {
			case "users/" + url.PathEscape("@irc_other:"+server):
				return b.register("irc_other") == nil
			case "rooms/" + url.PathEscape("#irc_portal:"+server):
				return b.try("", "PUT", lab.V3("directory", "room", "#irc_portal:"+server), map[string]string{"room_id": room}, nil) == nil
			}
			return false
		}
		v.mu.Unlock()
		invite["user_id"] = "@irc_other:" + server
		if err := alice.Act(ctx, mine, "invite", invite); err != nil {
			t.Error(err)
		}
		if joined, err := alice.Join(ctx, "#irc_portal:"+server); err != nil || joined != room {
			t.Error(joined, err)
		}
		_, err = alice.Join(ctx, "#irc_none:"+server)
		refused(t, err, 404, "M_NOT_FOUND")
	})
}

// TestMisbehaviour has a service that fails in every way, and wants everything once and in order all the same.
func TestMisbehaviour(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		n, v, b := start(t, s)
		alice := n.MustRegister("alice")
		room := b.as("", "POST", lab.V3("createRoom"), map[string]any{"preset": "public_chat"})["room_id"].(string)
		if _, err := alice.Join(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		turn := 0
		v.behave(func(w http.ResponseWriter, _ string, _ []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			turn++
			switch turn {
			case 1:
				w.WriteHeader(http.StatusInternalServerError)
			case 2:
				panic(http.ErrAbortHandler) // the connection ends
			case 3:
				w.WriteHeader(http.StatusBadGateway)
				_, _ = io.WriteString(w, strings.Repeat("junk", 1<<20))
			default:
				return false // takes it; the answer is junk that nobody reads
			}
			return true
		})
		var want []string
		for i := range 30 {
			want = append(want, fmt.Sprint("m", i))
			if _, err := alice.Say(t.Context(), room, want[i]); err != nil {
				t.Fatal(err)
			}
		}
		v.said("m29")
		if got := v.bodies(room); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v", got)
		}
	})
}

// TestNothingIsLost stops the service and kills the node with SIGKILL, again and again.
func TestNothingIsLost(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		v := newService(t)
		n := s.Add(server, "registration.mode=open", "app_service_files=["+v.file+"]")
		if err := n.StartProcess(); err != nil {
			t.Fatal(err)
		}
		b := bot{t, n.Client()}
		b.c.Token = asToken
		alice := n.MustRegister("alice")
		room := b.as("", "POST", lab.V3("createRoom"), map[string]any{"preset": "public_chat"})["room_id"].(string)
		if _, err := alice.Join(t.Context(), room); err != nil {
			t.Fatal(err)
		}
		var want []string
		for round := range 3 {
			// It takes transactions but says that it did not: whether it has them is not known to the node.
			v.behave(func(w http.ResponseWriter, txn string, body []byte) bool {
				if round == 0 {
					v.take(txn, body)
					w.WriteHeader(http.StatusInternalServerError)
				}
				return round == 0
			})
			for i := range 25 {
				text := fmt.Sprint("r", round, "m", i)
				if _, err := alice.Say(t.Context(), room, text); err != nil {
					t.Fatal(err)
				}
				want = append(want, text)
			}
			if err := n.Kill(); err != nil {
				t.Fatal(err)
			}
			v.behave(nil)
			alice.Close()
			if err := n.StartProcess(); err != nil {
				t.Fatal(err)
			}
			v.said(want[len(want)-1])
		}
		if got := v.bodies(room); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %v", got)
		}
	})
}
