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
	var part marks
	part.addAll(nodes)
	part.addAll(chain)
	k := newKahn(g, g.list(part), rank)
	var sorted []int64
	for {
		if err := r.step(); err != nil {
			return nil, err
		}
		n, listed, ok := k.next()
		if !ok {
			return append(sorted, g.inCycles(k.left)...), nil
		}
		if listed {
			sorted = append(sorted, g.ids[n])
		}
		k.done(n)
	}
}

// kahn is the state of Kahn's algorithm.
type kahn struct {
	left    map[int32]ranked // to be listed
	citing  [][]int32        // by node: who cites it
	waiting []int            // by node: auth events that are still to come
	ready   queue            // candidates to be listed
	passing []int32          // candidates not to be listed
}

func newKahn(g *graph, nodes []int32, listed map[int32]ranked) *kahn {
	k := &kahn{left: listed, citing: make([][]int32, len(g.ids)), waiting: make([]int, len(g.ids))}
	for _, n := range nodes {
		k.waiting[n] = len(g.auth[n])
		for _, ref := range g.auth[n] {
			k.citing[ref] = append(k.citing[ref], n)
		}
		if k.waiting[n] == 0 {
			k.release(n)
		}
	}
	return k
}

func (k *kahn) release(n int32) {
	if x, listed := k.left[n]; listed {
		heap.Push(&k.ready, x)
	} else {
		k.passing = append(k.passing, n)
	}
}

// next takes a candidate: one that is not listed if there is any, else the smallest.
func (k *kahn) next() (n int32, listed, ok bool) {
	if last := len(k.passing) - 1; last >= 0 {
		n, k.passing = k.passing[last], k.passing[:last]
		return n, false, true
	}
	if len(k.ready) == 0 {
		return 0, false, false
	}
	n = heap.Pop(&k.ready).(ranked).node
	delete(k.left, n)
	return n, true, true
}

func (k *kahn) done(n int32) {
	for _, c := range k.citing[n] {
		if k.waiting[c]--; k.waiting[c] == 0 {
			k.release(c)
		}
	}
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
