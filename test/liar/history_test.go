package liar

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/roomserver/event"
)

// gap is a piece of a room that the liar sends the last event of. first and hidden come before tip.
type gap struct {
	first, hidden, tip *event.Event
}

// gap has the liar make events that follow the room, of which nobody is told.
func (s *scene) gap() gap {
	s.Helper()
	var g gap
	for name, e := range []**event.Event{&g.first, &g.hidden, &g.tip} {
		*e = s.room.Make(s.draft("gap " + strconv.Itoa(name)))
		s.room.Add(*e)
	}
	return g
}

// stray is an event of the liar that follows one of the room and that nothing follows.
func (s *scene) stray(after string) *event.Event {
	s.Helper()
	d := s.draft("stray")
	d.Prev = []string{after}
	e := s.room.Make(d)
	s.room.Keep(e)
	return e
}

// missing sends the tip of a gap, waits until alice's node is done with it, and notes which events are shown.
func (s *scene) missing(g gap, more ...*event.Event) {
	s.Helper()
	before := s.peer.Asked("get_missing_events")
	if status, answer := s.transact("gap", g.tip.JSON()); status != 200 {
		s.Fatalf("%d %s", status, answer)
	}
	s.must(lab.Poll(s.ctx, func() error {
		if s.peer.Asked("get_missing_events") == before && !s.has(g.tip.EventID()) {
			return errors.New("alice's server does not ask")
		}
		return nil
	}))
	// What comes later is looked at later.
	d := s.draft("later")
	d.Prev = []string{s.room.State[member(s.peer.User("liar"))].EventID()}
	later := s.room.Make(d)
	if status, answer := s.transact("later", later.JSON()); status != 200 {
		s.Fatalf("%d %s", status, answer)
	}
	s.arrives(later)
	shown := []string{}
	for _, e := range append([]*event.Event{g.first, g.hidden, g.tip}, more...) {
		if s.has(e.EventID()) {
			shown = append(shown, e.ContentString("body"))
		}
	}
	s.note("shown: %s", strings.Join(shown, ", "))
}

