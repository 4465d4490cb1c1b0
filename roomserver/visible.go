package roomserver

import (
	"context"
	"errors"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

// StateFor returns the state of a room that a user may see: the newest for who
// is in it or where the world may read it, that at the end of their stay for who
// left. Others get ErrNotVisible.
func (s *Server) StateFor(ctx context.Context, roomID, userID string) (View, error) {
	v, err := s.Current(ctx, roomID)
	if err != nil || s.Hub.IsJoined(userID, roomID) {
		return v, err
	}
	m, err := s.Membership(ctx, roomID, userID)
	if err != nil {
		return v, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		vis, err := s.stateEvent(tx, v.State, "m.room.history_visibility", "")
		if err != nil || vis != nil && auth.HistoryVisibility(vis.Event) == auth.WorldReadable {
			return err
		}
		if (m.State != store.Leave && m.State != store.Ban) || m.Forgotten {
			return ErrNotVisible
		}
		return s.stateAtExit(tx, &v, m, userID)
	})
	return v, err
}

// stateAtExit sets the view to the state with which a user's stay ended.
func (s *Server) stateAtExit(tx *sqldb.Tx, v *View, m store.MemberRow, userID string) error {
	exit, err := s.Store.Event(tx, m.Event)
	if err != nil {
		return err
	}
	before, err := s.Store.Set(tx, exit.State)
	if err != nil {
		return err
	}
	was, err := s.stateEvent(tx, before, "m.room.member", userID)
	if err != nil {
		return err
	}
	if was == nil || auth.Membership(was.Event) != auth.Join {
		return ErrNotVisible
	}
	v.Pos, v.State = exit.Pos, &store.Ref{NID: before.NID, Height: before.Height, Set: before.Set.With(exit.Tuple, exit.NID)}
	return nil
}

// Visible returns the events of one room that a user may see (client-server
// API, "Room history visibility"), in their order. Those of erased senders are redacted copies for who was not in the
// room between the event and the erasure.
func (s *Server) Visible(tx *sqldb.Tx, userID string, events []*store.Stored) ([]*store.Stored, error) {
	if len(events) == 0 {
		return nil, nil
	}
	room, err := s.Store.RoomByNID(tx, events[0].Room)
	if err != nil {
		return nil, err
	}
	until, err := s.seesUntil(tx, room, userID)
	if err != nil {
		return nil, err
	}
	out := make([]*store.Stored, 0, len(events))
	for _, e := range events {
		if e.Flags&(store.Outlier|store.Rejected) != 0 {
			continue
		}
		sight, err := s.sight(tx, userID, e)
		if err != nil {
			return nil, err
		}
		sight.JoinedLater = e.Ord < until
		if !auth.Visible(sight) {
			continue
		}
		if s.erased(e) && sight.Membership != auth.Join {
			if e, err = s.unlessErased(tx, userID, e); err != nil {
				return nil, err
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// seesUntil returns the ord before which events count as sent before the user
// was in the room.
func (s *Server) seesUntil(tx *sqldb.Tx, room store.RoomKey, userID string) (int64, error) {
	if s.Hub.IsJoined(userID, room.ID) {
		return maxPos, nil
	}
	user, err := s.Store.FindName(tx, userID)
	if err != nil || user == 0 {
		return -maxPos, err
	}
	m, err := s.Store.Member(tx, room.NID, user)
	if errors.Is(err, store.ErrNotFound) {
		return -maxPos, nil
	}
	if err != nil {
		return 0, err
	}
	v := View{}
	if m.State != store.Leave && m.State != store.Ban {
		return -maxPos, nil
	}
	switch err := s.stateAtExit(tx, &v, m, userID); {
	case errors.Is(err, ErrNotVisible):
		return -maxPos, nil
	case err != nil:
		return 0, err
	}
	exit, err := s.Store.Event(tx, m.Event)
	if err != nil {
		return 0, err
	}
	return exit.Ord, nil
}

// sight returns how a user stood to an event when it was sent.
func (s *Server) sight(tx *sqldb.Tx, userID string, e *store.Stored) (auth.Sight, error) {
	var sight auth.Sight
	before, err := s.Store.Set(tx, e.State)
	if err != nil {
		return sight, err
	}
	vis, err := s.stateEvent(tx, before, "m.room.history_visibility", "")
	if err != nil {
		return sight, err
	}
	if vis != nil {
		sight.Visibility = auth.HistoryVisibility(vis.Event)
	}
	member, err := s.stateEvent(tx, before, "m.room.member", userID)
	if err != nil {
		return sight, err
	}
	if member != nil {
		sight.Membership = auth.Membership(member.Event)
	}
	switch {
	case e.Event.IsState("m.room.history_visibility", ""):
		sight.VisibilityAfter = auth.HistoryVisibility(e.Event)
	case e.Event.IsState("m.room.member", userID):
		sight.MembershipAfter = auth.Membership(e.Event)
	}
	return sight, nil
}

// EventFor returns an event of a room that a user may see.
func (s *Server) EventFor(ctx context.Context, roomID, eventID, userID string) (e *store.Stored, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		if e, err = s.Store.EventByID(tx, eventID); errors.Is(err, store.ErrNotFound) || err == nil && e.Room != key.NID {
			return ErrUnknownEvent
		}
		if err != nil {
			return err
		}
		visible, err := s.Visible(tx, userID, []*store.Stored{e})
		if err == nil && len(visible) == 0 {
			err = ErrUnknownEvent
		}
		if err == nil {
			e = visible[0]
		}
		return err
	})
	return e, err
}
