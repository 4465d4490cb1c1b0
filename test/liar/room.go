package liar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/test/hstest"
)

// State is the state of a room.
type State map[auth.Tuple]*event.Event

// Room is a room as its peer knows it.
type Room struct {
	p      *Peer
	V      *event.Version
	ID     string
	State  State
	Heads  []string // forward extremities
	Depth  int64    // of what comes next
	byID   map[string]*event.Event
	before map[string]State // the state before an event
}

// CreateRoom makes a public room of the peer's user "liar".
func (p *Peer) CreateRoom(version string) *Room {
	p.t.Helper()
	return p.CreateRoomWith(version, nil)
}

// CreateRoomWith is CreateRoom with other content of m.room.create.
func (p *Peer) CreateRoomWith(version string, change func(Object)) *Room {
	p.t.Helper()
	v, ok := event.GetVersion(version)
	if !ok {
		p.t.Fatal("there is no room version " + version)
	}
	r := &Room{p: p, V: v, State: State{}, byID: map[string]*event.Event{}, before: map[string]State{}}
	me, content := p.User("liar"), Object{"room_version": version, "test.nonce": fmt.Sprint(time.Now().UnixNano())}
	if !v.SenderIsCreator {
		content["creator"] = me
	}
	if change != nil {
		change(content)
	}
	if !v.DomainlessRoomIDs {
		r.ID = fmt.Sprintf("!%d:%s", time.Now().UnixNano(), p.Name)
	}
	create := r.Make(Draft{Type: "m.room.create", Key: Key(""), Sender: me, Content: content})
	r.ID = create.Room()
	p.mu.Lock()
	p.rooms[r.ID] = r
	p.mu.Unlock()
	levels := Object{"users": Object{me: 100}}
	if v.PrivilegedCreators {
		levels = Object{}
	}
	r.Add(create)
	for _, d := range []Draft{
		{Type: "m.room.member", Key: &me, Content: Object{"membership": "join"}},
		{Type: "m.room.power_levels", Key: Key(""), Content: levels},
		{Type: "m.room.join_rules", Key: Key(""), Content: Object{"join_rule": "public"}},
		{Type: "m.room.history_visibility", Key: Key(""), Content: Object{"history_visibility": "shared"}},
	} {
		d.Sender = me
		r.Add(r.Make(d))
	}
	return r
}

// Key is a state key.
func Key(s string) *string { return &s }

// Draft is an event to be made. What is not said is as an honest server has it.
type Draft struct {
	Type, Sender string
	Key          *string
	Content      any
	Prev, Auth   []string // nil: the forward extremities, and what the rules select
	State        State    // to select from; nil: the newest
	Depth, TS    int64
	RoomID       string
	Signer       *event.Signer
	Fields       Object // put over those of the finished event, which is hashed and signed anew
}

// Make builds, hashes and signs an event.
func (r *Room) Make(d Draft) *event.Event {
	r.p.t.Helper()
	e, err := r.Build(d)
	if err != nil {
		r.p.t.Fatalf("%s: %v", d.Type, err)
	}
	return e
}

// Build is Make for what may not be possible.
func (r *Room) Build(d Draft) (*event.Event, error) {
	content, err := json.Marshal(d.Content)
	if err != nil {
		return nil, err
	}
	b := event.Builder{Version: r.V, Type: d.Type, Sender: d.Sender, StateKey: d.Key, RoomID: r.ID, Content: content,
		PrevEvents: d.Prev, AuthEvents: d.Auth, Depth: d.Depth, TS: d.TS, Hashes: map[string][32]byte{}}
	if b.PrevEvents == nil {
		b.PrevEvents = r.Heads
	}
	if b.AuthEvents == nil {
		b.AuthEvents = r.selectAuth(d, content)
	}
	if d.Depth == 0 {
		b.Depth = r.Depth
	}
	if d.TS == 0 {
		b.TS = time.Now().UnixMilli()
	}
	if d.RoomID != "" {
		b.RoomID = d.RoomID
	}
	for _, id := range append(slices.Clone(b.PrevEvents), b.AuthEvents...) {
		if e := r.byID[id]; e != nil {
			b.Hashes[id] = e.Hash()
		}
	}
	signer := r.p.Signer
	if d.Signer != nil {
		signer = *d.Signer
	}
	e, err := b.Build(signer)
	if err != nil || d.Fields == nil {
		return e, err
	}
	return Craft(r.V, e, d.Fields, signer)
}

