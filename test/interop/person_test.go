package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// server is one side.
type server struct {
	kind    string
	gate    *gate
	url     string
	restart func(during func())
}

func (s server) name() string { return s.gate.name }

// pair is two servers: rooms are made at home, and the other side comes to them.
type pair struct {
	home, away server
	third      server // another Knock
	version    string
	t          *testing.T
	ctx        context.Context
	started    int64
}

func (p *pair) begin(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*hstest.Patience)
	t.Cleanup(cancel)
	p.t, p.ctx, p.started = t, ctx, time.Now().UnixNano()
}

// person is somebody with an account. All that they do ends the test when it fails.
type person struct {
	*lab.Client
	t      *testing.T
	ctx    context.Context
	server server
}

func (p *pair) person(s server, name string) *person {
	p.t.Helper()
	c := lab.NewClient(s.url)
	p.t.Cleanup(c.Close)
	p.started++
	if err := c.Register(p.ctx, fmt.Sprintf("%s_%d", name, p.started), "correct horse battery staple"); err != nil {
		p.t.Fatal(err)
	}
	return &person{c, p.t, p.ctx, s}
}

// people are one of each side.
func (p *pair) people() (host, guest *person) {
	p.t.Helper()
	return p.person(p.home, "host"), p.person(p.away, "guest")
}

type object = map[string]any

// room makes one of the pair's version.
func (p *pair) room(host *person, with object) string {
	p.t.Helper()
	request := object{"room_version": p.version, "preset": "public_chat"}
	maps.Copy(request, with)
	id, err := host.CreateRoom(p.ctx, request)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

// together is a public room with the two in it.
func (p *pair) together() (room string, host, guest *person) {
	p.t.Helper()
	host, guest = p.people()
	room = p.room(host, nil)
	guest.join(room, p.home)
	host.seesMember(room, guest, "join")
	guest.seesMember(room, guest, "join")
	return room, host, guest
}

func must[T any](v T, err error) func(*person) T {
	return func(p *person) T {
		p.t.Helper()
		if err != nil {
			p.t.Fatalf("%s: %v", p.UserID, err)
		}
		return v
	}
}

func (p *person) join(room string, via ...server) {
	p.t.Helper()
	if err := p.tryJoin(room, via...); err != nil {
		p.t.Fatalf("%s joins: %v", p.UserID, err)
	}
}

func (p *person) tryJoin(room string, via ...server) error {
	_, err := p.Join(p.ctx, room, names(via)...)
	return err
}

func names(servers []server) (out []string) {
	for _, s := range servers {
		out = append(out, s.name())
	}
	return out
}

func (p *person) knock(room string, via server) {
	p.t.Helper()
	query := url.Values{"via": {via.name()}, "server_name": {via.name()}}
	p.call(http.MethodPost, lab.V3("knock", room)+"?"+query.Encode(), object{"reason": "let me in"}, nil)
}

func (p *person) call(method, path string, body, out any) {
	p.t.Helper()
	if err := p.Call(p.ctx, method, path, body, out); err != nil {
		p.t.Fatalf("%s: %v", p.UserID, err)
	}
}

func (p *person) get(path string, out any) {
	p.t.Helper()
	p.call(http.MethodGet, path, nil, out)
}

// act is lab's Act on a user.
func (p *person) act(room, action string, on *person) {
	p.t.Helper()
	if err := p.Act(p.ctx, room, action, object{"user_id": on.UserID}); err != nil {
		p.t.Fatalf("%s: %s of %s: %v", p.UserID, action, on.UserID, err)
	}
}

func (p *person) leave(room string) {
	p.t.Helper()
	if err := p.Act(p.ctx, room, "leave", object{}); err != nil {
		p.t.Fatalf("%s leaves: %v", p.UserID, err)
	}
}

func (p *person) say(room, text string) string {
	p.t.Helper()
	return must(p.Say(p.ctx, room, text))(p)
}

func (p *person) set(room, kind, key string, content any) string {
	p.t.Helper()
	return must(p.SetState(p.ctx, room, kind, key, content))(p)
}

func (p *person) setData(kind string, content object) {
	p.t.Helper()
	p.call(http.MethodPut, lab.V3("user", p.UserID, "account_data", kind), content, nil)
}

// refused wants an error of one of the codes.
func (p *person) refused(what string, err error, codes ...string) {
	p.t.Helper()
	var e *lab.Error
	if !errors.As(err, &e) || !slices.Contains(codes, e.Code) {
		p.t.Errorf("%s: %s: got %v, want %v", p.UserID, what, err, codes)
	}
}

// until syncs until seen has nothing to complain about.
func (p *person) until(seen func(*lab.View) error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, hstest.Patience)
	defer cancel()
	if err := p.Until(ctx, seen); err != nil {
		p.t.Fatal(err)
	}
}

// eventually asks again until fn has nothing to complain about.
func (p *person) eventually(fn func() error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, hstest.Patience)
	defer cancel()
	if err := lab.Poll(ctx, fn); err != nil {
		p.t.Fatalf("%s: %v", p.UserID, err)
	}
}

// sees waits for an event in a timeline.
func (p *person) sees(room, id string) (found lab.Event) {
	p.t.Helper()
	p.until(func(v *lab.View) error {
		for _, e := range v.Room(room).Timeline {
			if e.ID == id {
				found = e
				return nil
			}
		}
		return fmt.Errorf("there is no %s in %d events", id, len(v.Room(room).Timeline))
	})
	return found
}

func (p *person) seesMember(room string, who *person, want string) {
	p.t.Helper()
	p.until(func(v *lab.View) error {
		if got := v.Room(room).Member(who.UserID); got != want {
			return fmt.Errorf("%s is %q, not %q", who.UserID, got, want)
		}
		return nil
	})
}

// seesOwn waits until the room is in a section of the sync: join, invite, knock or leave.
func (p *person) seesOwn(room, membership string) (r *lab.Room) {
	p.t.Helper()
	p.until(func(v *lab.View) error {
		if r = v.Room(room); r.Membership != membership {
			return fmt.Errorf("the room is in %q, not %q", r.Membership, membership)
		}
		return nil
	})
	return r
}

func (p *person) content(room, kind, key string) (content object, err error) {
	err = p.Call(p.ctx, http.MethodGet, lab.V3("rooms", room, "state", kind, key), nil, &content)
	return content, err
}

// event fetches one event.
func (p *person) event(room, id string) (e lab.Event, err error) {
	err = p.Call(p.ctx, http.MethodGet, lab.V3("rooms", room, "event", id), nil, &e)
	return e, err
}

// agree waits until both see the same state: the same events.
func agree(room string, a, b *person) {
	a.t.Helper()
	a.eventually(func() error {
		x, y := must(state(a, room))(a), must(state(b, room))(b)
		if diff := cmp.Diff(x, y); diff != "" {
			return fmt.Errorf("states of %s (-) and %s (+) differ:\n%s", a.server.kind, b.server.kind, diff)
		}
		return nil
	})
}

func state(p *person, room string) (map[string]string, error) {
	events, err := p.State(p.ctx, room)
	out := map[string]string{}
	for _, e := range events {
		out[e.Type+" "+*e.StateKey] = e.ID
	}
	return out, err
}

// same compares JSON, which one side may have decoded with other types.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func plain(t *testing.T, v any) (out any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}
