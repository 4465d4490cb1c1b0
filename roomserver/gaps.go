package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// Bounds of what is fetched to place one event.
const (
	gapEvents     = 500 // events fetched by get_missing_events
	gapPage       = 100 // of them at once
	gapFetchers   = 8   // requests for single events at once
	singleFetches = 100 // state events fetched one by one; beyond that the whole state
	maxStateIDs   = 400_000
)

// place adds an event to its room, fetching what it needs from other servers.
func (s *Server) place(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	err := s.admitOne(ctx, key, e, admission{})
	if errors.Is(err, errMissingPrev) {
		return s.placeWithGap(ctx, key, origin, e)
	}
	if errors.Is(err, errMissingAuth) {
		return s.placeWithAuth(ctx, key, origin, e, admission{})
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

// placeWithAuth fetches the event's auth chain and adds it.
func (s *Server) placeWithAuth(ctx context.Context, key store.RoomKey, origin string, e *event.Event, a admission) error {
	if s.Remote == nil {
		return errMissingAuth
	}
	raws, err := s.Remote.EventAuth(ctx, origin, key.ID, e.EventID())
	if err != nil {
		return fmt.Errorf("fetch the auth events of %s: %w", e.EventID(), err)
	}
	if err := s.storeFetched(ctx, key, raws); err != nil {
		return err
	}
	return s.admitOne(ctx, key, e, a)
}

// storeFetched checks events that were fetched by themselves and stores the
// good ones as outliers.
func (s *Server) storeFetched(ctx context.Context, key store.RoomKey, raws []json.RawMessage) error {
	a := &joinAnswer{s: s, v: key.Version, room: key.ID}
	for _, raw := range raws {
		if _, err := a.add(raw); err != nil {
			return err
		}
	}
	good, err := s.checkOutliers(ctx, key, a)
	if err != nil {
		return err
	}
	_, err = s.storeOutliers(ctx, key, good)
	return err
}

// checkOutliers verifies fetched events and applies the auth rules to them,
// with the help of auth events that are here already. It returns the good ones
// in auth order.
func (s *Server) checkOutliers(ctx context.Context, key store.RoomKey, a *joinAnswer) ([]*event.Event, error) {
	if err := a.verifyAll(ctx); err != nil {
		return nil, err
	}
	fetched := make(map[string]bool, len(a.byID))
	for id := range a.byID {
		fetched[id] = true
	}
	if err := s.addKnownAuth(ctx, key, a); err != nil {
		return nil, err
	}
	var good []*event.Event
	for _, e := range authOrder(a.byID, a.bad) {
		id := e.EventID()
		if !fetched[id] {
			continue
		}
		if e.Type() != "m.room.create" && !a.allowed(e) {
			a.bad[id] = true
			continue
		}
		good = append(good, e)
	}
	return good, nil
}

// addKnownAuth adds the auth events that fetched events cite and that are here.
func (s *Server) addKnownAuth(ctx context.Context, key store.RoomKey, a *joinAnswer) error {
	var ids []string
	for _, e := range a.byID {
		for _, id := range e.AuthRefs() {
			if a.byID[id] == nil {
				ids = append(ids, id)
			}
		}
		if id := e.CreateID(); id != "" && a.byID[id] == nil {
			ids = append(ids, id)
		}
	}
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := s.Store.EventNIDs(tx, ids)
		if err != nil {
			return err
		}
		for _, nid := range nids {
			e, err := s.Store.Event(tx, nid)
			if err != nil {
				return err
			}
			if e.Room == key.NID && e.Flags&store.Rejected == 0 {
				a.byID[e.ID] = e.Event
			}
		}
		return nil
	})
}

// verifyAll checks the signatures of all collected events.
func (a *joinAnswer) verifyAll(ctx context.Context) error {
	a.bad = map[string]bool{}
	all := make([]*event.Event, 0, len(a.byID))
	for _, e := range a.byID {
		all = append(all, e)
	}
	a.s.verified(ctx, all, func(e *event.Event, _ error) { a.bad[e.EventID()] = true })
	return ctx.Err()
}

