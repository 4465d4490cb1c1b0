package stateres

import "math"

// mainline gives events their mainline position.
type mainline struct {
	r        *resolver
	levels   int64 // tuple of m.room.power_levels
	position map[int64]int64
}

// offMainline is the position of events that lead to no event of the mainline.
const offMainline = math.MaxInt64

// mainlineOf walks from a power levels event (0 for none) to the first of the room.
func (r *resolver) mainlineOf(levels, id int64) (*mainline, error) {
	m := &mainline{r: r, levels: levels, position: map[int64]int64{}}
	for i := int64(0); id != 0; i++ {
		if _, circular := m.position[id]; circular {
			break
		}
		m.position[id] = i
		next, err := m.next(id)
		if err != nil {
			return nil, err
		}
		id = next
	}
	return m, nil
}

func (m *mainline) next(id int64) (int64, error) {
	if err := m.r.step(); err != nil {
		return 0, err
	}
	return m.r.cited(id, m.levels)
}

// of returns the event's mainline position. Power levels events on the way get the position too, so that all calls
// together walk each of them once.
func (m *mainline) of(id int64) (int64, error) {
	next, err := m.next(id)
	if err != nil {
		return 0, err
	}
	var passed []int64
	position := int64(offMainline)
	for next != 0 {
		if known, ok := m.position[next]; ok {
			position = known
			break
		}
		m.position[next] = offMainline // also ends a circle
		passed = append(passed, next)
		if next, err = m.next(next); err != nil {
			return 0, err
		}
	}
	for _, p := range passed {
		m.position[p] = position
	}
	return position, nil
}

// mainlineOrder sorts the nodes by the mainline of the room's power levels, the farthest first.
func (r *resolver) mainlineOrder(room *room, nodes []int32, g *graph) ([]int64, error) {
	levels, err := r.tupleOf("m.room.power_levels", "")
	if err != nil {
		return nil, err
	}
	m, err := r.mainlineOf(levels, room.get(levels))
	if err != nil {
		return nil, err
	}
	list := make([]ranked, len(nodes))
	for i, n := range nodes {
		e, err := r.event(g.ids[n])
		if err != nil {
			return nil, err
		}
		position, err := m.of(g.ids[n])
		if err != nil {
			return nil, err
		}
		list[i] = ranked{node: n, rank: -position, e: e}
	}
	return g.sortedIDs(list), nil
}
