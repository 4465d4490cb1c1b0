// Package sticky owns which events are sticky (MSC4354): for a while, an hour at most, they reach everybody who is in
// their room, whatever they missed of its timeline. It notes such events as they enter rooms, finds those that somebody
// has not seen, and has those looked at again that the room's state refused when they came.
package sticky

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Options configure Events.
type Options struct {
	DB         *sqldb.DB
	Hub        *stream.Hub
	ServerName string
	// Reconsider takes a soft-failed event into its room if the room allows it now; done says that it need not be asked
	// again.
	Reconsider func(ctx context.Context, roomID string, event int64) (done bool, err error)
	Clock      clock.Clock // nil is the system's
	Log        *logrus.Entry
}

// Events are the sticky events of this node. It is a roomserver.Participant, and safe for concurrent use.
type Events struct {
	o  Options
	db *sqldb.DB

	mu      sync.Mutex
	rooms   map[int64]*room
	refused map[string]map[int64]int64 // when soft-failed events expire, by room id and number
}

// room is what is in memory of a room with sticky events: most have none, and cost nothing.
type room struct {
	newest, expires int64 // highest position and time
	count           int   // since they were last counted
}

// Bounds of a room. Of more than maxActive sticky events the newer ones are events as others are; of more than
// maxRefused that its state refused the newer ones stay refused.
const (
	maxActive  = 5_000
	maxRefused = 200
)

// New makes Events.
func New(o Options) *Events {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return &Events{o: o, db: o.DB, rooms: map[int64]*room{}, refused: map[string]map[int64]int64{}}
}

var (
	_ roomserver.Participant = (*Events)(nil)
	_ roomserver.Refuser     = (*Events)(nil)
)

var (
	insert = sqldb.RegisterInsert("sticky.insert", `INSERT INTO sticky_events (nid, room, pos, own, expires) VALUES`, 5,
		`ON CONFLICT (nid) DO UPDATE SET pos = excluded.pos`)
	active = sqldb.Register("sticky.active", `SELECT room, max(pos), max(expires), count(*) FROM sticky_events WHERE expires > $1 AND pos IS NOT NULL GROUP BY room`)
	soft   = sqldb.Register("sticky.refused", `SELECT s.nid, s.expires, r.room_id FROM sticky_events s JOIN rooms r ON r.nid = s.room WHERE s.expires > $1 AND s.pos IS NULL`)
	since  = sqldb.Register("sticky.since", `SELECT nid, pos FROM sticky_events
		WHERE room = ANY($1::bigint[]) AND pos > $2 AND pos <= $3 AND expires > $4 ORDER BY pos LIMIT $5`)
	own    = sqldb.Register("sticky.own", `SELECT nid, pos FROM sticky_events WHERE room = $1 AND pos > $2 AND pos <= $3 AND own = 1 AND expires > $4 ORDER BY pos`)
	stay   = sqldb.Register("sticky.stay", `SELECT 1 FROM room_servers rs JOIN names n ON n.nid = rs.server WHERE rs.room = $1 AND n.s = $2 AND rs.to_pos IS NULL AND rs.from_pos = $3`)
	recent = sqldb.Register("sticky.recent", `SELECT n.s, s.nid FROM sticky_events s JOIN room_servers rs ON rs.room = s.room JOIN names n ON n.nid = rs.server
		WHERE s.own = 1 AND s.expires > $1 AND rs.to_pos IS NULL AND rs.from_pos > s.pos ORDER BY s.pos`)
	remove = sqldb.Register("sticky.expired", `DELETE FROM sticky_events WHERE expires <= $1`)
)

// Start reads which rooms have sticky events.
func (s *Events) Start(ctx context.Context) error {
	return s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if s.rooms, err = readActive(tx, s.o.Clock.Millis()); err != nil {
			return err
		}
		return s.loadRefused(tx)
	})
}

func (s *Events) loadRefused(tx *sqldb.Tx) error {
	rows, err := tx.Query(soft, s.o.Clock.Millis())
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var nid, expires int64
		var id []byte
		if err := rows.Scan(&nid, &expires, &id); err != nil {
			return err
		}
		s.noteRefused(string(id), nid, expires)
	}
	return rows.Close()
}

