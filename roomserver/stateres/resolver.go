package stateres

import (
	"context"

	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// resolver is one resolution: the source with what it answered.
type resolver struct {
	ctx    context.Context
	src    Source
	events map[int64]*event.Event
	tuples map[auth.Tuple]int64
	steps  int
}

func newResolver(ctx context.Context, src Source) *resolver {
	return &resolver{ctx: ctx, src: src, events: map[int64]*event.Event{}, tuples: map[auth.Tuple]int64{}}
}

// step is called once per unit of work and ends the resolution with its context.
func (r *resolver) step() error {
	r.steps++
	if r.steps%256 != 0 {
		return nil
	}
	return r.ctx.Err()
}

func (r *resolver) event(id int64) (*event.Event, error) {
	if e := r.events[id]; e != nil {
		return e, nil
	}
	if err := r.step(); err != nil {
		return nil, err
	}
	e, err := r.src.Event(id)
	if err != nil {
		return nil, err
	}
	r.events[id] = e
	return e, nil
}

func (r *resolver) tupleOf(evType, stateKey string) (int64, error) {
	name := auth.Tuple{Type: evType, Key: stateKey}
	if tuple, known := r.tuples[name]; known {
		return tuple, nil
	}
	tuple, err := r.src.TupleOf(evType, stateKey)
	if err != nil {
		return 0, err
	}
	r.tuples[name] = tuple
	return tuple, nil
}

// cited returns the first of the event's auth events that holds the tuple, 0 if there is none.
func (r *resolver) cited(id, tuple int64) (int64, error) {
	if tuple == 0 {
		return 0, nil
	}
	refs, err := r.src.Auth(id)
	if err != nil {
		return 0, err
	}
	for _, ref := range refs {
		if r.src.Tuple(ref) == tuple {
			return ref, nil
		}
	}
	return 0, nil
}

// citedEvent is cited, parsed; nil if there is none.
func (r *resolver) citedEvent(id, tuple int64) (*event.Event, error) {
	ref, err := r.cited(id, tuple)
	if err != nil || ref == 0 {
		return nil, err
	}
	return r.event(ref)
}
