package roomserver

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"

	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Point is a place in a room's history: just before the event with that ord.
// Its text, "t" and the number, is the pagination token that clients get.
type Point int64

// String returns the pagination token.
func (p Point) String() string { return "t" + strconv.FormatInt(int64(p), 10) }

// ParsePoint reads a pagination token that String made.
func ParsePoint(token string) (Point, bool) {
	text, ok := strings.CutPrefix(token, "t")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return Point(n), err == nil
}

// After returns the point just after an event.
func After(e *store.Stored) Point { return Point(e.Ord + 1) }

// PointAt returns the point that follows everything that was delivered to a
// room up to a position.
func (s *Server) PointAt(ctx context.Context, roomID string, pos int64) (p Point, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return 0, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		ord, ok, err := s.Store.OrdAt(tx, key.NID, pos)
		p = Point(ord + 1)
		if !ok {
			p = Point(-maxPos)
		}
		return err
	})
	return p, err
}

// HistoryRequest asks for events of a room in the order of history.
type HistoryRequest struct {
	RoomID, User string
	From         *Point // nil: the newest end when going back, else the oldest
	To           *Point // where to stop; nil: nowhere
	Back         bool
	Limit        int
	Keep         func(*store.Stored) bool // nil: all
	// Pick returns which of events are wanted, in their order, with a look into the database; nil: all.
	Pick  func(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error)
	Local bool // stop at a gap, ask no other server
}

// History is a run of events that a user may see, in the direction asked.
type History struct {
	Events    []*store.Stored
	From, End Point
	// More says that there may be more to see beyond End.
	More bool
}

// Bounds of one walk through a history.
const (
	maxWalk   = 3000 // events looked at
	maxFills  = 3    // gaps filled from other servers
	fillLimit = 100  // events fetched for a gap
)

// History reads a piece of a room's history. A gap in it is filled from other
// servers first. Events may be few or none although there are more.
func (s *Server) History(ctx context.Context, q HistoryRequest) (History, error) {
	key, err := s.Room(ctx, q.RoomID)
	if err != nil {
		return History{}, err
	}
	w := &walk{s: s, q: q, room: key.NID, tried: map[int64]bool{}}
	for {
		gap, err := w.read(ctx)
		if err != nil || !gap {
			return w.h, err
		}
		if q.Local {
			w.h.More = true
			return w.h, nil
		}
		if len(w.tried) == maxFills {
			w.h.More = true
			return w.h, nil
		}
		w.tried[w.at] = true
		if _, err := s.Backfill(ctx, q.RoomID, w.at, fillLimit); err != nil {
			return w.h, err
		}
	}
}

// walk is one way through a history.
type walk struct {
	s       *Server
	q       HistoryRequest
	room    int64
	started bool
	at      int64 // between the events with ord < at and the others
	looked  int
	open    map[int64]bool // ords of events with a gap before them
	tried   map[int64]bool // gaps that were asked for
	h       History
}

// read goes on in one snapshot. It stops at the end, when it has enough, or,
// reporting true, before a gap that is to be filled.
func (w *walk) read(ctx context.Context) (gap bool, err error) {
	err = w.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		if err := w.start(tx); err != nil {
			return err
		}
		for w.h.More = true; len(w.h.Events) < w.q.Limit && w.looked < maxWalk; {
			if w.atGap() {
				gap = true
				return nil
			}
			on, err := w.page(tx)
			if err != nil || !on {
				return err
			}
		}
		return w.peek(tx)
	})
	w.h.End = Point(w.at)
	return gap, err
}

func (w *walk) start(tx *sqldb.Tx) error {
	if w.q.Back {
		gaps, err := w.s.Store.Gaps(tx, w.room, gapsLooked)
		if err != nil {
			return err
		}
		w.open = make(map[int64]bool, len(gaps))
		for _, g := range gaps {
			w.open[g.Ord] = true
		}
	}
	if w.started {
		return nil
	}
	w.started = true
	if w.q.From != nil {
		w.at = int64(*w.q.From)
	} else {
		highest, lowest, _, err := w.s.Store.Ords(tx, w.room)
		if err != nil {
			return err
		}
		if w.at = lowest; w.q.Back {
			w.at = highest + 1
		}
	}
	w.h.From = Point(w.at)
	return nil
}

func (w *walk) atGap() bool { return w.open[w.at] && !w.tried[w.at] }