// TestMissingEvents sends events whose predecessors alice's node has to ask for, and lies about these.
func TestMissingEvents(t *testing.T) {
	const all, none = "shown: gap 0, gap 1, gap 2", "shown: "
	events := func(list func() []any) Lie {
		return func(w http.ResponseWriter, _ *http.Request, _ Object) { Write(w, Object{"events": list()}) }
	}
	answer := func(name, want string, lie func(s *scene, g gap) Lie) row {
		return row{name: name, want: want, lie: func(s *scene) {
			g := s.gap()
			s.peer.Tell("get_missing_events", lie(s, g))
			s.missing(g)
		}}
	}
	play(t, []row{
		answer("the truth", all, func(*scene, gap) Lie { return nil }),
		answer("nothing", none, func(*scene, gap) Lie { return events(func() []any { return []any{} }) }),
		answer("a part", none, func(_ *scene, g gap) Lie { return events(func() []any { return []any{g.first} }) }),
		answer("the event itself", none, func(_ *scene, g gap) Lie { return events(func() []any { return []any{g.tip, g.tip} }) }),
		answer("backwards, twice", all, func(_ *scene, g gap) Lie {
			return events(func() []any { return []any{g.hidden, g.first, g.hidden, g.first, g.tip} })
		}),
		answer("what is no event", all, func(_ *scene, g gap) Lie {
			return events(func() []any { return []any{nil, 7, "x", Object{}, []any{}, g.first, g.hidden} })
		}),
		answer("forged events", none, func(s *scene, _ gap) Lie {
			return events(func() []any { d := s.draft("x"); d.Sender = s.carol.UserID; return []any{s.room.Make(d)} })
		}),
		answer("events of another room", none, func(s *scene, _ gap) Lie {
			other := s.peer.CreateRoom("10")
			return events(func() []any { return []any{other.State.events()[0], other.State.events()[1]} })
		}),
		answer("no list", none, func(*scene, gap) Lie { return say(`{"events":{}}`) }),
		answer("no JSON", none, func(*scene, gap) Lie { return say(`{"events":[`) }),
		answer("nested without end", none, func(*scene, gap) Lie {
			return say(`{"events":[` + strings.Repeat("[", 400_000) + strings.Repeat("]", 400_000) + `]}`)
		}),
		answer("events without end", none, func(_ *scene, g gap) Lie { return endless(`{"events":[`, string(g.first.JSON())+",") }),
		{name: "events that do not precede it", want: all, lie: func(s *scene) {
			stray := s.stray(s.room.Heads[0])
			g := s.gap()
			s.peer.Tell("get_missing_events", events(func() []any { return []any{stray, g.first, g.hidden} }))
			s.missing(g, stray)
		}},
		{name: "events that nothing connects", want: all + "; 0 questions about states", lie: func(s *scene) {
			g := s.gap()
			list := []any{g.first, g.hidden}
			for i := range 20 {
				d := s.draft("stray " + strconv.Itoa(i))
				d.Prev = many(20)
				list = append(list, s.room.Make(d))
			}
			s.peer.Tell("get_missing_events", events(func() []any { return list }))
			s.missing(g)
			s.note("%d questions about states", s.peer.Asked("state_ids"))
		}},
		{name: "events that precede each other", version: "1", want: none, lie: func(s *scene) {
			d := s.draft("cycle")
			first, second := s.room.Make(d), s.room.Make(d)
			refs := func(e *event.Event) []any {
				return []any{[]any{e.EventID(), Object{"sha256": strings.Repeat("A", 43)}}}
			}
			first = s.craft(first, Object{"prev_events": refs(second)})
			second = s.craft(second, Object{"prev_events": refs(first)})
			d = s.draft("tip")
			d.Prev = []string{first.EventID()}
			g := gap{first: first, hidden: second, tip: s.room.Make(d)}
			s.peer.Tell("get_missing_events", events(func() []any { return []any{first, second} }))
			s.missing(g)
		}},
		{name: "events that cite each other", version: "1", want: none, lie: func(s *scene) {
			me := s.peer.User("liar")
			d := Draft{Type: "m.room.member", Key: &me, Sender: me, Content: Object{"membership": "join", "displayname": "x"}}
			first, second := s.room.Make(d), s.room.Make(d)
			refs := func(e *event.Event) []any {
				return []any{[]any{s.room.State[create].EventID(), Object{}}, []any{e.EventID(), Object{"sha256": strings.Repeat("A", 43)}}}
			}
			first = s.craft(first, Object{"auth_events": refs(second)})
			second = s.craft(second, Object{"auth_events": refs(first)})
			d = s.draft("tip")
			d.Auth = []string{s.room.State[create].EventID(), first.EventID()}
			d.Prev = s.room.Heads
			g := gap{first: first, hidden: second, tip: s.room.Make(d)}
			chain := func(w http.ResponseWriter, _ *http.Request, _ Object) {
				Write(w, Object{"auth_chain": []any{first, second}})
			}
			s.peer.Tell("event_auth", chain)
			s.peer.Tell("get_missing_events", events(func() []any { return []any{} }))
			s.cited(g)
		}},
	})
}

// cited is missing for an event that alice's node has to ask the auth events of.
func (s *scene) cited(g gap) {
	s.Helper()
	if status, answer := s.transact("cited", g.tip.JSON()); status != 200 {
		s.Fatalf("%d %s", status, answer)
	}
	s.must(lab.Poll(s.ctx, func() error {
		if s.peer.Asked("event_auth") == 0 {
			return errors.New("alice's server does not ask")
		}
		return nil
	}))
	s.peer.mu.Lock()
	s.peer.asked["get_missing_events"]++ // nothing is missing
	s.peer.mu.Unlock()
	later := s.room.Make(s.draft("later"))
	if status, answer := s.transact("later", later.JSON()); status != 200 {
		s.Fatalf("%d %s", status, answer)
	}
	s.arrives(later)
	for _, e := range []*event.Event{g.first, g.hidden, g.tip} {
		if s.has(e.EventID()) {
			s.Errorf("%s is shown", e.EventID())
		}
	}
	s.note("shown: ")
}

