package roomserver

import (
	"context"
	"errors"
	"sync"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Bounds of the inbound queue.
const (
	drainers      = 4               // rooms that are worked on at once
	drainShare    = 2               // of them for the events of one server, whose answers may be slow
	drainBatch    = 200             // rows taken at once
	drainTime     = 5 * time.Minute // for one batch, other servers' answers included
	retryInterval = 30 * time.Second
	keepFailed    = 7 * 24 * time.Hour // how long an event that failed too often is kept, for the operator to see why
	sweepInterval = time.Hour
)

// intake knows which rooms have PDUs waiting in the inbound table.
type intake struct {
	mu    sync.Mutex
	rooms map[int64]queuedRoom // with rows whose turn it is
	busy  map[int64]string     // rooms that are worked on, with the server whose events are
	left  map[int64][]leftOver // newest events for which there was no room
	tried map[int64]int64      // the newest row of a room that had its turn; older ones wait for the next tick
	wake  chan struct{}
}

// queuedRoom is a room and a server that sent events for it.
type queuedRoom struct {
	key    store.RoomKey
	origin string
}

func (s *Server) waiting(key store.RoomKey) bool {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	_, ok := s.intake.rooms[key.NID]
	return ok
}

func (s *Server) signal(key store.RoomKey, origin string) {
	s.intake.mu.Lock()
	s.intake.rooms[key.NID] = queuedRoom{key, origin}
	s.intake.mu.Unlock()
	s.poke()
}

// poke has Run look for rooms to work on.
func (s *Server) poke() {
	select {
	case s.intake.wake <- struct{}{}:
	default:
	}
}

// park puts verified events into the inbound queue, as far as it has room for
// them: what it has not is returned. The others survive a restart when it returns
// without an error.
func (s *Server) park(ctx context.Context, key store.RoomKey, origin string, events []*event.Event) (refused []*event.Event, err error) {
	rows := make([]store.Inbound, len(events))
	for i, e := range events {
		rows[i] = store.Inbound{Seq: s.db.NextID(), Room: key.NID, ID: e.EventID(), Origin: origin, Data: e.JSON()}
	}
	now := s.Clock().UnixMilli()
	var room fullness
	err = s.db.Do(ctx, &sqldb.Op{
		Name: "inbound",
		Check: func(tx *sqldb.Tx) error {
			n, err := s.Store.InboundBacklog(tx, key.NID, origin)
			room = s.Inbound.room(n, len(rows))
			return err
		},
		Write: func(tx *sqldb.Tx, _ int64) error {
			if room.rows == 0 {
				return nil
			}
			return s.Store.AddInbound(tx, rows[:room.rows], now)
		},
	})
	if err != nil {
		return nil, err
	}
	if room.rows > 0 {
		s.untried(key, rows[0].Seq)
		s.signal(key, origin)
	}
	refused = events[room.rows:]
	s.leave(key, origin, refused, room.full)
	return refused, nil
}

// untried lets rows from seq on have their turn, where newer ones had theirs
// while they were written.
func (s *Server) untried(key store.RoomKey, seq int64) {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	if s.intake.tried[key.NID] >= seq {
		s.intake.tried[key.NID] = seq - 1
	}
}

// Run works off the inbound queue and changes of local users until ctx ends, and
// then waits for joins that are under way.
func (s *Server) Run(ctx context.Context) error {
	defer s.joins.end()
	if err := s.findInbound(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.runFollowUps(ctx) })
	wg.Go(func() { s.runRedemptions(ctx) })
	slots := make(chan struct{}, drainers)
	tick, sweep := time.NewTicker(retryInterval), time.NewTicker(sweepInterval)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		for key, ok := s.nextInbound(); ok; key, ok = s.nextInbound() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			wg.Go(func() {
				s.drainRoom(ctx, key)
				<-slots
				s.poke()
			})
		}
		select {
		case <-s.intake.wake:
		case <-tick.C:
			s.retryInbound()
			if err := s.findInbound(ctx); err != nil && ctx.Err() == nil {
				s.Log.WithError(err).Error("The inbound queue could not be read; it is tried again")
			}
		case <-sweep.C:
			if err := s.sweepInbound(ctx, s.Clock()); err != nil && ctx.Err() == nil {
				s.Log.WithError(err).Error("Events that could not be placed could not be forgotten; it is tried again")
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// sweepInbound forgets events that failed too often, a while after they came.
func (s *Server) sweepInbound(ctx context.Context, now time.Time) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "inbound", Write: func(tx *sqldb.Tx, _ int64) error {
		return s.Store.SweepInbound(tx, now.Add(-keepFailed).UnixMilli())
	}})
}

