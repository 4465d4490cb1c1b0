package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// unplaced returns those of the events that have no place in the DAG here.
func (s *Server) unplaced(ctx context.Context, ids []string) (out []string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		out, err = s.unplacedTx(tx, ids)
		return err
	})
	return out, err
}

func (s *Server) unplacedTx(tx *sqldb.Tx, ids []string) (out []string, err error) {
	nids, err := s.Store.EventNIDs(tx, ids)
	if err != nil {
		return nil, err
	}
	list := make([]int64, 0, len(nids))
	for _, nid := range nids {
		list = append(list, nid)
	}
	events, err := s.Store.Load(tx, list)
	for _, id := range ids {
		if e := events[nids[id]]; e == nil || e.Flags&store.Outlier != 0 {
			out = append(out, id)
		}
	}
	return out, err
}

// stateAfter returns the state after an event that is not placed here: the state
// before it that a server says it had, and the event itself. seen counts
// what comes, unless nil.
func (s *Server) stateAfter(ctx context.Context, key store.RoomKey, server, eventID string, seen *atomic.Int64) (*state.Set, error) {
	set, err := s.fetchState(ctx, key, server, eventID, seen)
	if err != nil {
		return nil, err
	}
	e, err := s.fetchOne(ctx, key, server, eventID)
	if err != nil {
		return nil, err
	}
	if e != nil && e.Tuple != 0 && e.Flags&store.Rejected == 0 {
		set = set.With(e.Tuple, e.NID)
	}
	return set, nil
}

// fetchOne returns an event that is here or that a server has. It returns nil
// for one that is malformed: such an event changes nothing.
func (s *Server) fetchOne(ctx context.Context, key store.RoomKey, server, eventID string) (*store.Stored, error) {
	e, err := s.here(ctx, eventID)
	if err != nil || e != nil {
		return e, err
	}
	raw, err := s.Remote.Event(ctx, server, eventID)
	if err != nil {
		return nil, err
	}
	if _, err := event.Parse(key.Version, raw); err != nil {
		s.Log.WithError(err).WithField("event", eventID).Info("An event of another server is malformed; the room's state passes over it")
		return nil, nil
	}
	if err := s.storeFetched(ctx, key, []string{eventID}, []json.RawMessage{raw}); err != nil {
		return nil, err
	}
	if e, err = s.here(ctx, eventID); err == nil && e == nil {
		err = errors.New("the event cannot be checked")
	}
	return e, err
}

// here returns an event that is committed, nil when there is none.
func (s *Server) here(ctx context.Context, eventID string) (e *store.Stored, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err = s.Store.EventByID(tx, eventID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return e, err
}

// fetchState returns the state before an event that a server says it had, as
// far as its events hold.
func (s *Server) fetchState(ctx context.Context, key store.RoomKey, server, eventID string, seen *atomic.Int64) (*state.Set, error) {
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
	if len(absent) > singleFetches {
		err = s.storeState(ctx, key, server, eventID, absent, seen)
	} else {
		err = s.storeFetched(ctx, key, absent, s.fetchEvents(ctx, server, absent))
	}
	if err != nil {
		return nil, err
	}
	return s.setOfIDs(ctx, key, ids)
}

// storeState fetches the whole state before an event and stores those of its
// events that are wanted.
func (s *Server) storeState(ctx context.Context, key store.RoomKey, server, eventID string, wanted []string, seen *atomic.Int64) error {
	a := &joinAnswer{s: s, v: key.Version, room: key.ID, seen: seen}
	defer a.release()
	if err := s.Remote.State(ctx, server, key.ID, eventID, JoinSink{State: a.addAuth, Auth: a.addAuth}); err != nil {
		return err
	}
	return s.storeCollected(ctx, key, wanted, a)
}

// setOfIDs makes a state set of those events that are here, are state of the
// room, and were not rejected. A state that holds two of them for one place is
// none.
func (s *Server) setOfIDs(ctx context.Context, key store.RoomKey, ids []string) (*state.Set, error) {
	var entries []state.Entry
	at := map[int64]int64{}
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
				at[e.Tuple] = e.NID
			}
		}
		return err
	})
	if err == nil && len(at) < len(entries) {
		err = fmt.Errorf("%w: its state has two events for one place", ErrBadAnswer)
	}
	return state.FromEntries(entries), err
}