func (r *Room) selectAuth(d Draft, content []byte) []string {
	st := d.State
	if st == nil {
		st = r.State
	}
	ids := []string{}
	for _, t := range auth.NeededFor(r.V, d.Type, d.Key, d.Sender, content) {
		if e := st[t]; e != nil {
			ids = append(ids, e.EventID())
		}
	}
	return ids
}

// Craft makes another event of one, with other fields, hashes and signature.
func Craft(v *event.Version, e *event.Event, fields Object, signer event.Signer) (*event.Event, error) {
	var o Object
	decoder := json.NewDecoder(bytes.NewReader(e.JSON()))
	decoder.UseNumber()
	if err := decoder.Decode(&o); err != nil {
		return nil, err
	}
	maps.Copy(o, fields)
	delete(o, "signatures")
	delete(o, "hashes")
	body, err := canonical(o)
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256(body)
	o["hashes"], o["signatures"] = Object{"sha256": base64.RawStdEncoding.EncodeToString(h[:])}, Object{}
	if body, err = canonical(o); err != nil {
		return nil, err
	}
	made, err := event.Parse(v, body)
	if err != nil {
		return nil, err
	}
	return made.Sign(signer)
}

func canonical(o Object) ([]byte, error) {
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	return event.Canonical(nil, data)
}

// Add takes an event into the peer's room.
func (r *Room) Add(e *event.Event) {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	r.add(e)
}

func (r *Room) add(e *event.Event) {
	r.Keep(e)
	r.before[e.EventID()] = maps.Clone(r.State)
	if key, isState := e.Key(); isState {
		r.State[auth.Tuple{Type: e.Type(), Key: key}] = e
	}
	r.Heads, r.Depth = []string{e.EventID()}, min(e.Depth()+1, 1<<53-1)
}

// Keep has the peer know an event without a place in the room.
func (r *Room) Keep(e *event.Event) { r.byID[e.EventID()] = e }

// Events are all that the peer knows, oldest first.
func (r *Room) Events() []*event.Event {
	return slices.SortedFunc(maps.Values(r.byID), func(a, b *event.Event) int { return int(a.Depth() - b.Depth()) })
}

// Chain is the auth chain of events.
func (r *Room) Chain(events []*event.Event) (chain []*event.Event) {
	seen := map[string]bool{}
	for len(events) > 0 {
		e := events[0]
		events = events[1:]
		for _, id := range e.AuthEventIDs() {
			if a := r.byID[id]; a != nil && !seen[id] {
				seen[id] = true
				chain, events = append(chain, a), append(events, a)
			}
		}
	}
	return chain
}

func (s State) events() []*event.Event { return slices.Collect(maps.Values(s)) }

func raws(events []*event.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

func ids(events []*event.Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.EventID()
	}
	return out
}

// honest answers as an honest server does. The peer is locked.
func (r *Room) honest(endpoint string, args []string, query url.Values, body []byte) Object {
	switch endpoint {
	case "make_join":
		return r.template(args[0])
	case "send_join":
		return r.welcome(body)
	case "state", "state_ids":
		before := r.before[query.Get("event_id")]
		if before == nil {
			return nil
		}
		state, chain := before.events(), r.Chain(before.events())
		if endpoint == "state" {
			return Object{"pdus": raws(state), "auth_chain": raws(chain)}
		}
		return Object{"pdu_ids": ids(state), "auth_chain_ids": ids(chain)}
	case "event_auth":
		if e := r.byID[args[0]]; e != nil {
			return Object{"auth_chain": raws(r.Chain([]*event.Event{e}))}
		}
	case "get_missing_events":
		var q struct {
			Earliest []string `json:"earliest_events"`
			Latest   []string `json:"latest_events"`
		}
		if json.Unmarshal(body, &q) != nil {
			return nil
		}
		return Object{"events": raws(r.walk(q.Latest, q.Earliest, false))}
	case "backfill":
		return Object{"origin": r.p.Name, "origin_server_ts": 1, "pdus": raws(r.walk(query["v"], nil, true))}
	}
	return nil
}

