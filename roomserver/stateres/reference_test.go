package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"math"
	"slices"

	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// The reference follows the specification sentence by sentence, on maps and whole sets, without a thought for speed. It
// shares nothing with the package but the authorisation rules.

type (
	key      = auth.Tuple
	stateMap map[key]int64
	idSet    map[int64]bool
)

type reference struct{ w *world }

func (r reference) key(id int64) key {
	k, _ := r.w.events[id].Key()
	return key{Type: r.w.events[id].Type(), Key: k}
}

func union(sets ...idSet) idSet {
	all := idSet{}
	for _, s := range sets {
		for id := range s {
			all[id] = true
		}
	}
	return all
}

// authChain: "the set containing all of E's auth events, all of their auth events, and so on recursively".
func (r reference) authChain(id int64) idSet {
	chain := idSet{}
	var walk func(int64)
	walk = func(id int64) {
		for _, a := range r.w.cites[id] {
			if !chain[a] {
				chain[a] = true
				walk(a)
			}
		}
	}
	walk(id)
	return chain
}

// fullAuthChain: "the union of the auth chains for each event in S".
func (r reference) fullAuthChain(s stateMap) idSet {
	chain := idSet{}
	for _, id := range s {
		chain = union(chain, r.authChain(id))
	}
	return chain
}

// unconflicted: "if a given key K is present in every S with the same value V in each state map, then the pair belongs to
// the unconflicted state map. Otherwise, V belongs to the conflicted state set."
func unconflicted(states []stateMap) (stateMap, idSet) {
	agreed, conflicted := stateMap{}, idSet{}
	for _, s := range states {
		for k, v := range s {
			same := true
			for _, other := range states {
				same = same && other[k] == v
			}
			if same {
				agreed[k] = v
			} else {
				conflicted[v] = true
			}
		}
	}
	return agreed, conflicted
}

// authDifference: "the union of the C minus their intersection".
func (r reference) authDifference(states []stateMap) idSet {
	var chains []idSet
	for _, s := range states {
		chains = append(chains, r.fullAuthChain(s))
	}
	difference := idSet{}
	for id := range union(chains...) {
		for _, c := range chains {
			if !c[id] {
				difference[id] = true
			}
		}
	}
	return difference
}

// subgraph: "the union of all such paths between any pair of events in the conflicted state set (including endpoints)".
// An event is on such a path if an end leads to it and it leads to another end.
func (r reference) subgraph(conflicted idSet) idSet {
	on := idSet{}
	for from := range conflicted {
		below := union(r.authChain(from), idSet{from: true})
		for id := range below {
			for end := range union(r.authChain(id), idSet{id: true}) {
				if conflicted[end] {
					on[id] = true
				}
			}
		}
	}
	return on
}

func (r reference) isPower(id int64) bool {
	e := r.w.events[id]
	k, isState := e.Key()
	membership := auth.Membership(e)
	return isState && (e.Type() == "m.room.power_levels" || e.Type() == "m.room.join_rules" ||
		e.Type() == "m.room.member" && (membership == "leave" || membership == "ban") && e.Sender() != k)
}

func (r reference) cited(id int64, k key) int64 {
	for _, a := range r.w.cites[id] {
		if r.key(a) == k {
			return a
		}
	}
	return 0
}

func (r reference) senderLevel(id int64) int64 {
	var create, levels *event.Event
	if c := r.cited(id, key{Type: "m.room.create"}); c != 0 {
		create = r.w.events[c]
	}
	if p := r.cited(id, key{Type: "m.room.power_levels"}); p != 0 {
		levels = r.w.events[p]
	}
	return auth.ParsePowers(create, levels).UserLevel(r.w.events[id].Sender())
}

func (r reference) compareTail(x, y int64) int {
	a, b := r.w.events[x], r.w.events[y]
	return cmp.Or(cmp.Compare(a.TS(), b.TS()), cmp.Compare(a.EventID(), b.EventID()))
}

// powerOrdering: at each step the smallest of all events of which no auth ancestor is still to come.
func (r reference) powerOrdering(x idSet) (sorted []int64) {
	left := union(x)
	for len(left) > 0 {
		var candidates []int64
		for id := range left {
			ready := true
			for a := range r.authChain(id) {
				ready = ready && !left[a]
			}
			if ready {
				candidates = append(candidates, id)
			}
		}
		smallest := slices.MinFunc(candidates, func(x, y int64) int {
			return cmp.Or(cmp.Compare(r.senderLevel(y), r.senderLevel(x)), r.compareTail(x, y))
		})
		delete(left, smallest)
		sorted = append(sorted, smallest)
	}
	return sorted
}

// viewOf is the state as the rules see it, completed from the event's auth events unless complete is false.
type viewOf struct {
	r        reference
	s        stateMap
	id       int64
	complete bool
}