// page takes the next events; it reports false at the end of the history.
func (w *walk) page(tx *sqldb.Tx) (on bool, err error) {
	want := min(max(w.q.Limit-len(w.h.Events), 16), 256)
	events, err := w.next(tx, want)
	if err != nil {
		return false, err
	}
	visible, err := w.s.Visible(tx, w.q.User, events)
	if err == nil && w.q.Pick != nil && len(visible) > 0 {
		visible, err = w.q.Pick(tx, visible)
	}
	if err != nil {
		return false, err
	}
	for _, e := range events {
		seen := len(visible) > 0 && visible[0].NID == e.NID
		shown := e
		if seen {
			shown, visible = visible[0], visible[1:]
		}
		if w.pastEnd(e) {
			w.h.More = false
			return false, nil
		}
		w.looked++
		w.at = w.past(e)
		if seen && !e.Event.Dummy() && (w.q.Keep == nil || w.q.Keep(shown)) {
			w.h.Events = append(w.h.Events, shown)
		}
		if len(w.h.Events) == w.q.Limit || w.atGap() {
			return true, nil
		}
	}
	w.h.More = len(events) == want || w.open[w.at] && len(w.h.Events) > 0
	return len(events) == want, nil
}

// next returns the next n events.
func (w *walk) next(tx *sqldb.Tx, n int) ([]*store.Stored, error) {
	ord := w.at
	if !w.q.Back {
		ord--
	}
	nids, err := w.s.Store.Page(tx, w.room, ord, w.q.Back, n)
	if err != nil {
		return nil, err
	}
	return w.s.Store.InOrder(tx, nids)
}

func (w *walk) past(e *store.Stored) int64 {
	if w.q.Back {
		return e.Ord
	}
	return e.Ord + 1
}

func (w *walk) pastEnd(e *store.Stored) bool {
	return w.q.To != nil && (w.q.Back && e.Ord < int64(*w.q.To) || !w.q.Back && e.Ord >= int64(*w.q.To))
}

// peek finds out whether there is anything beyond the point where a walk has
// enough.
func (w *walk) peek(tx *sqldb.Tx) error {
	if w.open[w.at] {
		return nil
	}
	events, err := w.next(tx, 1)
	w.h.More = len(events) == 1 && !w.pastEnd(events[0])
	return err
}

// StateAfter returns the state after an event.
func (s *Server) StateAfter(tx *sqldb.Tx, e *store.Stored) (*store.Ref, error) {
	before, err := s.Store.Set(tx, e.State)
	if err != nil || e.Tuple == 0 || e.Flags&store.Rejected != 0 {
		return before, err
	}
	return &store.Ref{NID: before.NID, Height: before.Height, Set: before.Set.With(e.Tuple, e.NID)}, nil
}

// StateAtPoint returns the state at a point, that after the nearest event of the
// history before it, and an event that says who may see it; nil in a room
// without events.
func (s *Server) StateAtPoint(tx *sqldb.Tx, room int64, p Point) (*store.Ref, *store.Stored, error) {
	nids, err := s.Store.Page(tx, room, int64(p), true, 1)
	if err != nil {
		return nil, nil, err
	}
	if len(nids) == 0 {
		return s.firstState(tx, room, p)
	}
	e, err := s.Store.Event(tx, nids[0])
	if err != nil {
		return nil, nil, err
	}
	ref, err := s.StateAfter(tx, e)
	return ref, e, err
}

// firstState returns the oldest state after a point that no event precedes: what
// the room was when this server came in, or, of a room that began here, what it
// was once its creator had joined.
func (s *Server) firstState(tx *sqldb.Tx, room int64, p Point) (*store.Ref, *store.Stored, error) {
	nids, err := s.Store.Page(tx, room, int64(p)-1, false, 2)
	if err != nil || len(nids) == 0 {
		return store.EmptyState(), nil, err
	}
	events, err := s.Store.InOrder(tx, nids)
	if err != nil {
		return nil, nil, err
	}
	ref, err := s.Store.Set(tx, events[0].State)
	if err == nil && ref.Set.Len() == 0 {
		ref, err = s.StateAfter(tx, events[len(events)-1])
	}
	return ref, events[0], err
}

// SenderMembers returns the member events of the senders of events, each as it
// was before the first of theirs in the list.
func (s *Server) SenderMembers(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error) {
	var members []*store.Stored
	seen := make(map[string]bool, len(events))
	for _, e := range events {
		sender := e.Event.Sender()
		if seen[sender] {
			continue
		}
		seen[sender] = true
		before, err := s.Store.Set(tx, e.State)
		if err != nil {
			return nil, err
		}
		member, err := s.stateEvent(tx, before, "m.room.member", sender)
		if err != nil {
			return nil, err
		}
		if member != nil {
			members = append(members, member)
		}
	}
	return members, nil
}

func (t listingToken) String() string {
	side := "a"
	if t.before {
		side = "b"
	}
	return base64.RawURLEncoding.EncodeToString([]byte(side + strconv.Itoa(t.joined) + t.room))
}
