// Package send owns what goes to other servers: for each destination how far the event log was delivered to it, a small
// buffer of new events, and the EDUs that wait. The event log itself is the queue: what is not in a buffer is read from
// there, so that nothing is lost over an outage or a restart.
package send

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/federationapi/client"
	"knock/internal/clock"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Client sends transactions; client.Client does.
type Client interface {
	SendTransaction(ctx context.Context, server, txnID string, t *client.Transaction) (refused map[string]string, err error)
	// Wait is how long the server should be left alone.
	Wait(server string) time.Duration
}

// Options configure a Sender.
type Options struct {
	ServerName string
	Store      *store.Store
	Hub        *stream.Hub
	Client     Client
	Parallel   int // transactions under way at once; 0 is 512
	// RetireAfter is how long nothing may be heard of a server before it counts as gone; 0 is for ever.
	RetireAfter time.Duration
	// Keep tells the servers that never count as gone and are always tried again soon; nil is none.
	Keep func(server string) bool
	// Back hears of servers that took a transaction after they could not be reached, or after we started. It must not
	// block; nil: nobody.
	Back func(server string)

	Clock      clock.Clock           // nil is the machine's
	Log        *logrus.Entry         // nil is the standard logger
	Registerer prometheus.Registerer // nil: no metrics
}

// saveInterval is how often cursors are written. What was delivered since is sent again after a crash, and the
// receivers know it.
const saveInterval = time.Second

// Sender sends to other servers. It is roomserver's Outbound and Participant and ephemeral's Outbox.
type Sender struct {
	o       Options
	boot    string // makes transaction ids differ from those before a restart
	txns    atomic.Int64
	slots   chan struct{}
	metrics *metrics

	mu       sync.Mutex
	dests    map[string]*destination
	ctx      context.Context // of the workers; nil unless Run runs
	stopping bool
	workers  sync.WaitGroup
	early    []*destination // wanted a worker before Run

	in      intake
	edus    eduIntake
	durable Durable // nil: there are none
	passing Passing // nil: there is none
	sticky  Sticky  // nil: there is none
	marks   marks
	retired chan struct{} // a server has just been retired
}

var (
	_ roomserver.Outbound    = (*Sender)(nil)
	_ roomserver.Participant = (*Sender)(nil)
)

// New makes a Sender. Run does the work.
func New(o Options) *Sender {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if o.Parallel <= 0 {
		o.Parallel = 512
	}
	if o.Keep == nil {
		o.Keep = func(string) bool { return false }
	}
	if o.Back == nil {
		o.Back = func(string) {}
	}
	s := &Sender{
		o: o, boot: strconv.FormatInt(o.Clock().UnixNano(), 36), slots: make(chan struct{}, o.Parallel), metrics: newMetrics(o.Registerer),
		dests: map[string]*destination{}, retired: make(chan struct{}, 1),
		in:   intake{wake: make(chan struct{}, 1)},
		edus: eduIntake{wake: make(chan struct{}, 1), typing: map[typingKey]bool{}, receipts: map[receiptKey]receipt{}, presence: map[string]presence{}, newcomers: map[newcomer]int64{}},
	}
	o.Store.DB.OnPublish(s.published)
	return s
}

// destination finds or makes a destination.
func (s *Sender) destination(name string) *destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dests[name]
	if d == nil {
		d = newDestination(s, name)
		s.dests[name] = d
	}
	return d
}

// known finds a destination; nil for a server that we have nothing to do with.
func (s *Sender) known(name string) *destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dests[name]
}

func (s *Sender) all() []*destination {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*destination, 0, len(s.dests))
	for _, d := range s.dests {
		list = append(list, d)
	}
	return list
}

// spawn runs a destination's worker; there is one at most, which the destination sees to.
func (s *Sender) spawn(d *destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping:
	case s.ctx == nil:
		s.early = append(s.early, d)
	default:
		ctx := s.ctx
		s.workers.Go(func() { d.work(ctx) })
	}
}

func (s *Sender) txnID() string {
	return s.boot + "-" + strconv.FormatInt(s.txns.Add(1), 36)
}

// queued is a new event for other servers.
type queued struct {
	pos     int64
	event   *event.Event
	servers []string
}

// intake takes new events from the database's writer, which must not wait.
type intake struct {
	mu     sync.Mutex
	events []queued
	under  int64 // position of the oldest event that is being handed out; 0 for none
	wake   chan struct{}
}

// Send implements roomserver.Outbound. It is called in the order of positions, before they are published.
func (s *Sender) Send(pos int64, _ string, e *event.Event, servers []string) {
	s.in.mu.Lock()
	s.in.events = append(s.in.events, queued{pos, e, servers})
	s.in.mu.Unlock()
	signal(s.in.wake)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// handOut puts new events into the queues of their destinations.
func (s *Sender) handOut() {
	s.in.mu.Lock()
	events := s.in.events
	s.in.events = nil
	if len(events) > 0 {
		s.in.under = events[0].pos
	}
	s.in.mu.Unlock()
	for _, q := range events {
		for _, server := range q.servers {
			s.destination(server).push(q.pos, q.event)
		}
	}
	s.in.mu.Lock()
	s.in.under = 0
	s.in.mu.Unlock()
}

// horizon is a position up to which every event has reached the queues of its destinations.
func (s *Sender) horizon() int64 {
	pos := s.o.Hub.Published()
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if s.in.under > 0 {
		pos = min(pos, s.in.under-1)
	}
	if len(s.in.events) > 0 {
		pos = min(pos, s.in.events[0].pos-1)
	}
	return pos
}
