package slidingsync

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"knock/roomserver"
)

// view is what a client believes of one room.
type view struct {
	membership string
	name       string
	timeline   []string          // event ids, without a gap
	state      map[string]string // type and key to event id
	joined     int64
}

// model is a client of sliding sync that applies what it is told.
type model struct {
	g     *rig
	rng   *rand.Rand
	as    string
	form  form
	pos   string
	rooms map[string]*view
}

// body asks for all state of a window of the rooms.
func (m *model) body(last, limit int) string {
	if m.form == v4 {
		return fmt.Sprintf(`{"pos":%q,"lists":{"x":{"range":[0,%d],"timeline_limit":%d,"required_state":{"include":[{}]}}}}`, m.pos, last, limit)
	}
	return fmt.Sprintf(`{"lists":{"x":{"ranges":[[0,%d]],"timeline_limit":%d,"required_state":[["*","*"]]}}}`, last, limit)
}

// catchUp syncs all rooms until there is nothing more.
func (m *model) catchUp(limit int) {
	m.g.t.Helper()
	for range 20 {
		if m.sync(99, limit) == 0 {
			return
		}
	}
	m.g.t.Error("there is always more")
}

// sync returns how many rooms it was told of.
func (m *model) sync(last, limit int) int {
	m.g.t.Helper()
	if m.rng.IntN(4) == 0 {
		m.ask(m.rng.IntN(5), 1+m.rng.IntN(5)) // lost on the way
	}
	if m.rng.IntN(12) == 0 {
		m.g.restart()
	}
	res := m.ask(last, limit)
	m.pos = res.Get("pos").Str
	for id, r := range res.Get("rooms").Map() {
		m.apply(id, r)
	}
	return len(res.Get("rooms").Map())
}

func (m *model) ask(last, limit int) gjson.Result {
	m.g.t.Helper()
	body := m.body(last, limit)
	if m.form == v4 {
		return m.g.v4(m.as, body)
	}
	return m.g.ask(m.as, body, "pos", m.pos)
}

func (m *model) apply(id string, r gjson.Result) {
	v := m.rooms[id]
	if r.Get("initial").Bool() {
		v = &view{state: map[string]string{}}
		m.rooms[id] = v
	}
	if v == nil {
		m.g.t.Errorf("room %s is told without having been initial: %s", id, r.Raw)
		return
	}
	if n := r.Get("name"); n.Exists() {
		v.name = n.Str
	}
	if n := r.Get("joined_count"); n.Exists() {
		v.joined = n.Int()
	}
	if r.Get("limited").Bool() || r.Get("expanded_timeline").Bool() || r.Get("unstable_expanded_timeline").Bool() {
		v.timeline = nil
	}
	for _, e := range r.Get("timeline").Array() {
		v.timeline = append(v.timeline, e.Get("event_id").Str)
	}
	for _, e := range r.Get("required_state").Array() {
		key := e.Get("type").Str + " " + e.Get("state_key").Str
		if e.Get("event_id").Exists() {
			v.state[key] = e.Get("event_id").Str
		} else {
			delete(v.state, key)
		}
		if key == "m.room.member "+m.as[:len(m.as)-2] {
			v.membership = e.Get("content.membership").Str
		}
	}
	for _, kind := range []string{"invite_state", "stripped_state"} {
		if r.Get(kind).Exists() {
			v.membership = "invite"
		}
	}
	if s := r.Get("membership"); s.Exists() {
		v.membership = s.Str
	}
}

