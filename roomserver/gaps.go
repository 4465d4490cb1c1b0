package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// Bounds of what is fetched to place one event.
const (
	gapEvents     = 500 // events fetched by get_missing_events
	gapPage       = 100 // of them at once; many servers give 20 at most
	gapRounds     = 10  // requests for them: 200 events of a server that gives 20; behind those the state is asked for, which costs it less
	gapShort      = 10  // fewer at once are all that a server has to give
	gapFetchers   = 8   // requests for single events at once
	singleFetches = 100 // state events fetched one by one; beyond that the whole state
	maxStateIDs   = 400_000
)

// place adds an event to its room, fetching what it needs from other servers:
// what precedes it first, for that mostly has its auth events.
func (s *Server) place(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	away, err := s.awayBefore(ctx, e)
	if err != nil {
		return err
	}
	if len(away) > 0 {
		return s.placeWithGap(ctx, key, origin, e)
	}
	return s.placeHere(ctx, key, origin, e, admission{})
}

// awayBefore returns those of an event's prev events that are not placed here;
// none when the event is here itself.
func (s *Server) awayBefore(ctx context.Context, e *event.Event) ([]string, error) {
	own, err := s.unplaced(ctx, []string{e.EventID()})
	if err != nil || len(own) == 0 {
		return nil, err
	}
	return s.unplaced(ctx, e.PrevEventIDs())
}

// placeHere adds an event before which the state is known, fetching its auth
// events where they are not here.
func (s *Server) placeHere(ctx context.Context, key store.RoomKey, origin string, e *event.Event, a admission) error {
	err := s.admitOne(ctx, key, e, a)
	if errors.Is(err, errMissingAuth) {
		err = s.placeWithAuth(ctx, key, origin, e, a)
	}
	if errors.Is(err, errUnasked) {
		err = s.placeAsked(ctx, key, e, a)
	}
	return err
}

// admitOne adds one event in a batch of its own.
func (s *Server) admitOne(ctx context.Context, key store.RoomKey, e *event.Event, a admission) error {
	return s.retry(ctx, func() error {
		r, err := s.handleOf(ctx, key)
		if err != nil {
			return err
		}
		if err := r.lock(); err != nil {
			return err
		}
		b := r.begin()
		if _, err := b.admit(ctx, e, a); err != nil || len(b.drafts) == 0 {
			err = r.abandon(b, err)
			r.mu.Unlock()
			return err
		}
		b.enqueue()
		r.mu.Unlock()
		return b.wait(ctx)
	})
}

// errWithheld is returned for an event whose server does not give its prev
// events: it must have had them. The event comes again with one that names it.
var errWithheld = errors.New("the server that sent the event does not give its prev events")