func (s *scene) craft(e *event.Event, fields Object) *event.Event {
	s.Helper()
	made, err := Craft(s.room.V, e, fields, s.peer.Signer)
	s.must(err)
	return made
}

// TestStateAnswers sends events before which alice's node must ask for the state, and lies about it.
func TestStateAnswers(t *testing.T) {
	const all, none = "shown: gap 1, gap 2", "shown: "
	answer := func(name, want string, lie func(s *scene, g gap)) row {
		return row{name: name, want: want, lie: func(s *scene) {
			g := s.gap()
			s.peer.Tell("get_missing_events", func(w http.ResponseWriter, _ *http.Request, _ Object) { Write(w, Object{"events": []any{g.hidden}}) })
			lie(s, g)
			s.missing(g)
		}}
	}
	state := func(name, want string, change func(s *scene, o Object)) row {
		return answer(name, want, func(s *scene, _ gap) { s.peer.Tell("state_ids", bend(func(o Object) { change(s, o) })) })
	}
	add := func(o Object, more ...string) {
		have, ok := o["pdu_ids"].([]string)
		if !ok {
			panic("no ids")
		}
		o["pdu_ids"] = append(have, more...)
	}
	play(t, []row{
		answer("the truth", all, func(*scene, gap) {}),
		state("ids of nothing", all, func(_ *scene, o Object) { add(o, many(50)...) }),
		state("ids that are none", all, func(_ *scene, o Object) { add(o, "", "x", "$", strings.Repeat("$", 10_000)) }),
		state("the same ids twice", all, func(_ *scene, o Object) { add(o, o["pdu_ids"].([]string)...) }),
		state("no ids", none, func(_ *scene, o Object) { o["pdu_ids"], o["auth_chain_ids"] = []string{}, []string{} }),
		state("a state without m.room.create", none, func(s *scene, o Object) {
			var left []string
			for _, id := range o["pdu_ids"].([]string) {
				if id != s.room.State[create].EventID() {
					left = append(left, id)
				}
			}
			o["pdu_ids"] = left
		}),
		state("a state without the other members", all, func(s *scene, o Object) {
			var left []string
			for _, id := range o["pdu_ids"].([]string) {
				if id != s.room.State[member(s.carol.UserID)].EventID() && id != s.room.State[member(s.alice.UserID)].EventID() {
					left = append(left, id)
				}
			}
			o["pdu_ids"] = left
		}),
		state("two events for one place", none, func(s *scene, o Object) {
			me := s.peer.User("liar")
			second := s.room.Make(Draft{Type: "m.room.member", Key: &me, Sender: me, Content: Object{"membership": "join", "displayname": "second"}})
			s.room.Keep(second)
			add(o, second.EventID())
		}),
		state("power levels of its own", all, func(s *scene, o Object) {
			e := s.state1("m.room.power_levels", "", Object{"users": Object{s.peer.User("liar"): 100}})
			s.room.Keep(e)
			var left []string
			for _, id := range o["pdu_ids"].([]string) {
				if id != s.room.State[levels].EventID() {
					left = append(left, id)
				}
			}
			o["pdu_ids"] = append(left, e.EventID())
		}),
		state("state of another room", all, func(s *scene, o Object) {
			other := s.peer.CreateRoom("10")
			add(o, ids(other.State.events())...)
		}),
		state("500,000 ids", none, func(_ *scene, o Object) { add(o, many(500_000)...) }),
		answer("no list", none, func(s *scene, _ gap) { s.peer.Tell("state_ids", say(`{"pdu_ids":{},"auth_chain_ids":[]}`)) }),
		answer("no JSON", none, func(s *scene, _ gap) { s.peer.Tell("state_ids", say(`{"pdu_ids":[`)) }),
		answer("ids without end", none, func(s *scene, _ gap) {
			s.peer.Tell("state_ids", endless(`{"auth_chain_ids":[],"pdu_ids":[`, `"`+many(1)[0]+`",`))
		}),
		answer("another event than was asked for", none, func(s *scene, g gap) {
			s.peer.Tell("event", func(w http.ResponseWriter, _ *http.Request, _ Object) { Write(w, Object{"pdus": []any{g.tip}}) })
		}),
		answer("no event", none, func(s *scene, _ gap) { s.peer.Tell("event", say(`{"pdus":[]}`)) }),
		answer("an event of another room", none, func(s *scene, _ gap) {
			other := s.peer.CreateRoom("10")
			s.peer.Tell("event", func(w http.ResponseWriter, _ *http.Request, _ Object) {
				Write(w, Object{"pdus": raws(other.State.events())})
			})
		}),
	})
}

