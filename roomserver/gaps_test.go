package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

var errFar = errors.New("404")

// far is another server: what it answers, and what it was asked.
type far struct {
	Remote  // what no test asks for
	raws    map[string]json.RawMessage
	made    map[string]*event.Event
	chains  map[string][]*event.Event // of /event_auth
	states  map[string][]*event.Event // before an event
	history []*event.Event            // what get_missing_events walks, oldest first
	page    int                       // events of its answers

	mu    sync.Mutex
	asked []string
}

func (f *far) note(what, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, what+" "+id)
}

// count tells how often the server was asked something.
func (f *far) count(what string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.asked {
		if len(a) >= len(what) && a[:len(what)] == what {
			n++
		}
	}
	return n
}

func (f *far) give(events ...*event.Event) {
	for _, e := range events {
		f.raws[e.EventID()] = e.JSON()
	}
}

func (f *far) Event(_ context.Context, _, id string) (json.RawMessage, error) {
	f.note("event", id)
	if raw := f.raws[id]; raw != nil {
		return raw, nil
	}
	return nil, errFar
}

func (f *far) EventAuth(_ context.Context, _, _, id string) ([]json.RawMessage, error) {
	f.note("auth", id)
	if chain, ok := f.chains[id]; ok {
		return rawsOf(chain), nil
	}
	return nil, errFar
}

func (f *far) StateIDs(_ context.Context, _, _, id string) (state, auth []string, err error) {
	f.note("state", id)
	events, ok := f.states[id]
	if !ok {
		return nil, nil, errFar
	}
	seen := map[string]bool{}
	for _, e := range events {
		state = append(state, e.EventID())
		auth = f.chain(e, seen, auth)
	}
	return state, auth, nil
}

// chain adds the auth chain of an event, as far as the server has it, to out.
func (f *far) chain(e *event.Event, seen map[string]bool, out []string) []string {
	for _, id := range e.AuthRefs() {
		if seen[id] {
			continue
		}
		seen[id] = true
		if out = append(out, id); f.made[id] != nil {
			out = f.chain(f.made[id], seen, out)
		}
	}
	return out
}

func (f *far) MissingEvents(_ context.Context, _, _ string, _, latest []string, limit int, _ int64) ([]json.RawMessage, error) {
	f.note("missing", latest[0])
	to := slices.IndexFunc(f.history, func(e *event.Event) bool { return e.EventID() == latest[0] })
	if to < 0 {
		to = len(f.history)
	}
	return rawsOf(f.history[max(0, to-min(f.page, limit)):to]), nil
}

