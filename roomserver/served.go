package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

// authChain returns the auth events of events, theirs, and so on, without the
// events themselves unless they are in it.
func (s *Server) authChain(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error) {
	seen := map[int64]bool{}
	var out []*store.Stored
	next := events
	for len(next) > 0 {
		var nids []int64
		for _, e := range next {
			for _, nid := range e.Auth {
				if !seen[nid] {
					seen[nid] = true
					nids = append(nids, nid)
				}
			}
		}
		found, err := s.Store.InOrder(tx, nids)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		next = found
	}
	return out, nil
}

// PDUs returns the JSON of events as other servers get it.
func PDUs(events []*store.Stored) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.Event.JSON()
	}
	return out
}

// StateBefore answers /state and /state_ids: the state before an event and its
// auth chain, for a server that may see the room.
func (s *Server) StateBefore(ctx context.Context, origin, roomID, eventID string) (state, chain []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, nil, err
	}
	if err := s.awaitServing(ctx, roomID); err != nil {
		return nil, nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.eventIn(tx, key, eventID)
		if err != nil {
			return err
		}
		if e.Flags&store.Outlier != 0 {
			return ErrUnknownEvent
		}
		if e.Flags&store.Partial != 0 {
			return ErrPartial
		}
		before, err := s.Store.Set(tx, e.State)
		if err != nil {
			return err
		}
		if state, err = s.StateEvents(tx, before, nil); err != nil {
			return err
		}
		chain, err = s.authChain(tx, state)
		return err
	})
	return state, chain, err
}

// servingWait bounds how long another server waits for a room's members.
const servingWait = 10 * time.Second

// awaitServing waits a while for the members of a room, for another server.
func (s *Server) awaitServing(ctx context.Context, roomID string) error {
	wait, cancel := context.WithTimeout(ctx, servingWait)
	defer cancel()
	if err := s.AwaitMembers(wait, roomID); err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}

// shared returns the key of a room that a server is in, else ErrNotJoined.
func (s *Server) shared(ctx context.Context, origin, roomID string) (store.RoomKey, error) {
	r, err := s.residentHandle(ctx, roomID)
	if err != nil {
		return store.RoomKey{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.tip.in(origin) {
		return r.key, ErrNotJoined
	}
	return r.key, nil
}

func (s *Server) eventIn(tx *sqldb.Tx, key store.RoomKey, eventID string) (*store.Stored, error) {
	e, err := s.Store.EventByID(tx, eventID)
	if errors.Is(err, store.ErrNotFound) || err == nil && e.Room != key.NID {
		return nil, ErrUnknownEvent
	}
	return e, err
}

// EventAuth answers /event_auth: the auth chain of an event.
func (s *Server) EventAuth(ctx context.Context, origin, roomID, eventID string) (chain []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.eventIn(tx, key, eventID)
		if err != nil {
			return err
		}
		chain, err = s.authChain(tx, []*store.Stored{e})
		return err
	})
	return chain, err
}

// EventForServer answers /event: one event by its id, for a server that may see it.
func (s *Server) EventForServer(ctx context.Context, origin, eventID string) (out *store.Stored, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.Store.EventByID(tx, eventID)
		if errors.Is(err, store.ErrNotFound) {
			return ErrUnknownEvent
		}
		if err != nil {
			return err
		}
		key, err := s.Store.RoomByNID(tx, e.Room)
		if err != nil {
			return err
		}
		if e.Flags&store.Rejected != 0 {
			return ErrUnknownEvent
		}
		if _, err := s.shared(ctx, origin, key.ID); err != nil {
			return err
		}
		list, err := s.forServer(tx, origin, []*store.Stored{e})
		if err == nil {
			out = list[0]
		}
		return err
	})
	return out, err
}

// forServer returns the events as a server may see them: those that its users
// may not see are redacted, as are those of erased senders.
func (s *Server) forServer(tx *sqldb.Tx, origin string, events []*store.Stored) ([]*store.Stored, error) {
	out := make([]*store.Stored, len(events))
	for i, e := range events {
		see, err := s.serverSees(tx, origin, e)
		if err != nil {
			return nil, err
		}
		gone, err := s.erasedFor(tx, origin, e)
		if err != nil {
			return nil, err
		}
		out[i] = e
		if !see || gone {
			redacted := *e
			redacted.Event = e.Event.Redact()
			out[i] = &redacted
		}
	}
	return out, nil
}

