package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

const local = "push.allow_networks=[127.0.0.0/8]"

// gateway is a push gateway that keeps what it got, and can be told to misbehave.
type gateway struct {
	*httptest.Server
	t *testing.T

	mu    sync.Mutex
	got   []gjson.Result // notifications it took
	tries int            // all requests
	next  []http.HandlerFunc
}

func newGateway(t *testing.T) *gateway {
	g := &gateway{t: t}
	g.Server = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Path != "/_matrix/push/v1/notify" || r.Method != http.MethodPost || !gjson.ValidBytes(body) {
		g.t.Errorf("%s %s %s: %v", r.Method, r.URL, body, err)
	}
	g.mu.Lock()
	g.tries++
	var odd http.HandlerFunc
	if len(g.next) > 0 {
		odd, g.next = g.next[0], g.next[1:]
	}
	if odd == nil {
		g.got = append(g.got, gjson.ParseBytes(body).Get("notification"))
	}
	g.mu.Unlock()
	if odd != nil {
		odd(w, r)
		return
	}
	_, _ = io.WriteString(w, `{"rejected":[]}`)
}

// misbehave sets how the next requests are answered, each once.
func (g *gateway) misbehave(how ...http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = how
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func (g *gateway) all() []gjson.Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]gjson.Result(nil), g.got...)
}

// events are the bodies (or types) of the events that arrived, in order.
func (g *gateway) events() (out []string) {
	for _, n := range g.all() {
		if !n.Get("event_id").Exists() {
			continue
		}
		text := n.Get("content.body").Str
		if text == "" {
			text = n.Get("event_id").Str
		}
		out = append(out, text)
	}
	return out
}

// last is the newest notification.
func (g *gateway) last() gjson.Result {
	all := g.all()
	if len(all) == 0 {
		return gjson.Result{}
	}
	return all[len(all)-1]
}

// world is a node with two users in a room, and a gateway.
type world struct {
	t          *testing.T
	ctx        context.Context
	n          *hstest.Node
	g          *gateway
	alice, bob *lab.Client
	room       string
}

func each(t *testing.T, fn func(w *world)) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		t.Cleanup(cancel)
		w := &world{t: t, ctx: ctx, n: s.Start("a.test", local), g: newGateway(t)}
		w.alice, w.bob = w.n.MustRegister("alice"), w.n.MustRegister("bob")
		w.room = w.create("Tea", "@bob:a.test")
		_, err := w.bob.Join(ctx, w.room)
		w.must(err)
		fn(w)
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// create makes a room of alice's with a third, silent member in mind: two invites.
func (w *world) create(name string, invite ...string) string {
	w.t.Helper()
	room, err := w.alice.CreateRoom(w.ctx, map[string]any{"preset": "private_chat", "name": name, "invite": invite})
	w.must(err)
	return room
}

func (w *world) call(c *lab.Client, method, path string, body any) gjson.Result {
	w.t.Helper()
	var out json.RawMessage
	w.must(c.Call(w.ctx, method, path, body, &out))
	return gjson.ParseBytes(out)
}

// pusher sets a pusher of bob's; more are members of the body.
func (w *world) pusher(c *lab.Client, key string, data map[string]any, more ...any) {
	w.t.Helper()
	w.call(c, http.MethodPost, lab.V3("pushers", "set"), pusherBody(w.g.URL, key, data, more...))
}

func pusherBody(gateway, key string, data map[string]any, more ...any) map[string]any {
	d := map[string]any{"url": gateway + "/_matrix/push/v1/notify"}
	for k, v := range data {
		d[k] = v
	}
	body := map[string]any{"app_id": "org.test", "pushkey": key, "kind": "http", "app_display_name": "Test",
		"device_display_name": "Phone", "lang": "en", "data": d}
	for i := 0; i+1 < len(more); i += 2 {
		body[more[i].(string)] = more[i+1]
	}
	return body
}

func (w *world) say(text string) string {
	w.t.Helper()
	id, err := w.alice.Say(w.ctx, w.room, text)
	w.must(err)
	return id
}

func (w *world) read(c *lab.Client, id string) {
	w.t.Helper()
	w.call(c, http.MethodPost, lab.V3("rooms", w.room, "receipt", "m.read", id), map[string]any{})
}

// eventually waits until what got returns is what is wanted.
func (w *world) eventually(what string, want any, got func() any) {
	w.t.Helper()
	err := lab.Poll(w.ctx, func() error {
		if g := fmt.Sprint(got()); g != fmt.Sprint(want) {
			return fmt.Errorf("%s: got %s, want %v", what, g, want)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) arrived(texts ...string) {
	w.t.Helper()
	w.eventually("events", strings.Join(texts, ","), func() any { return strings.Join(w.g.events(), ",") })
}

func asError(err error, e **lab.Error) bool { return errors.As(err, e) }
