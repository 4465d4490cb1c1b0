package roomserver

import (
	"context"
	"encoding/json"
	"slices"

	"golang.org/x/sync/errgroup"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// placeWithAuth fetches the event's auth chain, or else its auth events one by
// one, and adds it.
func (s *Server) placeWithAuth(ctx context.Context, key store.RoomKey, origin string, e *event.Event, a admission) error {
	if s.Remote == nil {
		return errMissingAuth
	}
	raws, err := s.Remote.EventAuth(ctx, origin, key.ID, e.EventID())
	if err != nil {
		s.Log.WithError(err).WithField("event", e.EventID()).Info("The auth chain of an event could not be fetched; its auth events are fetched one by one")
	}
	if err := s.storeFetched(ctx, key, e.AuthRefs(), raws); err != nil {
		return err
	}
	absent, err := s.absent(ctx, e.AuthRefs())
	if err != nil {
		return err
	}
	if len(absent) > 0 {
		if err := s.storeFetched(ctx, key, absent, s.fetchEvents(ctx, origin, absent)); err != nil {
			return err
		}
	}
	return s.admitOne(ctx, key, e, a)
}

// storeFetched checks events that were fetched by themselves and stores them as
// outliers, those that the auth rules refuse as rejected ones. An event that
// cannot be judged, for want of a signature or of an auth event, is left out, and
// so is what is neither among wanted nor in the auth chains of these.
func (s *Server) storeFetched(ctx context.Context, key store.RoomKey, wanted []string, raws []json.RawMessage) error {
	a := &joinAnswer{s: s, v: key.Version, room: key.ID}
	defer a.release()
	for _, raw := range raws {
		if _, err := a.add(raw); err != nil {
			return err
		}
	}
	return s.storeCollected(ctx, key, wanted, a)
}

// storeCollected is storeFetched for events that are collected in an answer.
func (s *Server) storeCollected(ctx context.Context, key store.RoomKey, wanted []string, a *joinAnswer) error {
	keepReached(a.byID, wanted, (*event.Event).AuthEventIDs)
	judged, rejected, err := s.checkOutliers(ctx, key, a)
	if err != nil || len(judged) == 0 {
		return err
	}
	_, err = s.storeOutliers(ctx, key, judged, rejected)
	return err
}

// checkOutliers verifies fetched events and applies the auth rules to them,
// with the help of auth events that are here already. It returns those that can
// be judged, in auth order, and the ids of those that are rejected.
func (s *Server) checkOutliers(ctx context.Context, key store.RoomKey, a *joinAnswer) (judged []*event.Event, rejected map[string]bool, err error) {
	if err := a.verifyAll(ctx); err != nil {
		return nil, nil, err
	}
	if rejected, err = s.addKnownAuth(ctx, key, a); err != nil {
		return nil, nil, err
	}
	for _, e := range authOrder(a.byID, a.bad) {
		id := e.EventID()
		events, ok := a.cites(e)
		if a.good[id] || !ok { // it is here, or cannot be judged
			continue
		}
		a.good[id] = true // for judging others, which are rejected with it
		if slices.ContainsFunc(events, func(c *event.Event) bool { return rejected[c.EventID()] }) || !a.permits(e, events) {
			rejected[id] = true
		}
		judged = append(judged, e)
	}
	return judged, rejected, nil
}

// addKnownAuth adds the auth events that fetched events cite and that are here,
// marked good since they are judged, and returns which of them were rejected.
func (s *Server) addKnownAuth(ctx context.Context, key store.RoomKey, a *joinAnswer) (map[string]bool, error) {
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
	rejected := map[string]bool{}
	a.good = make(map[string]bool, len(a.byID))
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := s.Store.EventNIDs(tx, ids)
		if err != nil {
			return err
		}
		for _, nid := range nids {
			e, err := s.Store.Event(tx, nid)
			if err != nil {
				return err
			}
			if e.Room == key.NID {
				a.byID[e.ID] = e.Event
				a.good[e.ID] = true
				rejected[e.ID] = e.Flags&store.Rejected != 0
			}
		}
		return nil
	})
	return rejected, err
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

// absent returns those of the events that are not here at all.
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