func (v viewOf) Lookup(evType, stateKey string) *event.Event {
	k := key{Type: evType, Key: stateKey}
	if id, ok := v.s[k]; ok {
		return v.r.w.events[id]
	}
	if id := v.r.cited(v.id, k); v.complete && id != 0 && !v.r.w.rejected[id] {
		return v.r.w.events[id]
	}
	return nil
}

func (r reference) iterate(s stateMap, sorted []int64) {
	for _, id := range sorted {
		if auth.Check(r.w.events[id], viewOf{r, s, id, true}) == nil {
			s[r.key(id)] = id
		}
	}
}

func (r reference) mainlinePosition(mainline []int64, id int64) int64 {
	for e := r.cited(id, key{Type: "m.room.power_levels"}); e != 0; e = r.cited(e, key{Type: "m.room.power_levels"}) {
		if i := slices.Index(mainline, e); i >= 0 {
			return int64(i)
		}
	}
	return math.MaxInt64
}

func (r reference) mainlineOrdering(p int64, set idSet) []int64 {
	var mainline []int64
	for ; p != 0; p = r.cited(p, key{Type: "m.room.power_levels"}) {
		mainline = append(mainline, p)
	}
	var sorted []int64
	for id := range set {
		sorted = append(sorted, id)
	}
	slices.SortFunc(sorted, func(x, y int64) int {
		return cmp.Or(cmp.Compare(r.mainlinePosition(mainline, y), r.mainlinePosition(mainline, x)), r.compareTail(x, y))
	})
	return sorted
}

func (r reference) resolveV2(states []stateMap, refined bool) stateMap {
	agreed, conflicted := unconflicted(states)
	full := union(conflicted, r.authDifference(states))
	if refined {
		full = union(full, r.subgraph(conflicted))
	}
	// 1. Select the set X of all power events that appear in the full conflicted set, enlarged.
	x := idSet{}
	for id := range full {
		if r.isPower(id) {
			x[id] = true
			for a := range r.authChain(id) {
				if full[a] {
					x[a] = true
				}
			}
		}
	}
	// 2. Apply the iterative auth checks algorithm.
	resolved := stateMap{}
	if !refined {
		for k, v := range agreed {
			resolved[k] = v
		}
	}
	r.iterate(resolved, r.powerOrdering(x))
	// 3. and 4. The remaining events in mainline order.
	rest := idSet{}
	for id := range full {
		if !x[id] {
			rest[id] = true
		}
	}
	r.iterate(resolved, r.mainlineOrdering(resolved[key{Type: "m.room.power_levels"}], rest))
	// 5. The unconflicted state map wins.
	for k, v := range agreed {
		resolved[k] = v
	}
	return resolved
}

func (r reference) resolveV1(states []stateMap) stateMap {
	values := map[key]idSet{}
	for _, s := range states {
		for k, v := range s {
			values[k] = union(values[k], idSet{v: true})
		}
	}
	resolved, conflicts := stateMap{}, map[key][]int64{}
	for k, set := range values {
		for id := range set {
			if len(set) == 1 {
				resolved[k] = id
			} else {
				conflicts[k] = append(conflicts[k], id)
			}
		}
		slices.SortFunc(conflicts[k], func(x, y int64) int {
			a, b := r.w.events[x], r.w.events[y]
			ha, hb := sha1.Sum([]byte(a.EventID())), sha1.Sum([]byte(b.EventID()))
			return cmp.Or(cmp.Compare(a.Depth(), b.Depth()), bytes.Compare(hb[:], ha[:]))
		})
	}
	for _, pass := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member"} {
		outcome := stateMap{}
		for k, list := range conflicts {
			if k.Type != pass {
				continue
			}
			trial := stateMap{}
			for k, v := range resolved {
				trial[k] = v
			}
			trial[k] = list[0]
			for _, id := range list[1:] {
				if auth.Check(r.w.events[id], viewOf{r, trial, id, false}) != nil {
					break
				}
				trial[k] = id
			}
			outcome[k] = trial[k]
		}
		for k, v := range outcome {
			resolved[k] = v
			delete(conflicts, k)
		}
	}
	outcome := stateMap{}
	for k, list := range conflicts {
		if len(list) == 0 {
			continue
		}
		outcome[k] = list[0]
		for _, id := range list {
			if auth.Check(r.w.events[id], viewOf{r, resolved, id, false}) == nil {
				outcome[k] = id
			}
		}
	}
	for k, v := range outcome {
		resolved[k] = v
	}
	return resolved
}

func (r reference) resolve(states []stateMap) stateMap {
	switch r.w.v.StateRes {
	case event.StateResV1:
		return r.resolveV1(states)
	case event.StateResV2:
		return r.resolveV2(states, false)
	}
	return r.resolveV2(states, true)
}
