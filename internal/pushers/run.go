package pushers

import (
	"context"
	"errors"
	"slices"
	"time"

	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Run looks at events and delivers until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	s.begin(ctx)
	defer s.end()
	if err := s.delete(ctx, "pushers.orphans", dropOrphans); err != nil {
		return err
	}
	s.sub.Overflowed()
	if s.looked.Load() < s.o.Hub.Published() {
		s.catchUp(ctx)
	}
	tick := time.NewTicker(s.o.Save)
	defer tick.Stop()
	var pending []stream.Change
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-s.sub.C:
			pending = append(pending, c)
		case <-s.wake:
		case <-tick.C:
			s.updateBadges(ctx)
			s.save(ctx)
		}
		pending = s.drain(ctx, pending)
	}
}

// dropOrphans deletes what waits for pushers that were deleted while it was written.
func dropOrphans(tx *sqldb.Tx) ([]int64, error) {
	_, err := tx.Exec(deleteOrphans)
	return nil, err
}

func (s *Service) begin(ctx context.Context) {
	s.mu.Lock()
	s.ctx, s.running = ctx, true
	s.mu.Unlock()
	for _, l := range s.allLanes() {
		l.start()
	}
}

// end waits for the workers, and saves what they left.
func (s *Service) end() {
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	s.workers.Wait()
	s.save(context.WithoutCancel(s.ctx))
}

// drain looks at what is published of the pending changes and of what waits, and
// returns the rest.
func (s *Service) drain(ctx context.Context, pending []stream.Change) []stream.Change {
	for {
		select {
		case c := <-s.sub.C:
			pending = append(pending, c)
			continue
		default:
		}
		break
	}
	if s.sub.Overflowed() {
		s.catchUp(ctx)
	}
	if ctx.Err() != nil {
		return pending // perhaps not all before it was looked at
	}
	published := s.o.Hub.Published()
	n := 0
	for ; n < len(pending) && pending[n].Pos <= published; n++ {
		if c := pending[n]; c.Pos > s.looked.Load() {
			if !s.see(ctx, c) {
				break
			}
			s.looked.Store(c.Pos)
		}
	}
	return append(pending[:0:0], pending[n:]...)
}

// see looks at one event. An event that cannot be looked at notifies nobody: the
// others must go on. It returns false when ctx ended before: the next start looks.
func (s *Service) see(ctx context.Context, c stream.Change) bool {
	users := s.recipients(c.Room)
	if len(users) == 0 && (c.Kind == stream.Timeline || !s.any()) {
		return true
	}
	err := s.notify(ctx, c, users)
	if err != nil && ctx.Err() == nil {
		s.o.Log.WithError(err).WithField("room", c.Room).Warn("An event could not be looked at for push notifications; nobody is notified of it")
	}
	return err == nil || ctx.Err() == nil
}

func (s *Service) any() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.lanes) > 0
}

func (s *Service) notify(ctx context.Context, c stream.Change, users []string) error {
	e, err := s.o.Rooms.Store.LoadOne(ctx, c.EventNID)
	if err != nil {
		return err
	}
	target, isMember := e.Event.Key()
	if isMember = isMember && e.Event.Type() == "m.room.member"; isMember && len(s.lanesOf(target)) > 0 {
		s.CountsChanged(target)
		if !slices.Contains(users, target) && e.Event.ContentString("membership") == "invite" {
			users = append(users, target)
		}
	}
	if len(users) == 0 {
		return nil
	}
	o, err := s.occurrence(ctx, c.Room, e, c.Pos)
	if err != nil {
		return err
	}
	var last *pushrules.Outcome // most users have the same
	n := notice{pos: c.Pos, event: e.NID, ts: s.o.Clock.Millis()}
	return s.o.Rules.Outcomes(ctx, o, users, func(user string, out *pushrules.Outcome) {
		if out != last {
			last, n.tweaks = out, encodeTweaks(out.Tweaks)
		}
		for _, l := range s.lanesOf(user) {
			if l.pusher().since < c.Pos {
				l.add(n)
			}
		}
	})
}

// occurrence is an event as the rules see it, with the room as it was at a position.
func (s *Service) occurrence(ctx context.Context, room string, e *store.Stored, pos int64) (*pushrules.Occurrence, error) {
	view, err := s.view(ctx, room, pos)
	if err != nil {
		return nil, err
	}
	return Occurrence(ctx, s.o.Rooms, s.o.Hub, s.o.ServerName, room, e, view), nil
}

// view is the room at a position; the members are counted now when they are not
// known as they were. Of a room that this server is not in nothing is known.
func (s *Service) view(ctx context.Context, room string, pos int64) (roomserver.View, error) {
	v, err := s.o.Rooms.View(ctx, room, pos)
	if errors.Is(err, roomserver.ErrUnknownRoom) {
		return roomserver.View{State: store.EmptyState()}, nil
	}
	if err == nil && v.Joined == 0 {
		now, err := s.o.Rooms.Current(ctx, room)
		v.Joined = now.Joined
		return v, err
	}
	return v, err
}

// maxMissed bounds the events of a room that are looked at after an outage: the
// newest ones.
const maxMissed = 200