// placeWithGap fetches the events between the room and e and adds them all. A
// fetched event whose prev events stay away is added with the state that its
// server says it had; e itself is not, for its prev events are those that its
// server must have.
func (s *Server) placeWithGap(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	if s.Remote == nil {
		return errMissingPrev
	}
	fetched, err := s.fetchMissing(ctx, key, origin, e)
	if err != nil {
		return fmt.Errorf("fetch the events before %s: %w", e.EventID(), err)
	}
	if away, err := s.unplaced(ctx, e.PrevEventIDs()); err != nil {
		return err
	} else if slices.ContainsFunc(away, func(id string) bool { return fetched[id] == nil }) {
		return errWithheld
	}
	delete(fetched, e.EventID())
	for _, next := range dagOrder(fetched) {
		if err := s.placeFetched(ctx, key, origin, next); err != nil {
			s.Log.WithError(err).WithField("event", next.EventID()).Info("An event before a gap could not be placed")
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return s.placeHere(ctx, key, origin, e, admission{})
}

// placeFetched adds an event that was fetched for a gap.
func (s *Server) placeFetched(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	away, err := s.awayBefore(ctx, e)
	if err != nil {
		return err
	}
	a := admission{after: make(map[string]*state.Set, len(away))}
	for _, prev := range away {
		if a.after[prev], err = s.stateAfter(ctx, key, origin, prev, nil); err != nil {
			return fmt.Errorf("fetch the state after %s: %w", prev, err)
		}
	}
	return s.placeHere(ctx, key, origin, e, a)
}

// fetchMissing asks for what lies between the forward extremities and e, page
// by page, until it connects or the server has little more to give. What it gives
// beyond is left out: it may not have heard of what is here, and tell all history.
func (s *Server) fetchMissing(ctx context.Context, key store.RoomKey, origin string, e *event.Event) (gap map[string]*event.Event, err error) {
	gap = map[string]*event.Event{}
	earliest, err := s.extremities(ctx, key)
	if err != nil {
		return nil, err
	}
	latest := []string{e.EventID()}
	for range gapRounds {
		raws, err := s.Remote.MissingEvents(ctx, origin, key.ID, earliest, latest, gapPage, 0)
		if err != nil {
			return nil, err
		}
		known := len(gap)
		s.parseGap(ctx, key, raws, gap)
		if gap, latest, err = s.gapBefore(ctx, e, gap); err != nil {
			return nil, err
		}
		if len(gap) == known || len(latest) == 0 || len(raws) < gapShort || len(gap) >= gapEvents {
			break
		}
	}
	return gap, nil
}

func (s *Server) extremities(ctx context.Context, key store.RoomKey) ([]string, error) {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ids := make([]string, len(r.tip.extremities))
	for i, x := range r.tip.extremities {
		ids[i] = x.id
	}
	return ids, nil
}

// parseGap adds the events that hold to found.
func (s *Server) parseGap(ctx context.Context, key store.RoomKey, raws []json.RawMessage, found map[string]*event.Event) {
	var list []*event.Event
	for _, raw := range raws[:min(len(raws), gapEvents)] {
		e, err := event.Parse(key.Version, raw)
		if err == nil && e.Room() == key.ID && found[e.EventID()] == nil {
			list = append(list, e)
		}
	}
	for _, e := range s.verified(ctx, list, func(*event.Event, error) {}) {
		found[e.EventID()] = e
	}
}

// keepReached drops the events to which no references lead from those with the
// given ids: nobody asked for them.
func keepReached(byID map[string]*event.Event, from []string, refs func(*event.Event) []string) {
	reached := make(map[string]bool, len(byID))
	for from = slices.Clone(from); len(from) > 0; {
		id := from[len(from)-1]
		from = from[:len(from)-1]
		if e := byID[id]; e != nil && !reached[id] {
			reached[id] = true
			from = append(from, refs(e)...)
		}
	}
	maps.DeleteFunc(byID, func(id string, _ *event.Event) bool { return !reached[id] })
}

// gapBefore walks back from an event over those that were found, up to what is
// placed here. It returns those that it came over, and the ids of those whose prev
// events are neither placed here nor found.
func (s *Server) gapBefore(ctx context.Context, e *event.Event, found map[string]*event.Event) (gap map[string]*event.Event, open []string, err error) {
	gap = map[string]*event.Event{}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		for next := []*event.Event{e}; len(next) > 0; {
			at := next[0]
			next = next[1:]
			away, err := s.unplacedTx(tx, at.PrevEventIDs())
			if err != nil {
				return err
			}
			if slices.ContainsFunc(away, func(id string) bool { return found[id] == nil }) {
				open = append(open, at.EventID())
			}
			for _, id := range away {
				if before := found[id]; before != nil && gap[id] == nil {
					gap[id] = before
					next = append(next, before)
				}
			}
		}
		return nil
	})
	return gap, open, err
}

// dagOrder returns events so that each comes after those of its prev events that
// are among them.
func dagOrder(byID map[string]*event.Event) []*event.Event {
	return order(byID, nil, (*event.Event).PrevEventIDs)
}
