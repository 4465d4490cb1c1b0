package stateres

import (
	"slices"

	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
)

// resolveV2 is state resolution v2, and v2.1 with refined set: the conflicted state subgraph joins the full conflicted
// set, and the iterative auth checks start from an empty state.
func (r *resolver) resolveV2(p *partition, refined bool) (*state.Set, error) {
	g := newGraph(r)
	full, err := r.fullConflictedSet(g, p, refined)
	if err != nil {
		return nil, err
	}
	power, others, err := r.splitPower(g, full)
	if err != nil {
		return nil, err
	}
	sorted, err := r.powerOrder(g, power)
	if err != nil {
		return nil, err
	}
	room := newRoom(r, p.unconflicted)
	if refined {
		room = newRoom(r, nil)
	}
	if err := room.applyAllowed(sorted); err != nil {
		return nil, err
	}
	rest, err := r.mainlineOrder(room, others, g)
	if err != nil {
		return nil, err
	}
	if err := room.applyAllowed(rest); err != nil {
		return nil, err
	}
	return room.onTopOf(p.unconflicted), nil
}

// fullConflictedSet is the union of the conflicted state set, the auth difference and, in v2.1, the conflicted state
// subgraph.
func (r *resolver) fullConflictedSet(g *graph, p *partition, refined bool) ([]int32, error) {
	conflicted := g.nodes(p.conflicted())
	counts, chain, err := g.chainCounts(p.perSet)
	if err != nil {
		return nil, err
	}
	var full marks
	full.addAll(conflicted)
	if refined {
		full.addAll(g.leadingTo(conflicted, slices.Concat(chain, conflicted)))
	}
	var candidates marks
	open := 0
	for _, n := range chain {
		if counts[n] < len(p.perSet) && !full.has(n) && candidates.add(n) {
			open++
		}
	}
	shared, err := r.sharedAncestors(g, p.unconflicted, candidates, open)
	if err != nil {
		return nil, err
	}
	for _, n := range chain {
		if candidates.has(n) && !shared.has(n) {
			full.add(n)
		}
	}
	return g.list(full), nil
}

// chainCounts walks each set's conflicted events back and returns in how many of the chains each node is, and the nodes.
func (g *graph) chainCounts(perSet [][]int64) (counts map[int32]int, union []int32, err error) {
	counts = map[int32]int{}
	for _, ids := range perSet {
		chain, err := g.chain(g.nodes(ids), all)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range chain {
			if counts[n] == 0 {
				union = append(union, n)
			}
			counts[n]++
		}
	}
	return counts, union, nil
}

// sharedAncestors returns the candidates that are in the auth chain of an unconflicted event: all state sets have that
// event, so all have the candidate in their full auth chain. Without candidates nothing is walked.
func (r *resolver) sharedAncestors(g *graph, unconflicted *state.Set, candidates marks, open int) (marks, error) {
	var shared marks
	if open == 0 {
		return shared, nil
	}
	starts := make([]int32, 0, unconflicted.Len())
	unconflicted.Each(func(e state.Entry) bool {
		starts = append(starts, g.node(e.Event))
		return true
	})
	_, err := g.chain(starts, func(n int32) bool {
		if candidates.has(n) && shared.add(n) {
			open--
		}
		return open > 0
	})
	return shared, err
}

func (g *graph) list(m marks) []int32 {
	var nodes []int32
	for n := range m.set {
		if m.set[n] {
			nodes = append(nodes, int32(n))
		}
	}
	return nodes
}

// splitPower is step 1: the power events of the full conflicted set with those of their auth chains that belong to it,
// and the remaining events.
func (r *resolver) splitPower(g *graph, full []int32) (power, others []int32, err error) {
	var starts []int32
	for _, n := range full {
		e, err := r.event(g.ids[n])
		if err != nil {
			return nil, nil, err
		}
		if isPower(e) {
			starts = append(starts, n)
		}
	}
	chain, err := g.chain(starts, all)
	if err != nil {
		return nil, nil, err
	}
	var picked marks
	picked.addAll(starts)
	picked.addAll(chain)
	for _, n := range full {
		if picked.has(n) {
			power = append(power, n)
		} else {
			others = append(others, n)
		}
	}
	return power, others, nil
}

// isPower says whether the event might take away somebody's ability to do something.
func isPower(e *event.Event) bool {
	key, isState := e.Key()
	switch e.Type() {
	case "m.room.power_levels", "m.room.join_rules":
		return isState
	case "m.room.member":
		m := auth.Membership(e)
		return isState && (m == auth.Leave || m == auth.Ban) && e.Sender() != key
	}
	return false
}
