package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/sqldb"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// Fetching the members of rooms that were joined without them.

// Bounds of it.
const (
	completers     = 2                // rooms at once
	completeTime   = 10 * time.Minute // with one server
	completeAsk    = 8                // servers that are asked in a round
	completeRest   = 5 * time.Second  // after the first round in which nobody could help, doubled with each
	maxRest        = 10 * time.Minute
	completeLook   = time.Second // how often is looked for rooms that are due
	stepWait       = "usable; waits before it asks for the members again"
	stepMembers    = "usable; fetches the members"
	stepJudgeAgain = "usable; judges again what came meanwhile"
)

// partials are the joins without members, by room: those under way and those that ended.
type partials struct {
	mu     sync.RWMutex
	byRoom map[string][]*partialJoin // oldest first
	wake   chan struct{}

	metrics completionMetrics
}

// partialJoin is one of them. Guarded by partials.mu but for over.
type partialJoin struct {
	room, user string // user is who joined
	row        store.PartialJoin
	over       context.Context // ends with it
	end        context.CancelFunc
	since      time.Time // of the join, or of the start of this node
	rounds     int       // in which nobody could help
	due        time.Time // when the next one begins
	flight     *flight   // the one under way
	failure    string
}

func (p *partials) init(reg prometheus.Registerer) {
	p.byRoom, p.wake = map[string][]*partialJoin{}, make(chan struct{}, 1)
	p.metrics.init(reg, func() float64 { return float64(len(p.underWayAll())) })
}

func (p *partials) begin(room, user string, row store.PartialJoin, now time.Time) {
	j := &partialJoin{room: room, user: user, row: row, since: now}
	j.over, j.end = context.WithCancel(context.Background())
	if row.To != 0 {
		j.end()
	}
	p.mu.Lock()
	p.byRoom[room] = append(p.byRoom[room], j)
	p.mu.Unlock()
	p.poke()
}

func (p *partials) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// end says that a join ended at a position; who waits for it goes on.
func (p *partials) end(room string, event, pos int64, whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range p.byRoom[room] {
		if j.row.Event == event && j.row.To == 0 {
			j.row.To, j.row.Whole = pos, whole
			j.end()
		}
	}
}

// underWay returns the join of a room that is under way, or nil.
func (p *partials) underWay(room string) *partialJoin {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if list := p.byRoom[room]; len(list) > 0 && list[len(list)-1].row.To == 0 {
		return list[len(list)-1]
	}
	return nil
}

// loadPartials reads the joins without members at a start.
func (s *Server) loadPartials(ctx context.Context) error {
	list, err := s.Store.PartialJoins(ctx)
	if err != nil {
		return err
	}
	for _, row := range list {
		var key store.RoomKey
		var user string
		err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			if key, err = s.Store.RoomByNID(tx, row.Room); err != nil || row.To != 0 {
				return err
			}
			join, err := s.Store.Event(tx, row.Event)
			if err == nil {
				user = join.Event.Sender()
			}
			return err
		})
		if err != nil {
			return err
		}
		s.partials.begin(key.ID, user, row, s.Clock())
	}
	return nil
}

func (p *partials) underWayAll() (list []*partialJoin) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, joins := range p.byRoom {
		if last := joins[len(joins)-1]; last.row.To == 0 {
			list = append(list, last)
		}
	}
	return list
}

// take picks a room to work on that is due, the one that waits longest, or nil.
func (p *partials) take(now time.Time) (next *partialJoin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, joins := range p.byRoom {
		j := joins[len(joins)-1]
		if j.row.To == 0 && j.flight == nil && !j.due.After(now) && (next == nil || j.due.Before(next.due)) {
			next = j
		}
	}
	if next != nil {
		next.flight = &flight{room: next.room, user: next.user, since: next.since, step: stepMembers}
	}
	return next
}

// rest notes that a round is over in which nobody could help.
func (p *partials) rest(j *partialJoin, now time.Time, failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	j.flight = nil
	if failure == nil {
		return
	}
	j.failure = failure.Error()
	j.due = now.Add(min(completeRest<<min(j.rounds, 20), maxRest))
	j.rounds++
}

func (p *partials) isWhole(j *partialJoin) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return j.row.Whole
}

func (p *partials) status() (list []JoinStatus) {
	for _, j := range p.underWayAll() {
		p.mu.RLock()
		st := JoinStatus{Room: j.room, User: j.user, Step: stepWait, Since: j.since}
		if j.flight != nil {
			st = j.flight.status()
		}
		st.Usable, st.Failure = true, j.failure
		p.mu.RUnlock()
		list = append(list, st)
	}
	return list
}

