// Package stateres owns state resolution: v1, v2 and v2.1 (room version 12) as pure functions on event and tuple
// numbers. Events are parsed only where the algorithm looks into them; all walks over the auth graph are iterative and
// linear, visit each event's auth list once, and end with the context.
package stateres

import (
	"context"
	"slices"

	"knock/roomserver/event"
	"knock/roomserver/state"
)

// Source answers what resolution asks about events, by their numbers. Implementations preload: Conflicts names the
// events that resolution starts from.
type Source interface {
	// Event returns a parsed event. It is asked for conflicted events and those whose content the rules read.
	Event(id int64) (*event.Event, error)
	// Auth returns the numbers of an event's auth events in the event's order, m.room.create included also in room
	// version 12. The slice is not changed.
	Auth(id int64) ([]int64, error)
	// Rejected says whether the event was rejected when it came.
	Rejected(id int64) bool
	// Tuple returns the number of the event's type and state key, 0 for events that are not state.
	Tuple(id int64) int64
	// TupleOf returns the number of a type and state key, 0 when nothing has it.
	TupleOf(evType, stateKey string) (int64, error)
}

// Resolve returns the resolution of the state sets by the algorithm of the room version. The result shares structure with
// the first set. Errors are the source's and the context's.
func Resolve(ctx context.Context, v *event.Version, sets []*state.Set, src Source) (*state.Set, error) {
	if len(sets) == 0 {
		return nil, nil
	}
	p := split(v, sets)
	if len(p.tuples) == 0 {
		return p.unconflicted, nil
	}
	r := newResolver(ctx, src)
	if v.StateRes == event.StateResV1 {
		return r.resolveV1(p)
	}
	return r.resolveV2(p, v.StateRes == event.StateResV21)
}

// Conflicts returns the numbers of the conflicted events of the sets, each once.
func Conflicts(v *event.Version, sets []*state.Set) []int64 {
	if len(sets) == 0 {
		return nil
	}
	return split(v, sets).conflicted()
}

// partition is the state sets, divided into what they agree on and what not.
type partition struct {
	unconflicted *state.Set
	tuples       []int64   // conflicted
	perSet       [][]int64 // per distinct set its events of conflicted tuples
}

func (p *partition) conflicted() []int64 {
	all := slices.Concat(p.perSet...)
	slices.Sort(all)
	return slices.Compact(all)
}

// split divides the sets by the definitions of the algorithm: since v2 a key that one set lacks is conflicted; in v1 it is
// conflicted only if two sets hold different events.
func split(v *event.Version, sets []*state.Set) *partition {
	sets = distinct(sets)
	differing := map[int64]bool{}
	p := &partition{unconflicted: sets[0]}
	for _, other := range sets[1:] {
		state.Diff(sets[0], other, func(tuple, _, _ int64) bool {
			if !differing[tuple] {
				differing[tuple] = true
				p.tuples = append(p.tuples, tuple)
			}
			return true
		})
	}
	p.tuples = slices.DeleteFunc(p.tuples, func(tuple int64) bool {
		agreed := int64(0)
		if v.StateRes == event.StateResV1 {
			agreed = soleEvent(sets, tuple)
		}
		p.unconflicted = p.unconflicted.With(tuple, agreed)
		return agreed != 0
	})
	p.perSet = make([][]int64, len(sets))
	for i, set := range sets {
		for _, tuple := range p.tuples {
			if id, ok := set.Get(tuple); ok {
				p.perSet[i] = append(p.perSet[i], id)
			}
		}
	}
	return p
}

// distinct drops sets that are identical: they add nothing to any definition.
func distinct(sets []*state.Set) []*state.Set {
	var kept []*state.Set
	for _, s := range sets {
		if !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// soleEvent returns the event of all sets that have the tuple, 0 if they disagree.
func soleEvent(sets []*state.Set, tuple int64) int64 {
	var sole int64
	for _, s := range sets {
		id, ok := s.Get(tuple)
		if ok && sole != 0 && id != sole {
			return 0
		}
		if ok {
			sole = id
		}
	}
	return sole
}