// Load implements roomserver.Participant.
func (s *Events) Load(context.Context, int64) error { return nil }

// Forget implements roomserver.Participant.
func (s *Events) Forget(int64) {}

// expiry is when an event that arrives now ends to be sticky; false when it is not, or has ended already.
func (s *Events) expiry(e *event.Event) (at int64, ok bool) {
	ms, ok := e.Sticky()
	if !ok {
		return 0, false
	}
	now := s.o.Clock.Millis()
	at = min(now, e.TS()) + ms
	return at, at > now
}

// Prepare implements roomserver.Participant.
func (s *Events) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	expires, ok := s.expiry(a.Event)
	if !ok || s.full(a.RoomNID) {
		return nil
	}
	return func(tx *sqldb.Tx, pos int64) error {
		tx.Append(insert, a.EventNID, a.RoomNID, pos, s.isOwn(a.Event), expires)
		tx.AfterCommit(func(int64) { s.note(a.RoomNID, pos, expires) })
		return nil
	}
}

func (s *Events) isOwn(e *event.Event) bool { return event.ServerOf(e.Sender()) == s.o.ServerName }

// PrepareRefused implements roomserver.Refuser.
func (s *Events) PrepareRefused(a *roomserver.Accepted) func(tx *sqldb.Tx) error {
	expires, ok := s.expiry(a.Event)
	if _, isState := a.Event.Key(); !ok || isState || s.full(a.RoomNID) {
		return nil
	}
	return func(tx *sqldb.Tx) error {
		tx.Append(insert, a.EventNID, a.RoomNID, nil, s.isOwn(a.Event), expires)
		tx.AfterCommit(func(int64) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.noteRefused(a.RoomID, a.EventNID, expires)
		})
		return nil
	}
}

func (s *Events) full(nid int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[nid]
	return r != nil && r.count >= maxActive
}

func (s *Events) note(nid, pos, expires int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[nid]
	if r == nil {
		r = &room{}
		s.rooms[nid] = r
	}
	r.newest, r.expires = max(r.newest, pos), max(r.expires, expires)
	r.count++
}

// noteRefused remembers an event that may be allowed later; s.mu is held.
func (s *Events) noteRefused(roomID string, nid, expires int64) {
	if s.refused[roomID] == nil {
		s.refused[roomID] = map[int64]int64{}
	}
	if len(s.refused[roomID]) < maxRefused {
		s.refused[roomID][nid] = expires
	}
}

// After reports whether a room may have sticky events after a position. It costs no SQL.
func (s *Events) After(room, pos int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[room]
	return r != nil && r.newest > pos && r.expires > s.o.Clock.Millis()
}

// Since are up to limit sticky events of rooms with from < position ≤ to that have not expired, oldest first, and the
// position up to which they are all: to, unless some are left over. Those that were redacted are among them.
func (s *Events) Since(tx *sqldb.Tx, st *store.Store, rooms []int64, from, to int64, limit int) (events []*store.Stored, upTo int64, err error) {
	if len(rooms) == 0 {
		return nil, to, nil
	}
	list, err := sqldb.Collect(tx, since, scanDue, rooms, from, to, s.o.Clock.Millis(), limit+1)
	if err != nil {
		return nil, 0, err
	}
	upTo = to
	if len(list) > limit {
		list = list[:limit]
		upTo = list[limit-1].Pos
	}
	nids := make([]int64, len(list))
	for i, d := range list {
		nids[i] = d.Event
	}
	found, err := st.Load(tx, nids)
	for _, nid := range nids {
		if e := found[nid]; e != nil { // it may have been purged
			events = append(events, e)
		}
	}
	return events, upTo, err
}

func scanDue(r *sqldb.Rows) (d store.Due, err error) {
	err = r.Scan(&d.Event, &d.Pos)
	return d, err
}

// Own are the events of our users among them, all of one room.
func (s *Events) Own(tx *sqldb.Tx, room, from, to int64) ([]store.Due, error) {
	return sqldb.Collect(tx, own, scanDue, room, from, to, s.o.Clock.Millis())
}

