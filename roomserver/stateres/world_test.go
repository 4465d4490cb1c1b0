package stateres

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
)

// world is the events of one room by number, and the Source that resolution sees. Events have names; their ids are made
// of them.
type world struct {
	t         testing.TB
	v         *event.Version
	room      string
	events    []*event.Event // by number, from 1
	cites     [][]int64
	rejected  map[int64]bool
	tuples    map[auth.Tuple]int64
	byName    map[string]int64
	names     map[int64]string
	authCalls map[int64]int
	eventAsks int
}

func newWorld(t testing.TB, version string) *world {
	v, ok := event.GetVersion(version)
	if !ok {
		t.Fatalf("no room version %s", version)
	}
	return &world{t: t, v: v, room: "!room:x", events: []*event.Event{nil}, cites: [][]int64{nil}, rejected: map[int64]bool{},
		tuples: map[auth.Tuple]int64{}, byName: map[string]int64{}, names: map[int64]string{}, authCalls: map[int64]int{}}
}

// spec is an event to be. auth holds numbers, m.room.create among them in all versions.
type spec struct {
	name, evType, key, sender, content string
	ts, depth                          int64
	auth                               []int64
	rejected                           bool
	prev                               []string
}

func (w *world) id(name string) string {
	h := sha256.Sum256([]byte(name))
	switch w.v.IDFormat {
	case event.IDRandom:
		return "$" + name + ":x"
	case event.IDHash:
		return "$" + base64.RawStdEncoding.EncodeToString(h[:])
	}
	return "$" + base64.RawURLEncoding.EncodeToString(h[:])
}

func (w *world) ref(id string) any {
	if w.v.References {
		return []any{id, map[string]string{"sha256": ""}}
	}
	return id
}

func (w *world) add(s spec) int64 {
	w.t.Helper()
	id := w.id(s.name)
	refs, prev := []any{}, []any{}
	for _, a := range s.auth {
		if !w.v.DomainlessRoomIDs || w.events[a].Type() != "m.room.create" {
			refs = append(refs, w.ref(w.events[a].EventID()))
		}
	}
	for _, p := range s.prev {
		prev = append(prev, w.ref(w.id(p)))
	}
	fields := map[string]any{"type": s.evType, "state_key": s.key, "sender": s.sender, "content": json.RawMessage(s.content), "origin_server_ts": s.ts,
		"depth": s.depth, "auth_events": refs, "prev_events": prev, "hashes": map[string]string{}, "signatures": map[string]string{}}
	if w.v.References {
		fields["event_id"] = id
	}
	if s.evType != "m.room.create" || !w.v.DomainlessRoomIDs {
		fields["room_id"] = w.room
	}
	raw, err := json.Marshal(fields)
	if err != nil {
		w.t.Fatal(err)
	}
	canonical, err := event.Canonical(nil, raw)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := event.FromStored(w.v, id, canonical)
	if err != nil {
		w.t.Fatal(err)
	}
	if s.evType == "m.room.create" {
		w.room = e.Room()
	}
	n := int64(len(w.events))
	w.events, w.cites = append(w.events, e), append(w.cites, s.auth)
	w.rejected[n] = s.rejected
	w.byName[s.name], w.names[n] = n, s.name
	name := auth.Tuple{Type: s.evType, Key: s.key}
	if w.tuples[name] == 0 {
		w.tuples[name] = int64(len(w.tuples) + 1)
	}
	return n
}

func (w *world) Event(id int64) (*event.Event, error) {
	w.eventAsks++
	if id <= 0 || id >= int64(len(w.events)) {
		return nil, errors.New("no such event")
	}
	return w.events[id], nil
}

func (w *world) Auth(id int64) ([]int64, error) {
	w.authCalls[id]++
	return w.cites[id], nil
}

func (w *world) Rejected(id int64) bool { return w.rejected[id] }

func (w *world) Tuple(id int64) int64 {
	key, _ := w.events[id].Key()
	return w.tuples[auth.Tuple{Type: w.events[id].Type(), Key: key}]
}

func (w *world) TupleOf(evType, key string) (int64, error) {
	return w.tuples[auth.Tuple{Type: evType, Key: key}], nil
}

// set makes a state of event numbers; the last of one tuple counts.
func (w *world) set(ids ...int64) *state.Set {
	var s *state.Set
	for _, id := range ids {
		s = s.With(w.Tuple(id), id)
	}
	return s
}

func (w *world) resolve(sets ...*state.Set) *state.Set {
	w.t.Helper()
	resolved, err := Resolve(context.Background(), w.v, sets, w)
	if err != nil {
		w.t.Fatal(err)
	}
	return resolved
}

// holds names the event that the state holds.
func (w *world) holds(s *state.Set, evType, key string) string {
	id, _ := s.Get(w.tuples[auth.Tuple{Type: evType, Key: key}])
	return w.names[id]
}

const (
	creator = "@a:x"
	rival   = "@z:x"
)

func member(user, membership string) (key, content string) {
	return user, `{"membership":"` + membership + `"}`
}

// begin adds create, the creator's join, power levels with the content (if any) and public join rules.
func (w *world) begin(levels string) (ids []int64) {
	create := w.add(spec{name: "create", evType: "m.room.create", sender: creator, content: `{"creator":"` + creator + `"}`, ts: 1, depth: 1})
	key, content := member(creator, "join")
	join := w.add(spec{name: "join", evType: "m.room.member", key: key, sender: creator, content: content, ts: 2, depth: 2, auth: []int64{create}, prev: []string{"create"}})
	ids = []int64{create, join}
	if levels != "" {
		ids = append(ids, w.add(spec{name: "pl0", evType: "m.room.power_levels", sender: creator, content: levels, ts: 3, depth: 3, auth: []int64{create, join}}))
	}
	return ids
}

func describe(w *world, s *state.Set) string {
	var lines []string
	for _, e := range s.Entries() {
		key, _ := w.events[e.Event].Key()
		lines = append(lines, w.events[e.Event].Type()+"/"+key+"="+w.names[e.Event])
	}
	return strings.Join(lines, " ")
}
