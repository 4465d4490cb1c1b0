package stateres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"knock/roomserver/event"
	"knock/roomserver/state"
)

// TestOrder1: at each step the smallest of all candidates comes next, not the newest from the end.
func TestOrder1(t *testing.T) {
	w := newWorld(t, "11")
	base := w.begin("")
	join := func(name string, ts int64, extra ...int64) int64 {
		return w.add(spec{name: name, evType: "m.room.topic", key: name, sender: creator, content: `{}`, ts: ts, auth: append(slices.Clone(base), extra...)})
	}
	e3 := join("e3", 30)
	e2 := join("e2", 20)
	e1 := join("e1", 10, e3)
	r := newResolver(context.Background(), w)
	g := newGraph(r)
	got, err := r.powerOrder(g, g.nodes([]int64{e3, e2, e1}))
	if err != nil || !slices.Equal(got, []int64{e2, e3, e1}) {
		t.Errorf("got %v, %v; want [e2 e3 e1] = %v", got, err, []int64{e2, e3, e1})
	}
}

func TestRes1(t *testing.T) {
	w := newWorld(t, "11")
	base := w.begin(`{"users":{"@a:x":100,"@z:x":50}}`)
	a := w.add(spec{name: "plA", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@a:x":0}}`, ts: 3, auth: base})
	b := w.add(spec{name: "plB", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@a:x":100,"@z:x":77}}`, ts: 4, auth: base})
	resolved := w.resolve(w.set(base[0], base[1], a), w.set(base[0], base[1], b))
	if got := w.holds(resolved, "m.room.power_levels", ""); got != "plA" {
		t.Errorf("power levels are %s, want plA: after it the sender of plB has no power", got)
	}
}

// TestRes2: in version 12 the checks start from an empty state, so m.room.create comes from the auth events.
func TestRes2(t *testing.T) {
	w := newWorld(t, "12")
	base := w.begin(`{"users":{"@z:x":50}}`)
	key, content := member(rival, "join")
	joined := w.add(spec{name: "zjoin", evType: "m.room.member", key: key, sender: rival, content: content, ts: 3, auth: base})
	a := w.add(spec{name: "plA", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@z:x":0}}`, ts: 9, auth: base})
	b := w.add(spec{name: "plB", evType: "m.room.power_levels", sender: rival, content: `{"users":{"@z:x":50},"kick":40}`, ts: 4, auth: []int64{base[0], base[2], joined}})
	resolved := w.resolve(w.set(base[0], base[1], joined, a), w.set(base[0], base[1], joined, b))
	if got := w.holds(resolved, "m.room.power_levels", ""); got != "plA" {
		t.Errorf("power levels are %s, want plA: a creator's event comes first and takes the other sender's power", got)
	}
	if got := describe(w, resolved); resolved.Len() != 4 {
		t.Errorf("resolved to %s, want four entries", got)
	}
}

// longChain is res-3: n power levels and member events that cite one another in turn, and two topics at its ends.
func longChain(w *world, n int) []*state.Set {
	base := w.begin(`{"users":{"@z:x":50}}`)
	create, last := base[0], base[1:]
	first := slices.Clone(base)
	for i := range n {
		s := spec{name: fmt.Sprint("chain", i), sender: creator, ts: int64(10 + i), auth: append([]int64{create}, last...)}
		if i%2 == 0 {
			s.evType, s.content = "m.room.power_levels", fmt.Sprintf(`{"users":{"@z:x":50},"kick":%d}`, i%50)
		} else {
			s.evType = "m.room.member"
			s.key, s.content = creator, fmt.Sprintf(`{"displayname":"%d","membership":"join"}`, i)
		}
		id := w.add(s)
		if i%2 == 0 {
			last = []int64{last[0], id}
		} else {
			last = []int64{id, last[1]}
		}
	}
	topic := func(name string, ts int64, cites []int64) int64 {
		return w.add(spec{name: name, evType: "m.room.topic", sender: creator, content: `{}`, ts: ts, auth: cites})
	}
	x := topic("old", 5, first)
	y := topic("new", 4, append([]int64{create}, last...))
	return []*state.Set{w.set(append(slices.Clone(first), x)...), w.set(append([]int64{create, y}, last...)...)}
}

// TestRes3 counts instead of timing: each auth list is read a few times, however many paths there are.
func TestRes3(t *testing.T) {
	w := newWorld(t, "12")
	sets := longChain(w, 200)
	resolved := w.resolve(sets...)
	if got := w.holds(resolved, "m.room.topic", ""); got != "new" {
		t.Errorf("topic is %s, want new, which is based on the later power levels", got)
	}
	if got := w.holds(resolved, "m.room.power_levels", ""); got != "chain198" {
		t.Errorf("power levels are %s, want the last", got)
	}
	for id, calls := range w.authCalls {
		if calls > 16 {
			t.Errorf("Auth(%s) was asked %d times", w.names[id], calls)
		}
	}
}

// TestRes4: neither a rejected power levels event on the way nor the number of steps decides, only the mainline position.
func TestRes4(t *testing.T) {
	w := newWorld(t, "11")
	base := w.begin(`{"users":{"@a:x":100,"@z:x":50}}`)
	bad := w.add(spec{name: "plX", evType: "m.room.power_levels", sender: rival, content: `{"users":{"@z:x":100}}`, ts: 5, auth: base, rejected: true})
	x := w.add(spec{name: "x", evType: "m.room.topic", sender: creator, content: `{}`, ts: 20, auth: base})
	y := w.add(spec{name: "y", evType: "m.room.topic", sender: creator, content: `{}`, ts: 10, auth: []int64{base[0], base[1], bad}})
	resolved := w.resolve(w.set(append(slices.Clone(base), x)...), w.set(append(slices.Clone(base), y)...))
	if got := w.holds(resolved, "m.room.topic", ""); got != "x" {
		t.Errorf("topic is %s, want x", got)
	}
}

// TestRejectedIsNotUsed: an auth event that was rejected does not complete the state of the checks.
func TestRejectedIsNotUsed(t *testing.T) {
	w := newWorld(t, "11")
	base := w.begin("")
	key, content := member(rival, "join")
	rules := w.add(spec{name: "rules", evType: "m.room.join_rules", sender: "@nobody:x", content: `{"join_rule":"public"}`, auth: base[:1], rejected: true})
	zjoin := w.add(spec{name: "zjoin", evType: "m.room.member", key: key, sender: rival, content: content, ts: 3, auth: []int64{base[0], rules}})
	resolved := w.resolve(w.set(base...), w.set(append(slices.Clone(base), zjoin)...))
	if got := w.holds(resolved, "m.room.member", rival); got != "" {
		t.Errorf("%s was let in by a rejected join rule", got)
	}
	w.rejected[rules] = false
	resolved = w.resolve(w.set(base...), w.set(append(slices.Clone(base), zjoin)...))
	if got := w.holds(resolved, "m.room.member", rival); got != "zjoin" {
		t.Errorf("membership is %q, want zjoin: its own auth events complete the state", got)
	}
}

func TestTrivial(t *testing.T) {
	w := newWorld(t, "11")
	base := w.begin(`{}`)
	s := w.set(base...)
	if w.resolve() != nil || w.resolve(nil, nil) != nil {
		t.Error("nothing resolves to something")
	}
	if w.resolve(s) != s || w.resolve(s, s, s) != s || w.resolve(s, state.FromEntries(s.Entries())) != s {
		t.Error("equal sets do not resolve to the first")
	}
	if w.eventAsks != 0 {
		t.Errorf("%d events were parsed without a conflict", w.eventAsks)
	}
}

// TestContextEnds: the walk ends with its context, and the source's errors come through.
func TestContextEnds(t *testing.T) {
	w := newWorld(t, "12")
	sets := longChain(w, 600)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Resolve(ctx, w.v, sets, w); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// brokenSource fails at the n-th question.
type brokenSource struct {
	*world
	left int
}

var errBroken = errors.New("broken")

func (b *brokenSource) fail() error {
	if b.left--; b.left < 0 {
		return errBroken
	}
	return nil
}

func (b *brokenSource) Event(id int64) (*event.Event, error) {
	if err := b.fail(); err != nil {
		return nil, err
	}
	return b.world.Event(id)
}

func (b *brokenSource) Auth(id int64) ([]int64, error) {
	if err := b.fail(); err != nil {
		return nil, err
	}
	return b.world.Auth(id)
}

func (b *brokenSource) TupleOf(evType, key string) (int64, error) {
	if err := b.fail(); err != nil {
		return 0, err
	}
	return b.world.TupleOf(evType, key)
}

func TestSourceErrors(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		w := newWorld(t, version)
		sets := longChain(w, 6)
		for n := 0; ; n++ {
			_, err := Resolve(context.Background(), w.v, sets, &brokenSource{w, n})
			if err == nil {
				break
			}
			if !errors.Is(err, errBroken) {
				t.Fatalf("v%s, question %d: %v", version, n, err)
			}
		}
	}
}

// TestCircle: events of room version 2 may cite one another in a circle; resolution must end.
func TestCircle(t *testing.T) {
	w := newWorld(t, "2")
	base := w.begin(`{"users":{"@a:x":100}}`)
	a := w.add(spec{name: "plA", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@a:x":100},"ban":1}`, ts: 4, auth: base})
	b := w.add(spec{name: "plB", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@a:x":100},"ban":2}`, ts: 5, auth: []int64{base[0], base[1], a}})
	w.cites[a] = []int64{base[0], base[1], b}
	x := w.add(spec{name: "x", evType: "m.room.topic", sender: creator, content: `{}`, ts: 20, auth: []int64{base[0], base[1], b}})
	resolved := w.resolve(w.set(base[0], base[1], a, x), w.set(base[0], base[1], b))
	if got := w.holds(resolved, "m.room.power_levels", ""); got == "" {
		t.Error("the circle left no power levels")
	}
}

func bigRoom(b testing.TB, version string, members int) (*world, []*state.Set) {
	w := newWorld(b, version)
	base := w.begin(`{"users":{"@z:x":50}}`)
	ids := slices.Clone(base)
	ids = append(ids, w.add(spec{name: "rules", evType: "m.room.join_rules", sender: creator, content: `{"join_rule":"public"}`, ts: 3, auth: base}))
	cites := []int64{base[0], base[2], ids[3]}
	for i := range members {
		user := fmt.Sprintf("@user%d:x", i)
		key, content := member(user, "join")
		ids = append(ids, w.add(spec{name: fmt.Sprint("user", i), evType: "m.room.member", key: key, sender: user, content: content, ts: int64(10 + i), auth: cites}))
	}
	set := w.set(ids...)
	key, content := member("@user0:x", "leave")
	left := w.add(spec{name: "left", evType: "m.room.member", key: key, sender: key, content: content, ts: 1, auth: []int64{base[0], base[2], ids[4]}})
	return w, []*state.Set{set, set.With(w.Tuple(left), left)}
}

func BenchmarkOneConflictIn10kMembers(b *testing.B) {
	for _, version := range []string{"1", "11", "12"} {
		b.Run("v"+version, func(b *testing.B) {
			w, sets := bigRoom(b, version, 10_000)
			b.ReportAllocs()
			for b.Loop() {
				w.resolve(sets...)
			}
		})
	}
}

// BenchmarkPowerBehind10kMembers has an auth difference, so the chains of all unconflicted events are walked.
func BenchmarkPowerBehind10kMembers(b *testing.B) {
	for _, version := range []string{"11", "12"} {
		b.Run("v"+version, func(b *testing.B) {
			w, sets := bigRoom(b, version, 10_000)
			create, join, pl := w.byName["create"], w.byName["join"], w.byName["pl0"]
			p1 := w.add(spec{name: "pl1", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@z:x":51}}`, ts: 5, auth: []int64{create, join, pl}})
			p2 := w.add(spec{name: "pl2", evType: "m.room.power_levels", sender: creator, content: `{"users":{"@z:x":52}}`, ts: 6, auth: []int64{create, join, p1}})
			other := sets[0].With(w.Tuple(p2), p2)
			b.ReportAllocs()
			for b.Loop() {
				w.resolve(sets[0], other)
			}
		})
	}
}

func BenchmarkSubgraph200(b *testing.B) {
	w := newWorld(b, "12")
	sets := longChain(w, 200)
	b.ReportAllocs()
	for b.Loop() {
		w.resolve(sets...)
	}
}

func BenchmarkSubgraph2000(b *testing.B) {
	w := newWorld(b, "12")
	sets := longChain(w, 2000)
	for b.Loop() {
		w.resolve(sets...)
	}
}