// findInbound looks up which rooms have rows, after a start or a failure.
func (s *Server) findInbound(ctx context.Context) error {
	nids, err := s.Store.InboundRooms(ctx)
	if err != nil {
		return err
	}
	for _, nid := range nids {
		var key store.RoomKey
		var origin string
		err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			if key, err = s.Store.RoomByNID(tx, nid); err == nil {
				origin, err = s.Store.InboundOrigin(tx, nid)
			}
			return err
		})
		if err != nil {
			return err
		}
		s.signal(key, origin)
	}
	return nil
}

// nextInbound takes a room to work on, of a server that does not keep its share
// of the drainers busy already.
func (s *Server) nextInbound() (store.RoomKey, bool) {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	share := map[string]int{}
	for _, origin := range s.intake.busy {
		share[origin]++
	}
	for nid, q := range s.intake.rooms {
		if _, busy := s.intake.busy[nid]; !busy && share[q.origin] < drainShare {
			s.intake.busy[nid] = q.origin
			return q.key, true
		}
	}
	return store.RoomKey{}, false
}

// retryInbound gives rows that failed another turn.
func (s *Server) retryInbound() {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	clear(s.intake.tried)
}

func (s *Server) triedInbound(key store.RoomKey) int64 {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	return s.intake.tried[key.NID]
}

// drainRoom gives each of a room's queued events its turn.
func (s *Server) drainRoom(ctx context.Context, key store.RoomKey) {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	more, err := s.drainOnce(ctx, key)
	for err == nil && more {
		more, err = s.drainOnce(ctx, key)
	}
	if err != nil && ctx.Err() == nil {
		s.Log.WithError(err).WithField("room", key.ID).Error("The inbound queue of a room could not be worked off; it is tried again")
	}
	s.settleIntake(ctx, key, err)
}

// settleIntake notes that nobody works on the room; it stays listed when rows
// came meanwhile. After a failure the next tick lists it again.
func (s *Server) settleIntake(ctx context.Context, key store.RoomKey, failed error) {
	s.intake.mu.Lock()
	delete(s.intake.busy, key.NID)
	delete(s.intake.rooms, key.NID)
	s.intake.mu.Unlock()
	if failed != nil || ctx.Err() != nil {
		return
	}
	rows, err := s.nextRows(ctx, key, 1)
	switch {
	case err == nil && len(rows) > 0:
		s.signal(key, rows[0].Origin)
	case err == nil:
		s.takeLeft(ctx, key)
	}
}

// nextRows returns rows of a room whose turn it is, oldest first.
func (s *Server) nextRows(ctx context.Context, key store.RoomKey, limit int) (rows []store.Inbound, err error) {
	after := s.triedInbound(key)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		rows, err = s.Store.InboundOf(tx, key.NID, after, limit)
		return err
	})
	return rows, err
}

// drainOnce places one batch of rows in the order of the DAG. Its error is the
// database's: an event that cannot be placed holds nothing up.
func (s *Server) drainOnce(ctx context.Context, key store.RoomKey) (more bool, err error) {
	rows, err := s.nextRows(ctx, key, drainBatch)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	byID := make(map[string]*event.Event, len(rows))
	rowOf := make(map[string]store.Inbound, len(rows))
	for _, row := range rows {
		e, err := event.Parse(key.Version, row.Data)
		if err != nil {
			if err := s.endInbound(ctx, row.Seq, nil); err != nil {
				return false, err
			}
			continue
		}
		byID[e.EventID()], rowOf[e.EventID()] = e, row
	}
	for _, e := range dagOrder(byID) {
		if err := s.placeRow(ctx, key, rowOf[e.EventID()], e); err != nil {
			return false, err
		}
	}
	s.intake.mu.Lock()
	s.intake.tried[key.NID] = rows[len(rows)-1].Seq
	s.intake.mu.Unlock()
	return true, nil
}

// placeRow places one queued event and takes its row off the queue, or counts a
// failure of it.
func (s *Server) placeRow(ctx context.Context, key store.RoomKey, row store.Inbound, e *event.Event) error {
	if s.thinking.over(serverOf(e.Sender()), s.Clock()) {
		s.bounds.heldBack.Inc()
		return nil // its turn comes with the next tick
	}
	err := s.place(ctx, key, row.Origin, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.Log.WithError(err).WithField("room", key.ID).WithField("event", e.EventID()).Info("An event could not be placed")
	}
	if errors.Is(err, errForeign) || errors.Is(err, errWithheld) {
		err = nil // it will be no better later
	}
	return s.endInbound(ctx, row.Seq, err)
}

func (s *Server) endInbound(ctx context.Context, seq int64, failure error) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "inbound", Write: func(tx *sqldb.Tx, _ int64) error { return s.Store.EndInbound(tx, seq, failure) }})
}