// serverSees applies the room's history visibility to a server whose users are
// in the room now: only "joined" and "invited" histories hide anything.
func (s *Server) serverSees(tx *sqldb.Tx, origin string, e *store.Stored) (bool, error) {
	if e.Flags&store.Outlier != 0 || serverOf(e.Event.Sender()) == origin {
		return true, nil
	}
	before, err := s.Store.Set(tx, e.State)
	if err != nil {
		return false, err
	}
	vis, err := s.stateEvent(tx, before, "m.room.history_visibility", "")
	if err != nil {
		return false, err
	}
	sight := auth.ServerSight{JoinedLater: true}
	if vis != nil {
		sight.Visibility = auth.HistoryVisibility(vis.Event)
	}
	if e.Event.IsState("m.room.history_visibility", "") {
		sight.VisibilityAfter = auth.HistoryVisibility(e.Event)
	}
	if auth.VisibleToServer(sight) {
		return true, nil
	}
	if e.Flags&store.Partial != 0 {
		return false, ErrPartial
	}
	members, err := s.StateEvents(tx, before, func(t store.Tuple) bool { return t.Type == "m.room.member" && serverOf(t.Key) == origin })
	if err != nil {
		return false, err
	}
	for _, m := range members {
		sight.Memberships = append(sight.Memberships, auth.Membership(m.Event))
	}
	if key, isState := e.Event.Key(); isState && e.Event.Type() == "m.room.member" && serverOf(key) == origin {
		sight.Memberships = append(sight.Memberships, auth.Membership(e.Event))
	}
	return auth.VisibleToServer(sight), nil
}

// Bounds of what other servers may ask for at once: of the missing events as many as we ask for.
const (
	maxBackfill = 100
	maxMissing  = gapPage
)

// BackfillFor answers /backfill: up to limit events that precede the given ones,
// those included, newest first.
func (s *Server) BackfillFor(ctx context.Context, origin, roomID string, from []string, limit int) (out []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	limit = min(max(limit, 1), maxBackfill)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		list, err := s.walkBack(tx, key, from, limit, func(*store.Stored) bool { return true })
		if err != nil {
			return err
		}
		slices.SortStableFunc(list, func(a, b *store.Stored) int { return -compareOrd(a, b) })
		out, err = s.forServer(tx, origin, list)
		return err
	})
	return out, err
}

func compareOrd(a, b *store.Stored) int {
	switch {
	case a.Ord < b.Ord:
		return -1
	case a.Ord > b.Ord:
		return 1
	}
	return 0
}

// walkBack walks the prev events of the given ones, breadth first, and returns
// those that take passes, at most limit.
func (s *Server) walkBack(tx *sqldb.Tx, key store.RoomKey, from []string, limit int, take func(*store.Stored) bool) ([]*store.Stored, error) {
	seen := map[string]bool{}
	var out []*store.Stored
	next := from
	for len(next) > 0 && len(out) < limit {
		nids, err := s.Store.EventNIDs(tx, next)
		if err != nil {
			return nil, err
		}
		var list []int64
		for _, id := range next {
			if nid := nids[id]; nid != 0 && !seen[id] {
				seen[id] = true
				list = append(list, nid)
			}
		}
		events, err := s.Store.InOrder(tx, list)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, e := range events {
			if e.Room != key.NID || e.Flags&(store.Outlier|store.Rejected) != 0 || !take(e) {
				continue
			}
			if out = append(out, e); len(out) == limit {
				return out, nil
			}
			next = append(next, e.Event.PrevEventIDs()...)
		}
	}
	return out, nil
}

// MissingFor answers /get_missing_events: what lies between the latest events,
// which the asker has, and the earliest ones, oldest first.
func (s *Server) MissingFor(ctx context.Context, origin, roomID string, earliest, latest []string, limit int, minDepth int64) (out []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	limit = min(max(limit, 1), maxMissing)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		latestEvents, err := s.walkBack(tx, key, latest, len(latest), func(e *store.Stored) bool { return slices.Contains(latest, e.ID) })
		if err != nil {
			return err
		}
		var from []string
		for _, e := range latestEvents {
			from = append(from, e.Event.PrevEventIDs()...)
		}
		list, err := s.walkBack(tx, key, from, limit, func(e *store.Stored) bool {
			return !slices.Contains(earliest, e.ID) && !slices.Contains(latest, e.ID) && e.Depth >= minDepth
		})
		if err != nil {
			return err
		}
		slices.SortStableFunc(list, compareOrd)
		out, err = s.forServer(tx, origin, list)
		return err
	})
	return out, err
}
