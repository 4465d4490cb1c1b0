package pushers

import (
	"context"
	"encoding/json"

	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// ListRequest asks for notifications of the past.
type ListRequest struct {
	User, Device string
	Before       int64 // position; 0: the newest
	Limit        int
	Highlight    bool // only highlights
}

// Listed is one notification (GET /notifications).
type Listed struct {
	Actions json.RawMessage `json:"actions"`
	Event   json.RawMessage `json:"event"`
	Read    bool            `json:"read"`
	RoomID  string          `json:"room_id"`
	TS      int64           `json:"ts"`
}

// Bounds of one page: events that are looked at, and how many of a room are read
// at once.
const (
	maxSearched = 1000
	chunk       = 20
)

// Notifications returns what the user's rooms notified of, newest first, under
// the rules that the user has now: nothing is stored of it. next is the position
// before which to go on, 0 at the end. A page may have fewer than asked for, even
// none, and yet not be the last: it looks at a bounded number of events.
func (s *Service) Notifications(ctx context.Context, q ListRequest) (page []Listed, next int64, err error) {
	l := &listing{s: s, q: q, page: []Listed{}}
	if err := s.o.DB.Read(ctx, l.open); err != nil {
		return nil, 0, err
	}
	for len(l.page) < q.Limit {
		r := l.newest()
		if r == nil {
			return l.page, 0, nil
		}
		if l.searched >= maxSearched {
			break
		}
		if len(r.events) == 0 {
			if err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) error { return l.fill(tx, r) }); err != nil {
				return nil, 0, err
			}
			continue
		}
		if err := l.take(ctx, r); err != nil {
			return nil, 0, err
		}
	}
	if r := l.newest(); r != nil {
		next = r.last + 1
	}
	return l.page, next, nil
}

// listing merges the rooms' timelines backwards.
type listing struct {
	s        *Service
	q        ListRequest
	rooms    []*listedRoom
	read     func(o *pushrules.Occurrence, pos int64) bool
	page     []Listed
	searched int
}

// listedRoom is how far a room was read.
type listedRoom struct {
	key    store.RoomKey
	last   int64           // position of the newest event not looked at yet, or an upper bound of it; 0: none
	events []*store.Stored // read already, newest first
}

func (l *listing) open(tx *sqldb.Tx) error {
	at := l.s.o.Hub.Published()
	if l.q.Before > 0 {
		at = min(at, l.q.Before-1)
	}
	var nids []int64
	for _, id := range l.s.o.Hub.JoinedRooms(l.q.User) {
		key, err := l.s.o.Rooms.Store.RoomTx(tx, id)
		if err != nil {
			return err
		}
		nids = append(nids, key.NID)
		l.rooms = append(l.rooms, &listedRoom{key: key})
	}
	active, err := l.s.o.Rooms.Activity(tx, nids, nil, at)
	if err != nil {
		return err
	}
	for _, r := range l.rooms {
		r.last = active[r.key.NID].Last
	}
	l.read, err = l.s.o.Rules.ReadMarks(tx, l.q.User, nids)
	return err
}

// newest is the room with the newest event that was not looked at; nil at the end.
func (l *listing) newest() (r *listedRoom) {
	for _, other := range l.rooms {
		if other.last > 0 && (r == nil || other.last > r.last) {
			r = other
		}
	}
	return r
}

// fill reads more of a room.
func (l *listing) fill(tx *sqldb.Tx, r *listedRoom) error {
	nids, err := l.s.o.Rooms.Store.Delivered(tx, r.key.NID, 0, r.last, true, chunk)
	if err != nil {
		return err
	}
	if r.events, err = l.s.o.Rooms.Store.InOrder(tx, nids); err != nil {
		return err
	}
	r.last = 0
	if len(r.events) > 0 {
		r.last = r.events[0].Pos
	}
	return nil
}

// take looks at a room's newest event.
func (l *listing) take(ctx context.Context, r *listedRoom) error {
	e := r.events[0]
	r.events = r.events[1:]
	r.last = e.Pos - 1
	if len(r.events) > 0 {
		r.last = r.events[0].Pos
	}
	l.searched++
	if e.Event.Sender() == l.q.User || e.Event.Redacted() {
		return nil
	}
	o, err := l.s.occurrence(ctx, r.key.ID, e, e.Pos)
	if err != nil {
		return err
	}
	var out *pushrules.Outcome
	err = l.s.o.Rules.Outcomes(ctx, o, []string{l.q.User}, func(_ string, found *pushrules.Outcome) { out = found })
	if err != nil || out == nil || l.q.Highlight && !out.Highlight {
		return err
	}
	return l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) error { return l.list(tx, r, e, o, out) })
}

func (l *listing) list(tx *sqldb.Tx, r *listedRoom, e *store.Stored, o *pushrules.Occurrence, out *pushrules.Outcome) error {
	visible, err := l.s.o.Rooms.Visible(tx, l.q.User, []*store.Stored{e})
	if err != nil || len(visible) == 0 {
		return err
	}
	rendered, err := l.s.o.Rooms.Render(tx, roomserver.Viewer{User: l.q.User, Device: l.q.Device}, visible, false, nil)
	if err != nil {
		return err
	}
	l.page = append(l.page, Listed{Actions: out.Actions(), Event: rendered[0], Read: l.read(o, e.Pos), RoomID: r.key.ID, TS: e.Event.TS()})
	return nil
}