// compare checks that the client knows the user's rooms as /v3/sync has them.
func (m *model) compare(step int) {
	t := m.g.t
	t.Helper()
	code, res := m.g.call(m.as[:len(m.as)-2]+"/v3", http.MethodGet, "/_matrix/client/v3/sync?filter="+
		url.QueryEscape(`{"room":{"timeline":{"limit":400}}}`), "")
	expect(t, "v3", code, 200)
	joined := res.Get("rooms.join").Map()
	for id, v := range m.rooms {
		if _, yes := joined[id]; v.membership == "join" != yes {
			t.Errorf("step %d: %s is %q to the client", step, id, v.membership)
		}
	}
	for id := range res.Get("rooms.invite").Map() {
		if m.rooms[id] == nil || m.rooms[id].membership != "invite" {
			t.Errorf("step %d: the client does not know the invite to %s", step, id)
		}
	}
	for id, r := range joined {
		v := m.rooms[id]
		if v == nil {
			t.Errorf("step %d: the client does not know room %s", step, id)
			continue
		}
		state, timeline, name := map[string]string{}, []string{}, ""
		take := func(e gjson.Result) {
			if e.Get("state_key").Exists() {
				state[e.Get("type").Str+" "+e.Get("state_key").Str] = e.Get("event_id").Str
				if e.Get("type").Str == "m.room.name" {
					name = e.Get("content.name").Str
				}
			}
		}
		for _, e := range r.Get("state.events").Array() {
			take(e)
		}
		for _, e := range r.Get("timeline.events").Array() {
			take(e)
			timeline = append(timeline, e.Get("event_id").Str)
		}
		if !maps.Equal(state, v.state) {
			t.Errorf("step %d, form %d: state of %s:\n%v\nis to the client\n%v", step, m.form, id, state, v.state)
		}
		expect(t, "name", v.name, name)
		expect(t, "joined", v.joined, r.Get("summary.m\\.joined_member_count").Int())
		end := timeline[max(0, len(timeline)-len(v.timeline)):]
		if !slices.Equal(end, v.timeline) {
			t.Errorf("step %d, form %d: timeline of %s:\n%v\nis to the client\n%v", step, m.form, id, timeline, v.timeline)
		}
	}
}

// TestModel does things at random and has clients of both forms follow, with
// windows and limits that change, answers that are lost, and restarts.
func TestModel(t *testing.T) {
	each(t, func(g *rig) {
		for seed := range uint64(4) {
			g.small = seed%2 == 1
			g.restart()
			rng := rand.New(rand.NewPCG(seed, 33))
			users := []string{g.user(fmt.Sprint("me", seed)), g.user(fmt.Sprint("x", seed)), g.user(fmt.Sprint("y", seed))}
			models := []*model{{g: g, rng: rng, as: users[0] + "/U", form: unstable, rooms: map[string]*view{}}, {g: g, rng: rng, as: users[0] + "/V", form: v4, rooms: map[string]*view{}}}
			var rooms []string
			for i := range 4 {
				rooms = append(rooms, g.create(roomserver.CreateRequest{Creator: users[1+i%2], Name: fmt.Sprint("room ", i)}))
			}
			for step := range 120 {
				act(g, rng, users, rooms)
				m := models[rng.IntN(2)]
				switch rng.IntN(6) {
				case 0, 1, 2:
					m.sync(rng.IntN(4), 1+rng.IntN(6))
				case 3:
					m.catchUp(1 + rng.IntN(6))
					m.compare(step)
				}
			}
			for _, m := range models {
				m.catchUp(3)
				m.compare(-1)
			}
		}
	})
}

// act does one thing that may happen; much of it is refused.
func act(g *rig, rng *rand.Rand, users, rooms []string) {
	room, user, target := rooms[rng.IntN(len(rooms))], users[rng.IntN(len(users))], users[rng.IntN(len(users))]
	ctx := g.t.Context()
	state := func(typ, content string) {
		key := ""
		_, _ = g.rooms.Send(ctx, roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	}
	member := func(sender, target, membership string) {
		_, _ = g.rooms.SetMembership(ctx, roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: target, Membership: membership})
	}
	switch n := rng.IntN(100); {
	case n < 40:
		for range 1 + rng.IntN(4) {
			_, _ = g.rooms.Send(ctx, roomserver.SendRequest{RoomID: room, Sender: user, Type: "m.room.message",
				Content: json.RawMessage(fmt.Sprintf(`{"body":"%d","msgtype":"m.text"}`, rng.Int()))})
		}
	case n < 50:
		state("m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, n))
	case n < 56:
		state("m.room.name", []string{`{"name":"a"}`, `{}`, `{"name":"b"}`}[rng.IntN(3)])
	case n < 80:
		member(users[0], users[0], []string{"join", "join", "leave"}[rng.IntN(3)])
	case n < 90:
		member(target, target, []string{"join", "join", "leave"}[rng.IntN(3)])
	case n < 94:
		member(user, target, "invite")
	case n < 97:
		member(user, target, "leave")
	default:
		member(user, target, "ban")
	}
}
