package stateres

import (
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
)

// room is the state that iterative auth checks build up: changes on top of a base.
type room struct {
	r       *resolver
	base    *state.Set
	changes map[int64]int64
	parsed  *auth.Parsed
}

func newRoom(r *resolver, base *state.Set) *room {
	return &room{r: r, base: base, changes: map[int64]int64{}}
}

// get returns the event that holds the tuple, 0 for none.
func (s *room) get(tuple int64) int64 {
	if id := s.changes[tuple]; id != 0 {
		return id
	}
	id, _ := s.base.Get(tuple)
	return id
}

// onTopOf returns the set with the changes to keys that it lacks: where it has a key, it decides.
func (s *room) onTopOf(unconflicted *state.Set) *state.Set {
	result := unconflicted
	for tuple, id := range s.changes {
		if _, decided := unconflicted.Get(tuple); !decided {
			result = result.With(tuple, id)
		}
	}
	return result
}

// applyAllowed is the iterative auth checks algorithm.
func (s *room) applyAllowed(sorted []int64) error {
	for _, id := range sorted {
		allowed, err := s.allows(id, true)
		if err != nil {
			return err
		}
		if tuple := s.r.src.Tuple(id); allowed && tuple != 0 {
			s.changes[tuple] = id
		}
	}
	return nil
}

// allows says whether the rules let the event happen in this state, completed, if so asked, from its own auth events.
func (s *room) allows(id int64, complete bool) (bool, error) {
	e, err := s.r.event(id)
	if err != nil {
		return false, err
	}
	v := &view{room: s, id: id, complete: complete}
	s.parsed = auth.Parse(v, s.parsed)
	refusal := auth.CheckParsed(e, v, s.parsed)
	if v.err != nil {
		return false, v.err
	}
	return refusal == nil, nil
}

// view is the state as the check of one event sees it.
type view struct {
	room     *room
	id       int64
	complete bool
	err      error // the first of the source
}

// Lookup returns the state's event or, if the state has none, the one that the checked event cites, unless rejected.
func (v *view) Lookup(evType, stateKey string) *event.Event {
	found, err := v.find(evType, stateKey)
	if err != nil && v.err == nil {
		v.err = err
	}
	return found
}

func (v *view) find(evType, stateKey string) (*event.Event, error) {
	tuple, err := v.room.r.tupleOf(evType, stateKey)
	if err != nil || tuple == 0 {
		return nil, err
	}
	if id := v.room.get(tuple); id != 0 {
		return v.room.r.event(id)
	}
	if !v.complete {
		return nil, nil
	}
	id, err := v.room.r.cited(v.id, tuple)
	if err != nil || id == 0 || v.room.r.src.Rejected(id) {
		return nil, err
	}
	return v.room.r.event(id)
}
