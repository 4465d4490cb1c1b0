package stateres

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"knock/roomserver/auth"
	"knock/roomserver/state"
)

// simulation grows a room at random: forks and merges, fights over power, bans, changed join rules, rejected events that
// others cite, events that cite old state, and clocks that lie.
type simulation struct {
	w      *world
	rnd    *rand.Rand
	ref    reference
	after  []stateMap // state after each event that is in the graph
	depths []int64
	leaves []int
}

var users = []string{creator, rival, "@b:x", "@c:y", "@d:y"}

func pick[T any](rnd *rand.Rand, choices ...T) T { return choices[rnd.IntN(len(choices))] }

func newSimulation(t testing.TB, version string, seed uint64) *simulation {
	w := newWorld(t, version)
	s := &simulation{w: w, rnd: rand.New(rand.NewPCG(seed, 1)), ref: reference{w}}
	s.place(0, s.send(nil, "m.room.create", "", creator, `{"creator":"`+creator+`"}`, 1))
	s.then("m.room.member", creator, creator, `{"membership":"join"}`)
	s.then("m.room.power_levels", "", creator, s.levels())
	s.then("m.room.join_rules", "", creator, `{"join_rule":"`+pick(s.rnd, "public", "public", "invite")+`"}`)
	return s
}

// place puts an event into the graph with the state before it.
func (s *simulation) place(depth int64, id int64) {
	before := stateMap{}
	s.placeAfter(depth, id, before, nil)
}

func (s *simulation) placeAfter(depth int64, id int64, before stateMap, parents []int) {
	after := maps.Clone(before)
	after[s.ref.key(id)] = id
	s.after, s.depths = append(s.after, after), append(s.depths, depth)
	var leaves []int
	for _, l := range s.leaves {
		keep := true
		for _, p := range parents {
			keep = keep && (p != l || s.rnd.IntN(3) == 0)
		}
		if keep {
			leaves = append(leaves, l)
		}
	}
	s.leaves = append(leaves, len(s.after)-1)
}

// then appends to the last event, without any check.
func (s *simulation) then(evType, key, sender, content string) {
	last := len(s.after) - 1
	id := s.send(s.after[last], evType, key, sender, content, s.depths[last]+1)
	s.placeAfter(s.depths[last]+1, id, s.after[last], []int{last})
}

// send makes an event with the auth events that the state selects; now and then it forgets one or cites an older one.
func (s *simulation) send(before stateMap, evType, k, sender, content string, depth int64) int64 {
	var cites []int64
	if create, ok := before[key{Type: "m.room.create"}]; ok && s.w.v.DomainlessRoomIDs {
		cites = append(cites, create)
	}
	for _, needed := range auth.NeededFor(s.w.v, evType, &k, sender, []byte(content)) {
		id, ok := before[needed]
		if ok && needed.Type != "m.room.create" && s.rnd.IntN(12) == 0 {
			id, ok = s.another(needed)
		}
		if ok {
			cites = append(cites, id)
		}
	}
	n := len(s.w.events)
	return s.w.add(spec{name: fmt.Sprint("e", n), evType: evType, key: k, sender: sender, content: content, ts: int64(s.rnd.IntN(8)), depth: depth, auth: cites})
}

// another returns any earlier event of the tuple, rejected ones among them, or none.
func (s *simulation) another(k key) (int64, bool) {
	var all []int64
	for id := int64(1); id < int64(len(s.w.events)); id++ {
		if s.ref.key(id) == k {
			all = append(all, id)
		}
	}
	if len(all) == 0 || s.rnd.IntN(4) == 0 {
		return 0, false
	}
	return pick(s.rnd, all...), true
}

func (s *simulation) levels() string {
	levels := ""
	for _, user := range users {
		if s.w.v.PrivilegedCreators && user == creator {
			continue
		}
		if level := pick(s.rnd, 0, 0, 50, 50, 100); level > 0 || user == creator {
			if user == creator && s.rnd.IntN(4) > 0 {
				level = 100
			}
			levels += fmt.Sprintf(`,"%s":%d`, user, level)
		}
	}
	if levels != "" {
		levels = levels[1:]
	}
	return fmt.Sprintf(`{"users":{%s},"state_default":%d,"kick":%d,"ban":%d}`, levels, pick(s.rnd, 0, 50), pick(s.rnd, 0, 50), pick(s.rnd, 50, 50, 100))
}