func rawsOf(events []*event.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

// gapRig is a room that bob of another server is in.
type gapRig struct {
	t    *testing.T
	s    *Server
	far  *far
	key  store.RoomKey
	room string
	base snapshot
}

const farBob = "@bob:b.example"

func newGapRig(t *testing.T, db *sqldb.DB) *gapRig {
	s := newTestServer(t, db)
	f := &far{raws: map[string]json.RawMessage{}, made: map[string]*event.Event{}, chains: map[string][]*event.Event{}, states: map[string][]*event.Event{}, page: 10}
	s.Remote = f
	room := createRoom(t, s, CreateRequest{Version: "11", Preset: "public_chat"})
	bob := farBob
	receive(t, s, snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`))
	key, err := s.Room(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	return &gapRig{t: t, s: s, far: f, key: key, room: room, base: snap(t, s, room)}
}

// next builds an event of bob's after another one, nil for the room as it was.
// Its auth events are as the room has them, or those given.
func (r *gapRig) next(prev *event.Event, typ string, key *string, content string, auths ...string) *event.Event {
	r.t.Helper()
	b := event.Builder{Version: r.key.Version, Type: typ, Sender: farBob, RoomID: r.room, StateKey: key, Content: json.RawMessage(content),
		PrevEvents: r.base.prevs, Depth: r.base.depth, AuthEvents: auths}
	if prev != nil {
		b.PrevEvents, b.Depth = []string{prev.EventID()}, prev.Depth()+1
	}
	b.TS = r.s.Clock().UnixMilli() + b.Depth // each is newer than what it follows
	if auths == nil {
		for _, t := range auth.NeededFor(r.key.Version, typ, key, farBob, b.Content) {
			if e := r.base.state.Lookup(t.Type, t.Key); e != nil {
				b.AuthEvents = append(b.AuthEvents, e.EventID())
			}
		}
	}
	e, err := b.Build(farSigner)
	if err != nil {
		r.t.Fatal(err)
	}
	r.far.made[e.EventID()] = e
	return e
}

func (r *gapRig) say(prev *event.Event, text string, auths ...string) *event.Event {
	return r.next(prev, "m.room.message", nil, fmt.Sprintf(`{"body":%q}`, text), auths...)
}

// auths are the ids of the auth events of bob's: the room's, with others in
// place of them.
func (r *gapRig) auths(member bool, others ...*event.Event) (ids []string) {
	tuples := []auth.Tuple{{Type: "m.room.create"}, {Type: "m.room.power_levels"}, {Type: "m.room.member", Key: farBob}}
	if member {
		tuples = append(tuples, auth.Tuple{Type: "m.room.join_rules"})
	}
	for _, t := range tuples {
		if !slices.ContainsFunc(others, func(e *event.Event) bool { return e.IsState(t.Type, t.Key) }) {
			ids = append(ids, r.base.state.Lookup(t.Type, t.Key).EventID())
		}
	}
	for _, e := range others {
		ids = append(ids, e.EventID())
	}
	return ids
}

// receive takes a transaction and works the queue off.
func (r *gapRig) receive(events ...*event.Event) {
	r.t.Helper()
	receive(r.t, r.s, events...)
	for more := true; more; {
		more, _ = r.s.drainOnce(r.t.Context(), r.key)
	}
}

// flags returns how an event is here; not ok when it is not.
func (r *gapRig) flags(e *event.Event) (store.Flags, bool) {
	r.t.Helper()
	known, err := r.s.here(r.t.Context(), e.EventID())
	if err != nil {
		r.t.Fatal(err)
	}
	if known == nil {
		return 0, false
	}
	return known.Flags, true
}

func (r *gapRig) placed(e *event.Event) bool {
	f, ok := r.flags(e)
	return ok && f&(store.Outlier|store.Rejected|store.SoftFailed) == 0
}

func (r *gapRig) rejected(e *event.Event) bool {
	f, ok := r.flags(e)
	return ok && f&store.Rejected != 0
}

func (r *gapRig) queued() int {
	r.t.Helper()
	var n int64
	err := r.s.db.Read(r.t.Context(), func(tx *sqldb.Tx) (err error) {
		n, err = r.s.Store.InboundCount(tx, r.key.NID)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return int(n)
}

// queuedRows are all rows of a room's inbound queue.
func queuedRows(tx *sqldb.Tx, s *Server, room int64) ([]store.Inbound, error) {
	line, err := s.Store.InboundLine(tx, room)
	if err != nil {
		return nil, err
	}
	return s.Store.InboundRows(tx, takeTurns(line, len(line)))
}

// TestRejectedAuthEvents pulls an event in by its being cited, which cites a
// rejected one.
func TestRejectedAuthEvents(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		empty, bob := "", farBob
		bad := r.next(nil, "m.room.power_levels", &empty, `{"users":{}}`)
		r.receive(bad)
		outlier := r.next(nil, "m.room.member", &bob, `{"membership":"join","test":1}`, r.auths(true, bad)...)
		r.far.give(outlier)
		first := r.say(nil, "its auth chain is told", r.auths(false, outlier)...)
		r.far.chains[first.EventID()] = []*event.Event{outlier}
		second := r.say(first, "its auth chain is not", r.auths(false, outlier)...)
		last := r.say(second, "good")
		r.receive(first, second, last)
		for name, e := range map[string]*event.Event{"the cited event": outlier, "the first": first, "the second": second} {
			if !r.rejected(e) {
				t.Errorf("%s is not rejected", name)
			}
		}
		if !r.placed(last) || r.queued() != 0 {
			t.Errorf("the event after them is not there, %d are queued", r.queued())
		}

		again := r.next(nil, "m.room.member", &bob, `{"membership":"join","test":2}`, r.auths(true, bad)...)
		r.far.give(again)
		if third := r.say(last, "an auth event is told by itself", r.auths(false, again)...); true {
			r.receive(third)
			if !r.rejected(third) || !r.rejected(again) {
				t.Error("an event with an auth event that was fetched by itself is not rejected")
			}
		}
	})
}

// TestWithheldEvents has a server send an event and not give its prev event.
func TestWithheldEvents(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		hidden := r.say(nil, "hidden")
		sent := r.say(hidden, "sent")
		r.far.states[sent.EventID()] = nil
		r.receive(sent)
		if _, here := r.flags(sent); here || r.queued() != 0 || r.far.count("state") != 0 {
			t.Errorf("the event is here: %v; %d are queued; asked %v", here, r.queued(), r.far.asked)
		}
		// The next one is sent with it as history, so the state is asked for.
		next := r.say(sent, "next")
		r.far.history = []*event.Event{sent}
		r.far.states[hidden.EventID()] = stateOf(r.base)
		r.far.raws[hidden.EventID()] = json.RawMessage(`{"malformed":1.5}`)
		r.receive(next)
		if !r.placed(sent) || !r.placed(next) || r.queued() != 0 {
			t.Errorf("%d are queued; asked %v", r.queued(), r.far.asked)
		}
	})
}

func stateOf(sn snapshot) (out []*event.Event) {
	for _, t := range []auth.Tuple{{Type: "m.room.create"}, {Type: "m.room.join_rules"}, {Type: "m.room.power_levels"}, {Type: "m.room.history_visibility"},
		{Type: "m.room.member", Key: farBob}, {Type: "m.room.member", Key: "@alice:a.example"}} {
		if e := sn.state.Lookup(t.Type, t.Key); e != nil {
			out = append(out, e)
		}
	}
	return out
}

// TestLongGap has a server tell its history in small pages, so that the state is
// asked for in the end.
func TestLongGap(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		bob := farBob
		var last *event.Event
		known := r.base.state.Lookup("m.room.member", bob)
		for i := range 150 {
			last = r.next(last, "m.room.member", &bob, fmt.Sprintf(`{"membership":"join","displayname":"Bob %d"}`, i), r.auths(true, known)...)
			known = last
			r.far.history = append(r.far.history, last)
			state := stateOf(r.base)
			if i > 0 {
				state = append(slices.DeleteFunc(state, func(e *event.Event) bool { return e.IsState("m.room.member", bob) }), r.far.history[i-1])
			}
			r.far.states[last.EventID()] = state
			r.far.give(last)
		}
		final := r.next(last, "m.room.message", nil, `{"body":"final"}`, r.auths(false, last)...)
		r.receive(final)
		if got := r.far.count("missing"); got != gapRounds {
			t.Errorf("%d pages were asked for, want %d", got, gapRounds)
		}
		if !r.placed(final) || r.queued() != 0 {
			t.Fatalf("the event did not come; %d are queued", r.queued())
		}
		asked := len(r.far.asked)
		if err := r.s.place(t.Context(), r.key, "b.example", r.far.history[slices.IndexFunc(r.far.history, r.placed)]); err != nil || len(r.far.asked) > asked {
			t.Errorf("the event after the gap again: %v, asked %v", err, r.far.asked[asked:])
		}
		e, err := r.s.CurrentState(t.Context(), r.room, "m.room.member", bob)
		if err != nil || e.ID != last.EventID() {
			t.Errorf("bob's newest name is not the room's: %v, %v", e, err)
		}
	})
}

// TestBrokenAuthChain has a server tell a state with an auth event in between
// that it does not give: nothing that rests on it may come in.
func TestBrokenAuthChain(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		bob := farBob
		chain := []*event.Event{r.base.state.Lookup("m.room.member", bob)}
		for i := range 5 {
			content := fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, i)
			e := r.next(nil, "m.room.member", &bob, content, r.auths(true, chain[i])...)
			chain = append(chain, e)
			if i != 1 {
				r.far.give(e)
			}
		}
		newest := chain[5]
		away := r.say(newest, "away", r.auths(false, newest)...)
		told := r.say(away, "told", r.auths(false, newest)...)
		sent := r.say(told, "sent", r.auths(false, newest)...)
		r.far.give(away)
		r.far.history = []*event.Event{told}
		r.far.states[away.EventID()] = append(stateOf(r.base)[:3:3], chain...)
		r.receive(sent)
		if got := r.far.count("missing"); got != 1 {
			t.Errorf("%d pages were asked of a server that gave one event", got)
		}
		for i, e := range append(chain[2:], away, told, sent) {
			if _, here := r.flags(e); here {
				t.Errorf("event %d, which rests on one that is not here, is", i)
			}
		}
		if after := r.say(nil, "after"); true {
			receive(t, r.s, after)
			for more := true; more; {
				more, _ = r.s.drainOnce(t.Context(), r.key)
			}
			if !r.placed(after) {
				t.Error("the room stands still")
			}
		}
	})
}

// TestFailuresHoldNothingUp queues an event behind one that cannot be placed.
func TestFailuresHoldNothingUp(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		lost := r.say(nil, "lost")
		stuck := r.say(lost, "stuck", r.auths(false, r.say(nil, "no auth event that is known"))...)
		r.far.history = []*event.Event{lost}
		failures := func() (n int64) {
			t.Helper()
			err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
				rows, err := queuedRows(tx, r.s, r.key.NID)
				if err == nil && len(rows) == 1 && rows[0].ID == stuck.EventID() {
					n = rows[0].Failures
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		receive(t, r.s, stuck)
		r.s.drainRoom(t.Context(), r.key)
		if failures() != 1 || r.s.waiting(r.key) {
			t.Fatalf("%d failures, waiting: %v", failures(), r.s.waiting(r.key))
		}
		fresh := r.say(lost, "fresh")
		if _, err := r.s.park(t.Context(), r.key, "b.example", []*event.Event{fresh}); err != nil {
			t.Fatal(err)
		}
		r.s.drainRoom(t.Context(), r.key)
		if !r.placed(fresh) || failures() != 1 {
			t.Fatalf("the event behind is placed: %v; %d failures", r.placed(fresh), failures())
		}
		r.s.retryInbound()
		r.s.drainRoom(t.Context(), r.key)
		if failures() != 2 {
			t.Fatalf("%d failures after another turn", failures())
		}
	})
}

// TestFailedEventsComeAgain has an event fail for good, be sent again when what it needs can be had, and one that is
// never sent again.
func TestFailedEventsComeAgain(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		bob := farBob
		renamed := r.next(nil, "m.room.member", &bob, `{"membership":"join","displayname":"B"}`, r.auths(true, r.base.state.Lookup("m.room.member", bob))...)
		before := r.say(nil, "before")
		stuck := r.say(before, "stuck", r.auths(false, renamed)...)
		r.far.history = []*event.Event{before}
		receive(t, r.s, stuck)
		for range 4 {
			r.s.drainRoom(t.Context(), r.key)
			r.s.retryInbound()
		}
		if n := r.queued(); n != 0 {
			t.Fatalf("%d events count as queued; the only one was given up", n)
		}
		if left := asideOf(t, r); len(left) != 1 || left[0].Failures != 3 || left[0].Error == "" {
			t.Fatalf("left aside: %+v", left)
		}
		r.far.give(renamed)
		receive(t, r.s, stuck)
		r.s.retryInbound()
		r.s.drainRoom(t.Context(), r.key)
		if !r.placed(stuck) || len(asideOf(t, r)) != 0 {
			t.Fatalf("sent again: placed %v, left aside %+v", r.placed(stuck), asideOf(t, r))
		}

		lost := r.say(before, "lost", r.auths(false, r.next(nil, "m.room.member", &bob, `{"membership":"join","displayname":"C"}`))...)
		receive(t, r.s, lost)
		for range 4 {
			r.s.drainRoom(t.Context(), r.key)
			r.s.retryInbound()
		}
		now := r.s.Clock()
		if err := r.s.sweepInbound(t.Context(), now.Add(keepFailed-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if n := len(asideOf(t, r)); n != 1 {
			t.Errorf("%d are kept for the operator to see", n)
		}
		if err := r.s.sweepInbound(t.Context(), now.Add(keepFailed+time.Hour)); err != nil {
			t.Fatal(err)
		}
		if n := len(asideOf(t, r)); n != 0 {
			t.Errorf("%d are kept for ever", n)
		}
	})
}

func asideOf(t *testing.T, r *gapRig) (rows []store.Inbound) {
	t.Helper()
	err := r.s.db.Read(t.Context(), func(tx *sqldb.Tx) (err error) {
		rows, err = r.s.Store.InboundAside(tx, r.key.NID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return rows
}
