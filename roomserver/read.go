package roomserver

import (
	"context"
	"errors"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// View returns a room's published state as it was at a position.
func (s *Server) View(ctx context.Context, roomID string, at int64) (View, error) {
	r, err := s.handle(ctx, roomID)
	if err != nil {
		return View{}, err
	}
	return r.view(ctx, at)
}

func (r *room) view(ctx context.Context, at int64) (View, error) {
	r.pub.RLock()
	var v View
	found := false
	for _, known := range slices.Backward(r.pub.views) {
		if known.Pos <= at {
			v, found = known, true
			break
		}
	}
	if !found {
		v = r.pub.views[0]
	}
	r.pub.RUnlock()
	if found {
		return v, nil
	}
	err := r.s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		v.State, v.Pos, err = r.s.Store.StateAt(tx, r.key.NID, at)
		if errors.Is(err, store.ErrNotFound) {
			v.State, v.Pos, err = store.EmptyState(), 0, nil
		}
		return err
	})
	return v, err
}

// Current returns a room's newest published state.
func (s *Server) Current(ctx context.Context, roomID string) (View, error) {
	return s.View(ctx, roomID, maxPos)
}

// Room returns the key of a room, or ErrUnknownRoom.
func (s *Server) Room(ctx context.Context, roomID string) (store.RoomKey, error) {
	k, err := s.Store.Room(ctx, roomID)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrUnknownRoom
	}
	return k, err
}

// Timeline returns the newest events, at most limit and oldest first, that were
// delivered to a room with from < pos ≤ to. limited says that there are older
// ones, here or behind a gap in the history.
func (s *Server) Timeline(ctx context.Context, roomID string, from, to int64, limit int) (events []*store.Stored, limited bool, err error) {
	r, err := s.handle(ctx, roomID)
	if err != nil {
		return nil, false, err
	}
	events, ok := r.fromRing(from, to, limit+1)
	if !ok {
		if events, err = r.fromDatabase(ctx, from, to, limit+1); err != nil {
			return nil, false, err
		}
	}
	if len(events) > limit {
		events, limited = events[len(events)-limit:], true
	}
	for i, e := range slices.Backward(events) {
		if e.Flags&store.Gapped != 0 {
			return events[i:], true, nil
		}
	}
	return events, limited, nil
}

func (r *room) fromRing(from, to int64, limit int) ([]*store.Stored, bool) {
	r.pub.RLock()
	defer r.pub.RUnlock()
	ring := r.pub.ring
	end, _ := slices.BinarySearchFunc(ring, to+1, byPos)
	start, _ := slices.BinarySearchFunc(ring, from+1, byPos)
	if from < r.pub.from && end < limit {
		return nil, false
	}
	return slices.Clone(ring[max(start, end-limit):end]), true
}

func byPos(e *store.Stored, pos int64) int {
	switch {
	case e.Pos < pos:
		return -1
	case e.Pos > pos:
		return 1
	}
	return 0
}

func (r *room) fromDatabase(ctx context.Context, from, to int64, limit int) (events []*store.Stored, err error) {
	err = r.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := r.s.Store.Delivered(tx, r.key.NID, from, to, true, limit)
		if err != nil {
			return err
		}
		slices.Reverse(nids)
		events, err = r.s.Store.InOrder(tx, nids)
		return err
	})
	return events, err
}

// StateEvent returns the event of a room's state for a type and key in a view,
// or nil.
func (s *Server) StateEvent(tx *sqldb.Tx, v View, typ, key string) (*store.Stored, error) {
	return s.stateEvent(tx, v.State, typ, key)
}

func (s *Server) stateEvent(tx *sqldb.Tx, ref *store.Ref, typ, key string) (*store.Stored, error) {
	tuple, err := s.Store.FindTuple(tx, store.Tuple{Type: typ, Key: key})
	if err != nil || tuple == 0 {
		return nil, err
	}
	nid, ok := ref.Set.Get(tuple)
	if !ok {
		return nil, nil
	}
	return s.Store.Event(tx, nid)
}

// CurrentState returns one event of a room's newest state, or nil.
func (s *Server) CurrentState(ctx context.Context, roomID, typ, key string) (e *store.Stored, err error) {
	v, err := s.Current(ctx, roomID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err = s.StateEvent(tx, v, typ, key)
		return err
	})
	return e, err
}

// StateEvents returns the events of a state whose tuple passes keep (nil: all).
func (s *Server) StateEvents(tx *sqldb.Tx, ref *store.Ref, keep func(store.Tuple) bool) ([]*store.Stored, error) {
	entries := ref.Set.Entries()
	nids := make([]int64, 0, len(entries))
	if keep != nil {
		tuples := make([]int64, len(entries))
		for i, e := range entries {
			tuples[i] = e.Tuple
		}
		names, err := s.Store.Tuples(tx, tuples)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if keep(names[e.Tuple]) {
				nids = append(nids, e.Event)
			}
		}
	} else {
		for _, e := range entries {
			nids = append(nids, e.Event)
		}
	}
	return s.Store.InOrder(tx, nids)
}

// Membership returns a user's current membership in a room, also in one that
// this server only has an invite to; store.NoMembership when there is none.
func (s *Server) Membership(ctx context.Context, roomID, userID string) (m store.MemberRow, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return m, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		user, err := s.Store.FindName(tx, userID)
		if err != nil || user == 0 {
			return err
		}
		m, err = s.Store.Member(tx, key.NID, user)
		if errors.Is(err, store.ErrNotFound) {
			err = nil
		}
		return err
	})
	return m, err
}

// IsMember reports whether a user, also one of another server, is in a room; as
// long as not all its members are known, whether they may be.
func (s *Server) IsMember(ctx context.Context, roomID, userID string) (bool, error) {
	if s.IsLocal(userID) {
		return s.Hub.IsJoined(userID, roomID), nil
	}
	m, err := s.Membership(ctx, roomID, userID)
	if err == nil && m.State == store.NoMembership {
		j := s.partials.underWay(roomID)
		return j != nil && slices.Contains(j.row.Servers, serverOf(userID)), nil
	}
	return m.State == store.Join, err
}

// RoomsOf returns the rooms that a user, also one of another server, is in.
func (s *Server) RoomsOf(ctx context.Context, userID string) (rooms []string, err error) {
	if s.IsLocal(userID) {
		return s.Hub.JoinedRooms(userID), nil
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nid, err := s.Store.FindName(tx, userID)
		if err != nil || nid == 0 {
			return err
		}
		rooms, err = s.Store.JoinedRooms(tx, nid)
		return err
	})
	return rooms, err
}

// Memberships returns every membership of a local user.
func (s *Server) Memberships(tx *sqldb.Tx, userID string) ([]store.MemberRow, error) {
	user, err := s.Store.FindName(tx, userID)
	if err != nil || user == 0 {
		return nil, err
	}
	return s.Store.MembershipsOf(tx, user)
}

// JoinedServers returns the other servers that are in a room.
func (s *Server) JoinedServers(ctx context.Context, roomID string) (servers []string, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		servers, err = s.Store.Servers(tx, key.NID)
		return err
	})
	return servers, err
}

// Powers returns the power levels of a view.
func (s *Server) Powers(tx *sqldb.Tx, v View) (auth.Powers, error) {
	var list []*event.Event
	for _, typ := range []string{"m.room.create", "m.room.power_levels"} {
		e, err := s.StateEvent(tx, v, typ, "")
		if err != nil {
			return auth.Powers{}, err
		}
		if e != nil {
			list = append(list, e.Event)
		}
	}
	return auth.PowerLevels(auth.NewState(list)), nil
}