// runCompletions fetches the members of rooms that were joined without them, until ctx ends.
func (s *Server) runCompletions(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, completers)
	tick := time.NewTicker(completeLook)
	defer tick.Stop()
	for {
		for len(slots) < cap(slots) {
			j := s.partials.take(s.Clock())
			if j == nil {
				break
			}
			slots <- struct{}{}
			wg.Go(func() {
				s.completeRoom(ctx, j)
				<-slots
				s.partials.poke()
			})
		}
		select {
		case <-s.partials.wake:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// completeRoom asks servers of a room for its members, one after another until one can help.
func (s *Server) completeRoom(ctx context.Context, j *partialJoin) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(j.over, cancel)() // nobody needs it any more
	f := j.flight
	err := s.completeRound(ctx, j)
	if s.partials.isWhole(j) { // who waited for it may have ended ctx before the round heard of it
		err = nil
	}
	s.partials.rest(j, s.Clock(), err)
	log := s.Log.WithField("room", j.room).WithField("events", f.events.Load())
	switch {
	case err == nil:
		s.partials.metrics.landed(s.Clock().Sub(j.since))
		log.WithField("seconds", s.Clock().Sub(j.since).Seconds()).Info("All members of a room are known that was joined without them")
	case ctx.Err() == nil && !errors.Is(err, errOver):
		s.partials.metrics.failed()
		log.WithError(err).Warn("The members of a room could not be fetched; it is tried again")
	}
}

// errNobody is returned when no server of a room can be asked.
var errNobody = errors.New("no other server of the room is known")

func (s *Server) completeRound(ctx context.Context, j *partialJoin) error {
	key, err := s.Room(ctx, j.room)
	if err != nil {
		return err
	}
	join, err := s.Store.LoadOne(ctx, j.row.Event)
	if err != nil {
		return err
	}
	err = errNobody
	for _, server := range s.memberSources(ctx, j) {
		if err = s.completeThrough(ctx, j.flight, key, join, server); err == nil || ctx.Err() != nil {
			return err
		}
		s.Log.WithError(err).WithField("room", j.room).WithField("server", server).Info("A server could not give the members of a room")
	}
	return err
}

// memberSources lists whom to ask for the members of a room: the server that it was joined through, then others that
// are in it. Each round begins where the last one ended.
func (s *Server) memberSources(ctx context.Context, j *partialJoin) []string {
	list := append([]string{j.row.Through}, j.row.Servers...)
	if joined, err := s.JoinedServers(ctx, j.room); err == nil {
		list = append(list, joined...)
	}
	list = slices.DeleteFunc(dedupe(list), func(name string) bool { return name == "" || name == s.ServerName })
	if len(list) > completeAsk {
		from := j.rounds * completeAsk % len(list)
		list = append(list[from:], list[:from]...)[:completeAsk]
	}
	slices.SortStableFunc(list, func(a, b string) int { return s.downness(a) - s.downness(b) })
	return list
}

func (s *Server) downness(server string) int {
	if s.Down != nil && s.Down(server) {
		return 1
	}
	return 0
}

// completeThrough fetches the state before a join from one server and completes the room with it.
func (s *Server) completeThrough(ctx context.Context, f *flight, key store.RoomKey, join *store.Stored, server string) error {
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	f.at(server, stepMembers)
	var before []*state.Set
	for _, prev := range join.Event.PrevEventIDs() {
		set, err := s.stateAfter(ctx, key, server, prev, &f.events)
		if err != nil {
			return err
		}
		if err := s.sameRoom(ctx, join, set); err != nil {
			return err
		}
		before = append(before, set)
	}
	if len(before) == 0 {
		return fmt.Errorf("%w: the join names no prev events", ErrBadAnswer)
	}
	f.at(server, stepJudgeAgain)
	return s.makeWhole(ctx, key, join.NID, before)
}

// sameRoom refuses a state whose create event is not that of the room which was joined.
func (s *Server) sameRoom(ctx context.Context, join *store.Stored, set *state.Set) error {
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		ref, err := s.Store.Set(tx, join.State)
		if err != nil {
			return err
		}
		tuple, err := s.Store.FindTuple(tx, store.Tuple{Type: "m.room.create"})
		if err != nil {
			return err
		}
		want, _ := ref.Set.Get(tuple)
		if got, ok := set.Get(tuple); !ok || got != want {
			return fmt.Errorf("%w: its state has not the room's m.room.create", ErrBadAnswer)
		}
		return nil
	})
}

// completionMetrics count joins without members.
type completionMetrics struct {
	rounds  *prometheus.CounterVec
	seconds prometheus.Histogram
}

func (m *completionMetrics) init(reg prometheus.Registerer, running func() float64) {
	m.rounds = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "knock_partial_join_rounds_total", Help: "Rounds of asking servers for the members of rooms that were joined without them, by outcome.",
	}, []string{"outcome"})
	m.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "knock_partial_join_seconds", Help: "Time from joins without members, or from a start, until all members were known.",
		Buckets: []float64{.5, 1, 5, 10, 30, 60, 300, 600, 3600},
	})
	if reg != nil {
		reg.MustRegister(m.rounds, m.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "knock_partial_joins_running", Help: "Rooms that are used although not all their members are known.",
		}, running))
	}
}

func (m *completionMetrics) landed(took time.Duration) {
	m.rounds.WithLabelValues("complete").Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *completionMetrics) failed() { m.rounds.WithLabelValues("failed").Inc() }
