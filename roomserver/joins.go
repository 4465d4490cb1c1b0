package roomserver

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of a join through other servers.
const (
	joinTime       = 10 * time.Minute // in all
	joinServerTime = 5 * time.Minute  // with one server
)

// joins are the joins through other servers that are under way, one a room: who
// comes second finds this server in the room, and needs nobody's help. They go on
// when the requests that began them end.
type joins struct {
	mu      sync.Mutex
	flying  map[string]*flight // by room id
	ended   bool
	running sync.WaitGroup
	base    context.Context // ends with the server
	stop    context.CancelFunc
	metrics joinMetrics
}

// flight is one join under way.
type flight struct {
	room, user string
	since      time.Time
	done       chan struct{}
	err        error // read it when done is closed

	events atomic.Int64 // that were received

	mu      sync.Mutex
	server  string
	step    string
	waiting int
}

// The steps of a flight.
const (
	stepBegin = "looks for servers"
	stepMake  = "asks for a template"
	stepSend  = "receives the state"
	stepCheck = "checks signatures and rules"
	stepWrite = "writes the room"
)

var errStopping = errors.New("the server stops")

func (j *joins) init(reg prometheus.Registerer) {
	j.flying = map[string]*flight{}
	j.base, j.stop = context.WithCancel(context.Background())
	j.metrics.init(reg, func() float64 {
		j.mu.Lock()
		defer j.mu.Unlock()
		return float64(len(j.flying))
	})
}

// do runs fn, which joins a user to a room, unless somebody joins the room
// already: then it waits for that, and mine is false. fn outlives ctx.
func (j *joins) do(ctx context.Context, room, user string, fn func(context.Context, *flight) error) (mine bool, err error) {
	f, mine, err := j.board(ctx, room, user, fn)
	if err != nil {
		return mine, err
	}
	select {
	case <-f.done:
		return mine, f.err
	case <-ctx.Done():
		return mine, ctx.Err()
	}
}

func (j *joins) board(ctx context.Context, room, user string, fn func(context.Context, *flight) error) (f *flight, mine bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended {
		return nil, false, errStopping
	}
	if f := j.flying[room]; f != nil {
		f.mu.Lock()
		f.waiting++
		f.mu.Unlock()
		return f, false, nil
	}
	f = &flight{room: room, user: user, since: time.Now(), done: make(chan struct{}), step: stepBegin}
	j.flying[room] = f
	j.running.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), joinTime)
		defer cancel()
		defer context.AfterFunc(j.base, cancel)()
		j.land(f, fn(ctx, f))
	})
	return f, true, nil
}

func (j *joins) land(f *flight, err error) {
	j.mu.Lock()
	delete(j.flying, f.room)
	j.mu.Unlock()
	j.metrics.landed(err, time.Since(f.since))
	f.err = err
	close(f.done)
}

// end breaks joins off that still wait for others, and returns when all are over.
func (j *joins) end() {
	j.mu.Lock()
	j.ended = true
	j.mu.Unlock()
	j.stop()
	j.running.Wait()
}

func (f *flight) at(server, step string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server != server {
		f.events.Store(0)
	}
	f.server, f.step = server, step
}

// JoinStatus tells how far a join through other servers is.
type JoinStatus struct {
	Room    string    `json:"room_id"`
	User    string    `json:"user_id"`
	Server  string    `json:"server"` // that is asked now
	Step    string    `json:"step"`
	Events  int64     `json:"events"`            // received from that server
	Waiting int       `json:"waiting"`           // users who wait for this join to join, too
	Usable  bool      `json:"usable"`            // the user is in the room; its members are fetched
	Failure string    `json:"failure,omitempty"` // why fetching them failed last
	Since   time.Time `json:"-"`
}

func (f *flight) status() JoinStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return JoinStatus{Room: f.room, User: f.user, Server: f.server, Step: f.step, Events: f.events.Load(), Waiting: f.waiting, Since: f.since}
}

// Joins lists the joins through other servers that are under way, those of rooms that are used but lack members among
// them, oldest first.
func (s *Server) Joins() []JoinStatus {
	list := s.partials.status()
	s.joins.mu.Lock()
	defer s.joins.mu.Unlock()
	for _, f := range s.joins.flying {
		list = append(list, f.status())
	}
	slices.SortFunc(list, func(a, b JoinStatus) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Room, b.Room)) })
	return list
}

// joinMetrics count joins through other servers.
type joinMetrics struct {
	joins   *prometheus.CounterVec
	seconds prometheus.Histogram
}

func (m *joinMetrics) init(reg prometheus.Registerer, running func() float64) {
	m.joins = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "knock_remote_joins_total", Help: "Joins through other servers, by outcome.",
	}, []string{"outcome"})
	m.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "knock_remote_join_seconds", Help: "Time of joins through other servers that succeeded.",
		Buckets: []float64{.1, .5, 1, 5, 10, 30, 60, 120, 300, 600},
	})
	if reg != nil {
		reg.MustRegister(m.joins, m.seconds, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "knock_remote_joins_running", Help: "Joins through other servers that are under way.",
		}, running))
	}
}

func (m *joinMetrics) landed(err error, took time.Duration) {
	outcome := "joined"
	if err != nil {
		outcome = "failed"
	} else {
		m.seconds.Observe(took.Seconds())
	}
	m.joins.WithLabelValues(outcome).Inc()
}
