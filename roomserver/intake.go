package roomserver

import (
	"context"
	"errors"
	"slices"
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
	drainBatch    = 200             // rows taken at once, from each server that has some as many
	drainTime     = 5 * time.Minute // for one room, before others are worked on
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
	tried map[int64]rowSet     // rows of a room that had their turn and are queued still; they wait for the next tick
	wake  chan struct{}
}

type rowSet map[int64]struct{}

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
		s.signal(key, origin)
	}
	refused = events[room.rows:]
	s.leave(key, origin, refused, room.full)
	return refused, nil
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
	wg.Go(func() { s.runTidy(ctx) })
	wg.Go(func() { s.runCompletions(ctx) })
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

// hadTurn notes that a row had its turn and is queued still.
func (s *Server) hadTurn(key store.RoomKey, seq int64) {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	if s.intake.tried[key.NID] == nil {
		s.intake.tried[key.NID] = rowSet{}
	}
	s.intake.tried[key.NID][seq] = struct{}{}
}

// drainRoom gives a room's queued events their turns, for a while.
func (s *Server) drainRoom(ctx context.Context, key store.RoomKey) {
	began := time.Now()
	more, err := s.drainOnce(ctx, key)
	for err == nil && more && time.Since(began) < drainTime {
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

// nextRows returns up to limit rows of a room whose turn it is, oldest first, of each server as many as of the others,
// as far as it has some: one that floods the room delays its own events only.
func (s *Server) nextRows(ctx context.Context, key store.RoomKey, limit int) (rows []store.Inbound, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		line, err := s.Store.InboundLine(tx, key.NID)
		if err != nil || len(line) == 0 {
			return err
		}
		rows, err = s.Store.InboundRows(tx, takeTurns(s.untried(key, line), limit))
		return err
	})
	return rows, err
}

// untried leaves out rows that had their turn.
func (s *Server) untried(key store.RoomKey, line []store.Inbound) []store.Inbound {
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	tried := s.intake.tried[key.NID]
	return slices.DeleteFunc(line, func(r store.Inbound) bool {
		_, had := tried[r.Seq]
		return had
	})
}

// takeTurns picks up to n rows of a line: the first one of each server, then the second one of each, and so on.
func takeTurns(line []store.Inbound, n int) (seqs []int64) {
	of := map[string][]int64{}
	var servers []string
	for _, r := range line {
		if of[r.Origin] == nil {
			servers = append(servers, r.Origin)
		}
		of[r.Origin] = append(of[r.Origin], r.Seq)
	}
	for i := 0; len(seqs) < min(n, len(line)); i++ {
		for _, server := range servers {
			if own := of[server]; i < len(own) && len(seqs) < n {
				seqs = append(seqs, own[i])
			}
		}
	}
	return seqs
}

// drainOnce places one batch of rows in the order of the DAG. Its error is the
// database's: an event that cannot be placed holds nothing up. Rows of a server
// whose others took long, for want of its answers perhaps, are left to the next
// batch.
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
	spent := map[string]time.Duration{}
	for _, e := range dagOrder(byID) {
		row := rowOf[e.EventID()]
		if spent[row.Origin] > s.Inbound.Turn {
			continue
		}
		began := time.Now()
		if err := s.placeRow(ctx, key, row, e); err != nil {
			return false, err
		}
		spent[row.Origin] += time.Since(began)
	}
	return true, nil
}

// placeRow places one queued event and takes its row off the queue, or counts a
// failure of it.
func (s *Server) placeRow(ctx context.Context, key store.RoomKey, row store.Inbound, e *event.Event) error {
	if s.thinking.over(serverOf(e.Sender()), s.Clock()) {
		s.bounds.heldBack.Inc()
		s.hadTurn(key, row.Seq)
		return nil // its turn comes with the next tick
	}
	err := s.placeInTime(ctx, key, row.Origin, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.hadTurn(key, row.Seq)
		s.Log.WithError(err).WithField("room", key.ID).WithField("event", e.EventID()).Info("An event could not be placed")
	}
	if errors.Is(err, ErrBusy) {
		return nil // that others take much memory is no fault of its
	}
	if hopeless(err) || errors.Is(err, errWithheld) {
		err = nil // it will be no better later
	}
	return s.endInbound(ctx, row.Seq, err)
}

// placeInTime places an event unless that takes too long.
func (s *Server) placeInTime(ctx context.Context, key store.RoomKey, origin string, e *event.Event) error {
	ctx, cancel := context.WithTimeout(ctx, s.Inbound.Place)
	defer cancel()
	return s.place(ctx, key, origin, e)
}

func (s *Server) endInbound(ctx context.Context, seq int64, failure error) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "inbound", Write: func(tx *sqldb.Tx, _ int64) error { return s.Store.EndInbound(tx, seq, failure) }})
}
