package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// moment is a time in milliseconds and the direction in which to look for an
// event from there.
type moment struct {
	ts      int64
	forward bool
}

// nearer reports whether an event of time ts is a better answer than the one at
// hand, nil for none.
func (m moment) nearer(ts int64, at *store.Stored) bool {
	if m.forward {
		return ts >= m.ts && (at == nil || ts < at.TS)
	}
	return ts <= m.ts && (at == nil || ts > at.TS)
}

// EventAtTime returns the event that a user may see and that is nearest to a
// time, in milliseconds: the first at or after it, or the last at or before it.
// Other servers are asked when a gap in the history may have a nearer one.
func (s *Server) EventAtTime(ctx context.Context, roomID, userID string, ts int64, forward bool) (*store.Stored, error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	m := moment{ts, forward}
	near, gap, err := s.nearest(ctx, key, m)
	if err == nil && gap != nil && s.Remote != nil && s.fetchNearest(ctx, key, m, near, gap) {
		near, _, err = s.nearest(ctx, key, m)
	}
	if err == nil && near == nil {
		err = ErrUnknownEvent
	}
	if err != nil {
		return nil, err
	}
	from := After(near)
	if forward {
		from = Point(near.Ord)
	}
	h, err := s.History(ctx, HistoryRequest{RoomID: roomID, User: userID, From: &from, Back: !forward, Limit: 1})
	if err == nil && len(h.Events) == 0 {
		err = ErrUnknownEvent
	}
	if err != nil {
		return nil, err
	}
	return h.Events[0], nil
}

// nearest returns the event nearest to a moment, nil when there is none, and the
// event after a gap in which a nearer one may be, nil when there is no such gap.
func (s *Server) nearest(ctx context.Context, key store.RoomKey, m moment) (near, gap *store.Stored, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		near, err = s.Store.NearestTS(tx, key.NID, m.ts, m.forward)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		gaps, err := s.Store.Gaps(tx, key.NID, gapsLooked)
		if err != nil {
			return err
		}
		for _, g := range gaps {
			if gap != nil && gap.NID == g.Event {
				continue
			}
			after, open, err := s.mayHide(tx, key, g, m, near)
			if err != nil {
				return err
			}
			if open && (gap == nil || m.forward) { // gaps come newest first
				gap = after
			}
		}
		return nil
	})
	return near, gap, err
}

// mayHide reports whether events in a gap may be nearer to a moment than the one
// at hand, going by the times of the events around it.
func (s *Server) mayHide(tx *sqldb.Tx, key store.RoomKey, g store.Gap, m moment, near *store.Stored) (after *store.Stored, open bool, err error) {
	if after, err = s.Store.Event(tx, g.Event); err != nil {
		return nil, false, err
	}
	low := int64(math.MinInt64)
	before, err := s.Store.Page(tx, key.NID, g.Ord, true, 1)
	if err != nil {
		return nil, false, err
	}
	if len(before) > 0 {
		e, err := s.Store.Event(tx, before[0])
		if err != nil {
			return nil, false, err
		}
		low = e.TS
	}
	if m.forward {
		return after, after.TS >= m.ts && (near == nil || low < near.TS), nil
	}
	return after, low <= m.ts && (near == nil || after.TS > near.TS), nil
}

// nearestTime bounds how long other servers are asked for an event at a time.
const nearestTime = 10 * time.Second

// fetchNearest asks other servers for an event nearer to a moment and puts it
// into the history before a gap. It reports whether one came.
func (s *Server) fetchNearest(ctx context.Context, key store.RoomKey, m moment, near, gap *store.Stored) bool {
	ctx, cancel := context.WithTimeout(ctx, nearestTime)
	defer cancel()
	for _, server := range s.backfillFrom(ctx, key.ID, gap) {
		id, ts, err := s.Remote.EventAtTime(ctx, server, key.ID, m.ts, m.forward)
		if err == nil && !m.nearer(ts, near) {
			continue
		}
		if err == nil {
			err = s.placeIsland(ctx, key, server, gap, id, func(e *event.Event) bool { return m.nearer(e.TS(), near) })
		}
		if err == nil {
			return true
		}
		s.Log.WithError(err).WithField("room", key.ID).WithField("server", server).Info("No event at a time was had from a server")
		if ctx.Err() != nil {
			break
		}
	}
	return false
}

// placeIsland fetches one event and puts it into the history before a gap, with
// a gap of its own before it.
func (s *Server) placeIsland(ctx context.Context, key store.RoomKey, server string, gap *store.Stored, id string, want func(*event.Event) bool) error {
	raw, err := s.Remote.Event(ctx, server, id)
	if err != nil {
		return err
	}
	found := map[string]*event.Event{}
	s.parseGap(ctx, key, []json.RawMessage{raw}, found)
	if e := found[id]; e == nil || !want(e) {
		return errors.New("the event is not what the server said")
	}
	n, err := s.storeHistory(ctx, key, server, gap, found, true)
	if err == nil && n == 0 {
		err = errors.New("the event cannot be placed")
	}
	return err
}
