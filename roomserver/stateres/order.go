package stateres

import (
	"cmp"
	"container/heap"
	"slices"

	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// ranked is an event with what orders it: rank first, then origin_server_ts, then event id.
type ranked struct {
	node int32
	rank int64
	e    *event.Event
}

func compare(x, y ranked) int {
	return cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(x.e.TS(), y.e.TS()), cmp.Compare(x.e.EventID(), y.e.EventID()))
}

// queue is a heap of candidates, the smallest first.
type queue []ranked

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return compare(q[i], q[j]) < 0 }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(ranked)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// powerOrder is the reverse topological power ordering of the nodes. Kahn's algorithm runs over everything that the nodes
// lead to; what does not belong to them passes as soon as it can and is not listed, so an order that is implied by
// events between two nodes holds too.
func (r *resolver) powerOrder(g *graph, nodes []int32) ([]int64, error) {
	rank, err := r.rankByPower(g, nodes)
	if err != nil {
		return nil, err
	}
	chain, err := g.chain(nodes, all)
	if err != nil {
		return nil, err
	}
	var graphNodes marks
	graphNodes.addAll(nodes)
	graphNodes.addAll(chain)
	citing, waiting := make([][]int32, len(g.ids)), make([]int, len(g.ids))
	var ready queue
	var passing []int32
	release := func(n int32) {
		if x, listed := rank[n]; listed {
			heap.Push(&ready, x)
		} else {
			passing = append(passing, n)
		}
	}
	for _, n := range g.list(graphNodes) {
		waiting[n] = len(g.auth[n])
		for _, ref := range g.auth[n] {
			citing[ref] = append(citing[ref], n)
		}
		if waiting[n] == 0 {
			release(n)
		}
	}
	var sorted []int64
	for len(passing) > 0 || len(ready) > 0 {
		if err := r.step(); err != nil {
			return nil, err
		}
		var n int32
		if last := len(passing) - 1; last >= 0 {
			n, passing = passing[last], passing[:last]
		} else {
			n = heap.Pop(&ready).(ranked).node
			sorted = append(sorted, g.ids[n])
			delete(rank, n)
		}
		for _, c := range citing[n] {
			if waiting[c]--; waiting[c] == 0 {
				release(c)
			}
		}
	}
	return append(sorted, g.inCycles(rank)...), nil
}

// inCycles orders what Kahn's algorithm left. Only room versions 1 and 2, where senders choose event ids, can have events
// that cite one another in a circle.
func (g *graph) inCycles(left map[int32]ranked) []int64 {
	var rest []ranked
	for _, x := range left {
		rest = append(rest, x)
	}
	return g.sortedIDs(rest)
}

func (g *graph) sortedIDs(list []ranked) []int64 {
	slices.SortFunc(list, compare)
	ids := make([]int64, len(list))
	for i, x := range list {
		ids[i] = g.ids[x.node]
	}
	return ids
}

// rankByPower ranks each node by its sender's power level in the event's own auth events, the greatest first.
func (r *resolver) rankByPower(g *graph, nodes []int32) (map[int32]ranked, error) {
	levels, err := r.tupleOf("m.room.power_levels", "")
	if err != nil {
		return nil, err
	}
	create, err := r.tupleOf("m.room.create", "")
	if err != nil {
		return nil, err
	}
	type cites struct{ create, levels *event.Event }
	parsed := map[cites]auth.Powers{}
	ranks := make(map[int32]ranked, len(nodes))
	for _, n := range nodes {
		id := g.ids[n]
		e, err := r.event(id)
		if err != nil {
			return nil, err
		}
		var c cites
		if c.levels, err = r.citedEvent(id, levels); err != nil {
			return nil, err
		}
		if c.create, err = r.citedEvent(id, create); err != nil {
			return nil, err
		}
		powers, known := parsed[c]
		if !known {
			powers = auth.ParsePowers(c.create, c.levels)
			parsed[c] = powers
		}
		ranks[n] = ranked{node: n, rank: -powers.UserLevel(e.Sender()), e: e}
	}
	return ranks, nil
}