// TestBackfill has alice read the history of a room of the liar, which lies about it.
func TestBackfill(t *testing.T) {
	const all = "old 1, old 2, old 3"
	answer := func(name, want string, lie func(s *scene, r *Room, old []*event.Event) Lie) row {
		return row{name: name, want: want, lie: func(s *scene) {
			r := s.peer.CreateRoom("10")
			var old []*event.Event
			for i := range 3 {
				e := r.Make(Draft{Type: "m.room.message", Sender: s.peer.User("liar"), Content: Object{"body": "old " + strconv.Itoa(i+1)}})
				r.Add(e)
				old = append(old, e)
			}
			_, err := s.alice.Join(s.ctx, r.ID, s.peer.Name)
			s.must(err)
			s.peer.Tell("backfill", lie(s, r, old))
			s.note("%s", s.history(r.ID))
			s.peer.Tell("backfill", nil)
			if got := s.history(r.ID); got != all {
				s.Errorf("when it is honest: %s", got)
			}
		}}
	}
	pdus := func(list ...*event.Event) Lie {
		return func(w http.ResponseWriter, _ *http.Request, _ Object) { Write(w, Object{"pdus": list}) }
	}
	play(t, []row{
		answer("the truth", all, func(*scene, *Room, []*event.Event) Lie { return nil }),
		answer("nothing", "", func(*scene, *Room, []*event.Event) Lie { return pdus() }),
		answer("forwards, twice", all, func(_ *scene, r *Room, old []*event.Event) Lie {
			all := r.Events()
			return pdus(append(all, all...)...)
		}),
		answer("events of another room", "", func(s *scene, _ *Room, _ []*event.Event) Lie {
			return pdus(s.peer.CreateRoom("10").Events()...)
		}),
		answer("forged events", "", func(s *scene, r *Room, _ []*event.Event) Lie {
			return pdus(r.Make(Draft{Type: "m.room.message", Sender: s.carol.UserID, Content: Object{"body": "forged"}}))
		}),
		answer("events that do not precede it", "", func(s *scene, r *Room, old []*event.Event) Lie {
			stray := r.Make(Draft{Type: "m.room.message", Sender: s.peer.User("liar"), Content: Object{"body": "stray"}, Prev: []string{old[0].EventID()}})
			r.Keep(stray)
			r.before[stray.EventID()] = r.before[old[1].EventID()]
			return pdus(stray)
		}),
		answer("the truth, and events that do not precede it", all, func(s *scene, r *Room, old []*event.Event) Lie {
			stray := r.Make(Draft{Type: "m.room.message", Sender: s.peer.User("liar"), Content: Object{"body": "stray"}, Prev: []string{old[0].EventID()}})
			return pdus(append(r.Events(), stray)...)
		}),
		answer("no JSON", "", func(*scene, *Room, []*event.Event) Lie { return say(`{"pdus":[`) }),
		answer("no list", "", func(*scene, *Room, []*event.Event) Lie { return say(`{"pdus":{}}`) }),
		answer("events without end", "", func(_ *scene, _ *Room, old []*event.Event) Lie {
			return endless(`{"pdus":[`, string(old[0].JSON())+",")
		}),
	})
}

// history is the old messages that alice is shown of a room, oldest first.
func (s *scene) history(room string) string {
	s.Helper()
	var page struct{ Chunk []lab.Event }
	s.must(s.alice.Call(s.ctx, "GET", lab.V3("rooms", room, "messages")+"?dir=b&limit=50", nil, &page))
	var texts []string
	for _, e := range page.Chunk {
		if e.Type == "m.room.message" {
			texts = append([]string{e.Text("body")}, texts...)
		}
	}
	return strings.Join(texts, ", ")
}