// placeWithGap fetches the events between the room and e and adds them all. An
// event whose prev events stay away is added with the state that its server
// says it had.
func (s *Server) placeWithGap(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	if s.Remote == nil {
		return errMissingPrev
	}
	fetched, err := s.fetchMissing(ctx, key, origin, e)
	if err != nil {
		s.Log.WithError(err).WithField("room", key.ID).Info("Missing events could not be fetched")
	}
	fetched[e.EventID()] = e
	var last error
	for _, next := range dagOrder(fetched) {
		err := s.admitOne(ctx, key, next, admission{})
		if errors.Is(err, errMissingAuth) {
			err = s.placeWithAuth(ctx, key, origin, next, admission{})
		}
		if errors.Is(err, errMissingPrev) {
			err = s.placeWithState(ctx, key, origin, next)
		}
		if err != nil {
			s.Log.WithError(err).WithField("event", next.EventID()).Info("An event before a gap could not be placed")
		}
		if next == e {
			last = err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return last
}

// fetchMissing asks for what lies between the forward extremities and e, page
// by page, until it connects.
func (s *Server) fetchMissing(ctx context.Context, key store.RoomKey, origin string, e *event.Event) (map[string]*event.Event, error) {
	found := map[string]*event.Event{}
	earliest, err := s.extremities(ctx, key)
	if err != nil {
		return found, err
	}
	latest := []string{e.EventID()}
	for len(found) < gapEvents && len(latest) > 0 {
		raws, err := s.Remote.MissingEvents(ctx, origin, key.ID, earliest, latest, gapPage, 0)
		if err != nil {
			return found, err
		}
		fresh := s.parseGap(ctx, key, raws, found)
		if len(fresh) == 0 {
			return found, nil
		}
		if latest, err = s.unconnected(ctx, fresh, found); err != nil {
			return found, err
		}
	}
	return found, nil
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

// parseGap adds the events that hold to found and returns those that are new.
func (s *Server) parseGap(ctx context.Context, key store.RoomKey, raws []json.RawMessage, found map[string]*event.Event) []*event.Event {
	var list []*event.Event
	for _, raw := range raws[:min(len(raws), gapEvents)] {
		e, err := event.Parse(key.Version, raw)
		if err == nil && e.Room() == key.ID && found[e.EventID()] == nil {
			list = append(list, e)
		}
	}
	list = s.verified(ctx, list, func(*event.Event, error) {})
	for _, e := range list {
		found[e.EventID()] = e
	}
	return list
}

// unconnected returns the events whose prev events are neither here nor found.
func (s *Server) unconnected(ctx context.Context, events []*event.Event, found map[string]*event.Event) (ids []string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		for _, e := range events {
			known, err := s.Store.EventNIDs(tx, e.PrevEventIDs())
			if err != nil {
				return err
			}
			for _, prev := range e.PrevEventIDs() {
				if known[prev] == 0 && found[prev] == nil {
					ids = append(ids, e.EventID())
					break
				}
			}
		}
		return nil
	})
	return ids, err
}

// placeWithState adds an event with the state before it as its server has it.
func (s *Server) placeWithState(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	set, err := s.fetchState(ctx, key, origin, e.EventID())
	if err != nil {
		return fmt.Errorf("fetch the state before %s: %w", e.EventID(), err)
	}
	a := admission{state: set}
	err = s.admitOne(ctx, key, e, a)
	if errors.Is(err, errMissingAuth) {
		err = s.placeWithAuth(ctx, key, origin, e, a)
	}
	return err
}

// fetchState returns the state before an event that a server says it had, as
// far as its events hold.
func (s *Server) fetchState(ctx context.Context, key store.RoomKey, server, eventID string) (*state.Set, error) {
	ids, authIDs, err := s.Remote.StateIDs(ctx, server, key.ID, eventID)
	if err != nil {
		return nil, err
	}
	if len(ids)+len(authIDs) > maxStateIDs {
		return nil, ErrTooLarge
	}
	absent, err := s.absent(ctx, append(slices.Clone(authIDs), ids...))
	if err != nil {
		return nil, err
	}
	var raws []json.RawMessage
	if len(absent) > singleFetches {
		var auth []json.RawMessage
		if raws, auth, err = s.Remote.State(ctx, server, key.ID, eventID); err != nil {
			return nil, err
		}
		raws = append(raws, auth...)
	} else {
		raws = s.fetchEvents(ctx, server, absent)
	}
	if err := s.storeFetched(ctx, key, raws); err != nil {
		return nil, err
	}
	return s.setOfIDs(ctx, key, ids)
}

func (s *Server) absent(ctx context.Context, ids []string) (out []string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		known, err := s.Store.EventNIDs(tx, ids)
		for _, id := range ids {
			if known[id] == 0 && event.ValidEventID(id) {
				out = append(out, id)
			}
		}
		return err
	})
	return out, err
}

// fetchEvents fetches events one by one, several at once; what a server does not
// give is left out.
func (s *Server) fetchEvents(ctx context.Context, server string, ids []string) []json.RawMessage {
	raws := make([]json.RawMessage, len(ids))
	var g errgroup.Group
	g.SetLimit(gapFetchers)
	for i, id := range ids {
		g.Go(func() error {
			raw, err := s.Remote.Event(ctx, server, id)
			if err != nil {
				s.Log.WithError(err).WithField("event", id).Debug("An event could not be fetched")
				return nil
			}
			raws[i] = raw
			return nil
		})
	}
	_ = g.Wait() // each failure is logged where it happens
	return slices.DeleteFunc(raws, func(raw json.RawMessage) bool { return raw == nil })
}

// setOfIDs makes a state set of those events that are here, are state of the
// room, and were not rejected.
func (s *Server) setOfIDs(ctx context.Context, key store.RoomKey, ids []string) (*state.Set, error) {
	var entries []state.Entry
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := s.Store.EventNIDs(tx, ids)
		if err != nil {
			return err
		}
		list := make([]int64, 0, len(nids))
		for _, nid := range nids {
			list = append(list, nid)
		}
		events, err := s.Store.Load(tx, list)
		for _, e := range events {
			if e.Room == key.NID && e.Tuple != 0 && e.Flags&store.Rejected == 0 {
				entries = append(entries, state.Entry{Tuple: e.Tuple, Event: e.NID})
			}
		}
		return err
	})
	return state.FromEntries(entries), err
}

// dagOrder returns events so that each comes after those of its prev events that
// are among them.
func dagOrder(byID map[string]*event.Event) []*event.Event {
	return order(byID, nil, (*event.Event).PrevEventIDs)
}