// catchUp looks at everything after the position up to which events were looked at.
func (s *Service) catchUp(ctx context.Context) {
	from, to := s.looked.Load(), s.o.Hub.Published()
	var missed []stream.Change
	err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		missed, err = s.missed(tx, from, to)
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			s.o.Log.WithError(err).Error("Events that were not looked at for push notifications could not be read; nobody is notified of them")
		}
		return
	}
	for _, c := range missed {
		if !s.see(ctx, c) {
			return
		}
		s.looked.Store(c.Pos)
	}
	s.looked.Store(max(from, to))
}

func (s *Service) missed(tx *sqldb.Tx, from, to int64) (list []stream.Change, err error) {
	rooms := map[string]bool{}
	for _, user := range s.users() {
		for _, id := range s.o.Hub.JoinedRooms(user) {
			rooms[id] = true
		}
		rows, err := s.o.Rooms.MembershipsSince(tx, user, from)
		if err != nil {
			return nil, err
		}
		for _, m := range rows {
			if m.State != store.Invite || m.Pos > to {
				continue
			}
			key, err := s.o.Rooms.Store.RoomByNID(tx, m.Room)
			if err != nil {
				return nil, err
			}
			list = append(list, stream.Change{Pos: m.Pos, Room: key.ID, EventNID: m.Event, Kind: stream.Membership})
		}
	}
	for id := range rooms {
		key, err := s.o.Rooms.Store.RoomTx(tx, id)
		if err != nil {
			return nil, err
		}
		nids, err := s.o.Rooms.Store.Delivered(tx, key.NID, from, to, true, maxMissed)
		if err != nil {
			return nil, err
		}
		events, err := s.o.Rooms.Store.InOrder(tx, nids)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			list = append(list, stream.Change{Pos: e.Pos, Room: id, EventNID: e.NID, Kind: stream.Timeline})
		}
	}
	slices.SortFunc(list, func(a, b stream.Change) int { return int(a.Pos - b.Pos) })
	return slices.CompactFunc(list, func(a, b stream.Change) bool { return a.EventNID == b.EventNID }), nil
}

func (s *Service) users() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]string, 0, len(s.byUser))
	for u := range s.byUser {
		out = append(out, u)
	}
	return out
}

// unread is what counts of a notification say.
type unread struct {
	badge int64
	calls int64
	rooms map[string]pushrules.Counts
}

// unread reads a user's counts in all rooms.
func (s *Service) unread(ctx context.Context, user string) (u unread, err error) {
	var ignored []string
	if s.o.Ignored != nil {
		set, err := s.o.Ignored(ctx, user)
		if err != nil {
			return u, err
		}
		for id := range set {
			ignored = append(ignored, id)
		}
	}
	at := s.o.Hub.Published()
	var keys []pushrules.RoomKey
	for _, id := range s.o.Hub.JoinedRooms(user) {
		key, err := s.o.Rooms.Room(ctx, id)
		if err != nil {
			return u, err
		}
		keys = append(keys, pushrules.RoomKey{ID: id, NID: key.NID})
	}
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		u.rooms, err = s.o.Rules.Unread(tx, user, keys, at, ignored...)
		return err
	})
	for _, c := range u.rooms {
		u.badge += c.All().Notification
		u.calls += c.Calls
	}
	return u, err
}

// updateBadges tells the gateways of users whose counts changed without an event.
func (s *Service) updateBadges(ctx context.Context) {
	for user := range s.takeChanged() {
		u, err := s.unread(ctx, user)
		if err != nil {
			if ctx.Err() == nil {
				s.o.Log.WithError(err).Warn("A user's unread counts could not be read")
			}
			continue
		}
		for _, l := range s.lanesOf(user) {
			l.badge(u.badge)
		}
	}
}

// save writes what the lanes could not deliver yet, drops the rows of what they
// delivered, and then moves the position.
func (s *Service) save(ctx context.Context) {
	looked := s.looked.Load()
	type change struct {
		l    *lane
		add  []notice
		done []int64
	}
	var changes []change
	for _, l := range s.allLanes() {
		if add, done := l.unsaved(); len(add)+len(done) > 0 {
			changes = append(changes, change{l, add, done})
		}
	}
	if len(changes) == 0 && (looked == s.saved || !s.any()) {
		return
	}
	err := s.o.DB.Do(ctx, &sqldb.Op{Name: "pushers.save", Write: func(tx *sqldb.Tx, _ int64) error {
		for _, c := range changes {
			for _, n := range c.add {
				tx.Append(insertQueued, c.l.nid, n.pos, n.event, n.tweaks, n.ts)
			}
			if len(c.done) > 0 {
				if _, err := tx.Exec(deleteQueued, c.l.nid, c.done); err != nil {
					return err
				}
			}
		}
		_, err := tx.Exec(upsertCursor, 1, looked)
		return err
	}})
	if err != nil {
		if ctx.Err() == nil {
			s.o.Log.WithError(err).Warn("The state of push notifications could not be saved; it is tried again")
		}
		return
	}
	s.saved = looked
	for _, c := range changes {
		c.l.savedRows(c.add, c.done)
	}
}