// ForNewcomer are the events of our users that a server lacks whose users came into a room at pos, none when that server
// was in the room before.
func (s *Events) ForNewcomer(tx *sqldb.Tx, room int64, server string, pos int64) ([]store.Due, error) {
	if !s.After(room, 0) {
		return nil, nil
	}
	var one int64
	err := tx.QueryRow(stay, room, []byte(server), pos).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.Own(tx, room, 0, pos)
}

// ForNewcomers are all of them by server, oldest first: what a start may have kept from being sent.
func (s *Events) ForNewcomers(tx *sqldb.Tx) (map[string][]int64, error) {
	out := map[string][]int64{}
	rows, err := tx.Query(recent, s.o.Clock.Millis())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var server []byte
		var nid int64
		if err := rows.Scan(&server, &nid); err != nil {
			return nil, err
		}
		out[string(server)] = append(out[string(server)], nid)
	}
	return out, rows.Close()
}

const pruneEvery = 10 * time.Minute

// Run looks again at refused events when who is in their room changes, and forgets what has expired, until ctx ends.
func (s *Events) Run(ctx context.Context) error {
	changes := s.o.Hub.Subscribe(1024)
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	s.reconsiderAll(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-changes.C:
			if changes.Overflowed() {
				s.reconsiderAll(ctx)
			} else if c.Kind == stream.Membership {
				s.reconsider(ctx, c.Room)
			}
		case <-prune.C:
			if err := s.prune(ctx); err != nil && ctx.Err() == nil {
				s.o.Log.WithError(err).Warn("Expired sticky events could not be deleted")
			}
		}
	}
}

func (s *Events) reconsiderAll(ctx context.Context) {
	s.mu.Lock()
	rooms := slices.Collect(maps.Keys(s.refused))
	s.mu.Unlock()
	for _, id := range rooms {
		s.reconsider(ctx, id)
	}
}

func (s *Events) reconsider(ctx context.Context, roomID string) {
	for _, nid := range s.refusedIn(roomID) {
		done, err := s.o.Reconsider(ctx, roomID, nid)
		if err != nil && ctx.Err() == nil {
			s.o.Log.WithError(err).WithField("room", roomID).Warn("A sticky event that was refused could not be looked at again")
		}
		if done {
			s.mu.Lock()
			delete(s.refused[roomID], nid)
			s.mu.Unlock()
		}
	}
}

// refusedIn are the refused events of a room that have not expired; the others are forgotten.
func (s *Events) refusedIn(roomID string) (nids []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.o.Clock.Millis()
	for nid, expires := range s.refused[roomID] {
		if expires > now {
			nids = append(nids, nid)
		} else {
			delete(s.refused[roomID], nid)
		}
	}
	if len(nids) == 0 {
		delete(s.refused, roomID)
	}
	slices.Sort(nids)
	return nids
}

// prune forgets what has expired.
func (s *Events) prune(ctx context.Context) error {
	s.mu.Lock()
	none := len(s.rooms)+len(s.refused) == 0
	s.mu.Unlock()
	if none {
		return nil
	}
	now := s.o.Clock.Millis()
	return s.db.Do(ctx, &sqldb.Op{Name: "sticky.prune", Write: func(tx *sqldb.Tx, _ int64) error {
		if n, err := tx.Exec(remove, now); n == 0 || err != nil {
			return err
		}
		left, err := readActive(tx, now)
		tx.AfterCommit(func(int64) { s.keep(left) })
		return err
	}})
}

func readActive(tx *sqldb.Tx, now int64) (map[int64]*room, error) {
	rows, err := tx.Query(active, now)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[int64]*room{}
	for rows.Next() {
		var nid int64
		r := &room{}
		if err := rows.Scan(&nid, &r.newest, &r.expires, &r.count); err != nil {
			return nil, err
		}
		out[nid] = r
	}
	return out, rows.Close()
}

// keep takes over how many events of each room are left, and leaves the others out when theirs have expired.
func (s *Events) keep(left map[int64]*room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, list := range s.refused {
		maps.DeleteFunc(list, func(_, expires int64) bool { return expires <= s.o.Clock.Millis() })
		if len(list) == 0 {
			delete(s.refused, id)
		}
	}
	for nid, r := range s.rooms {
		if l := left[nid]; l != nil {
			r.count = l.count
		} else if r.expires <= s.o.Clock.Millis() {
			delete(s.rooms, nid)
		}
	}
}