func (r *Room) template(user string) Object {
	content := Object{"membership": "join"}
	data, err := json.Marshal(content)
	if err != nil {
		panic(err)
	}
	b := event.Builder{Version: r.V, Type: "m.room.member", Sender: user, StateKey: &user, RoomID: r.ID, Content: data, PrevEvents: r.Heads,
		Depth: r.Depth, TS: time.Now().UnixMilli(), Hashes: map[string][32]byte{}}
	b.AuthEvents = r.selectAuth(Draft{Type: b.Type, Key: &user, Sender: user}, data)
	for _, id := range append(slices.Clone(b.PrevEvents), b.AuthEvents...) {
		b.Hashes[id] = r.byID[id].Hash()
	}
	t, err := b.Template(r.p.Name)
	if err != nil {
		panic(err)
	}
	return Object{"room_version": r.V.ID, "event": t}
}

func (r *Room) welcome(body []byte) Object {
	e, err := event.Parse(r.V, body)
	if err != nil {
		return nil
	}
	state := r.State.events()
	o := Object{"origin": r.p.Name, "members_omitted": false, "event": json.RawMessage(e.JSON()), "state": raws(state), "auth_chain": raws(r.Chain(state))}
	r.add(e)
	return o
}

// walk returns what comes before events, oldest first, until others.
func (r *Room) walk(from, until []string, with bool) (out []*event.Event) {
	seen := map[string]bool{}
	for _, id := range until {
		seen[id] = true
	}
	for first := true; len(from) > 0; first = false {
		var next []string
		for _, id := range from {
			e := r.byID[id]
			if e == nil || seen[id] {
				continue
			}
			seen[id] = true
			if !first || with {
				out = append(out, e)
			}
			next = append(next, e.PrevEventIDs()...)
		}
		from = next
	}
	slices.Reverse(out)
	return out
}

// Join brings the peer's user into a room of a node.
func (p *Peer) Join(ctx context.Context, to *hstest.Node, roomID, user string) (*Room, error) {
	status, answer := p.JSON(ctx, to, "GET", Escape("/_matrix/federation/v1/make_join/", roomID, "/", user)+"?"+url.Values{"ver": event.Versions()}.Encode(), nil)
	if status != 200 {
		return nil, fmt.Errorf("make_join: %d %s", status, answer)
	}
	v, ok := event.GetVersion(gjson.GetBytes(answer, "room_version").Str)
	if !ok {
		return nil, errors.New("make_join answers no room version")
	}
	r := &Room{p: p, V: v, ID: roomID, State: State{}, byID: map[string]*event.Event{}, before: map[string]State{}}
	e, err := r.accept(gjson.GetBytes(answer, "event"))
	if err != nil {
		return nil, err
	}
	status, answer = p.Call(ctx, to, Request{Method: "PUT", Path: Escape("/_matrix/federation/v2/send_join/", roomID, "/", e.EventID()), Body: e.JSON()})
	if status != 200 {
		return nil, fmt.Errorf("send_join: %d %s", status, answer)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range []string{"auth_chain", "state"} {
		for _, raw := range gjson.GetBytes(answer, list).Array() {
			s, err := event.Parse(v, []byte(raw.Raw))
			if err != nil {
				return nil, err
			}
			r.Keep(s)
			if key, isState := s.Key(); isState && list == "state" {
				r.State[auth.Tuple{Type: s.Type(), Key: key}] = s
			}
		}
	}
	r.add(e)
	p.rooms[roomID] = r
	return r, nil
}

// accept signs a template.
func (r *Room) accept(template gjson.Result) (*event.Event, error) {
	b, err := event.ParseTemplate(r.V, []byte(template.Raw))
	if err != nil {
		return nil, err
	}
	b.TS = time.Now().UnixMilli()
	return b.Build(r.p.Signer)
}