func (s *simulation) grow() {
	parents := []int{pick(s.rnd, s.leaves...)}
	if s.rnd.IntN(4) == 0 {
		parents = append(parents, pick(s.rnd, s.leaves...))
	}
	if s.rnd.IntN(5) == 0 {
		parents = []int{s.rnd.IntN(len(s.after))}
	}
	var states []stateMap
	depth := int64(0)
	for _, p := range parents {
		states = append(states, s.after[p])
		depth = max(depth, s.depths[p]+1)
	}
	before := s.ref.resolve(states)
	sender, target := pick(s.rnd, users...), pick(s.rnd, users...)
	var id int64
	switch s.rnd.IntN(10) {
	case 0, 1, 2:
		id = s.send(before, "m.room.power_levels", "", sender, s.levels(), depth)
	case 3:
		id = s.send(before, "m.room.join_rules", "", sender, `{"join_rule":"`+pick(s.rnd, "public", "invite", "knock")+`"}`, depth)
	case 4, 5:
		id = s.send(before, "m.room.member", target, target, `{"membership":"join"}`, depth)
	case 6:
		id = s.send(before, "m.room.member", target, sender, `{"membership":"`+pick(s.rnd, "ban", "leave", "invite")+`"}`, depth)
	default:
		id = s.send(before, pick(s.rnd, "m.room.topic", "m.room.name"), "", sender, `{}`, depth)
	}
	if auth.Check(s.w.events[id], viewOf{s.ref, before, id, false}) != nil {
		s.w.rejected[id] = s.rnd.IntN(8) > 0 // a few that should be rejected got through elsewhere
		if s.w.rejected[id] {
			return
		}
	}
	s.placeAfter(depth, id, before, parents)
}

// sets picks state sets to resolve: mostly of leaves, sometimes any, sometimes bent by an event that does not belong.
func (s *simulation) sets() []stateMap {
	var sets []stateMap
	for range 2 + s.rnd.IntN(3) {
		at := pick(s.rnd, s.leaves...)
		if s.rnd.IntN(3) == 0 {
			at = s.rnd.IntN(len(s.after))
		}
		set := maps.Clone(s.after[at])
		if s.rnd.IntN(10) == 0 {
			id := 1 + s.rnd.Int64N(int64(len(s.w.events)-1))
			set[s.ref.key(id)] = id
		}
		if s.rnd.IntN(15) == 0 {
			delete(set, s.ref.key(1+s.rnd.Int64N(int64(len(s.w.events)-1))))
		}
		sets = append(sets, set)
	}
	return sets
}

func (s *simulation) toSet(m stateMap) *state.Set {
	var ids []int64
	for _, id := range m {
		ids = append(ids, id)
	}
	return s.w.set(ids...)
}

// TestRandomRooms compares with the reference on random rooms. Seeds are fixed; a failure names its seed.
func TestRandomRooms(t *testing.T) {
	rooms := 400
	if testing.Short() {
		rooms = 60
	}
	for _, version := range []string{"1", "2", "6", "11", "12"} {
		t.Run("v"+version, func(t *testing.T) {
			t.Parallel()
			conflicts, chosen := 0, map[string]bool{}
			for seed := range uint64(rooms) {
				s := newSimulation(t, version, seed)
				for range 12 + s.rnd.IntN(40) {
					s.grow()
				}
				for range 4 {
					sets := s.sets()
					var trie []*state.Set
					for _, m := range sets {
						trie = append(trie, s.toSet(m))
					}
					want := s.ref.resolve(sets)
					got := s.w.resolve(trie...)
					if a, b := describe(s.w, s.toSet(want)), describe(s.w, got); a != b {
						t.Fatalf("seed %d: (-reference +ours)\n%s", seed, cmp.Diff(a, b))
					}
					if n := len(Conflicts(s.w.v, trie)); n > 0 {
						conflicts++
					}
					chosen[describe(s.w, got)] = true
				}
			}
			t.Logf("%d resolutions with conflicts, %d different outcomes", conflicts, len(chosen))
		})
	}
}

// TestOrderOfSetsDoesNotMatter: the resolution is a function of the set of states.
func TestOrderOfSetsDoesNotMatter(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		for seed := range uint64(60) {
			s := newSimulation(t, version, 1000+seed)
			for range 30 {
				s.grow()
			}
			sets := s.sets()
			var trie []*state.Set
			for _, m := range sets {
				trie = append(trie, s.toSet(m))
			}
			want := describe(s.w, s.w.resolve(trie...))
			s.rnd.Shuffle(len(trie), func(i, j int) { trie[i], trie[j] = trie[j], trie[i] })
			if got := describe(s.w, s.w.resolve(append(trie, trie[0])...)); got != want {
				t.Fatalf("v%s seed %d: %s", version, seed, cmp.Diff(want, got))
			}
		}
	}
}
