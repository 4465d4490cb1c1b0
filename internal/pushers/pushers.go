package pushers

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
)

// Options are what a Service needs.
type Options struct {
	DB         *sqldb.DB
	Hub        *stream.Hub
	Rooms      *roomserver.Server
	Rules      *pushrules.Service
	ServerName string
	// Ignored returns whom a user ignores; nil: nobody.
	Ignored func(ctx context.Context, user string) (map[string]struct{}, error)

	Client *http.Client // must refuse addresses that strangers may not make us call, and follow no redirects

	Mail    Mailer // nil: there are no pushers that send e-mails
	BaseURL string // of links in e-mails
	// OwnsEmail says whether an address, in any spelling, is a user's; nil without Mail.
	OwnsEmail func(ctx context.Context, user, address string) (bool, error)
	MailDelay time.Duration // how long a message lies unread before an e-mail tells of it; 0 is 10 min

	Timeout    time.Duration // of one request; 0 is 15 s
	GiveUp     time.Duration // a notification that could not be delivered for so long is dropped; 0 is 24 h
	Retry      time.Duration // first back-off, doubled up to an hour; 0 is 1 s
	PerGateway int           // requests at once to one gateway; 0 is 16
	Save       time.Duration // how often positions are written; 0 is 1 s

	Clock      clock.Clock // nil: the system's
	Log        *logrus.Entry
	Registerer prometheus.Registerer // nil: no metrics
}

// Service owns the pushers of local users and delivers their notifications.
type Service struct {
	o       Options
	sub     *stream.Subscription
	wake    chan struct{} // something was published
	metrics *metrics

	mu       sync.RWMutex
	byUser   map[string][]*lane
	lanes    map[int64]*lane
	gateways map[string]chan struct{} // slots by host
	changed  map[string]bool          // users whose counts may have changed
	running  bool
	workers  sync.WaitGroup
	ctx      context.Context // of the workers, while Run runs

	looked atomic.Int64 // position up to which events were looked at
	saved  int64        // what the database says of it; Run's own
}

// New makes a Service. Load it before the first event, and Run it.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	setDefault(&o.Timeout, 15*time.Second)
	setDefault(&o.GiveUp, 24*time.Hour)
	setDefault(&o.Retry, time.Second)
	setDefault(&o.Save, time.Second)
	setDefault(&o.MailDelay, 10*time.Minute)
	if o.PerGateway == 0 {
		o.PerGateway = 16
	}
	return &Service{o: o, sub: o.Hub.Subscribe(subscription), wake: make(chan struct{}, 1), metrics: newMetrics(o.Registerer),
		byUser: map[string][]*lane{}, lanes: map[int64]*lane{}, gateways: map[string]chan struct{}{}, changed: map[string]bool{}}
}

func setDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// subscription is how many events may wait to be looked at; with more they are
// found in the database.
const subscription = 4096

// Load reads the pushers and what waits for them.
func (s *Service) Load(ctx context.Context) error {
	return s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		pushers, err := sqldb.Collect(tx, selectAll, scanPusher)
		if err != nil {
			return err
		}
		for _, p := range pushers {
			s.adopt(p)
		}
		waiting, err := sqldb.Collect(tx, selectQueue, scanNotice)
		if err != nil {
			return err
		}
		for _, n := range waiting {
			if l := s.lanes[n.pusher]; l != nil {
				l.pending = append(l.pending, n.notice)
			}
		}
		s.saved, err = readCursor(tx)
		s.looked.Store(max(s.saved, oldest(pushers, s.o.Hub.Published())))
		return err
	})
}

// oldest is when the first of pushers was made: nobody wants events from before.
func oldest(pushers []*Pusher, now int64) int64 {
	for _, p := range pushers {
		now = min(now, p.since)
	}
	return now
}

// adopt takes in a pusher that was made or changed.
func (s *Service) adopt(p *Pusher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lanes[p.nid]; l != nil {
		l.change(p)
		return
	}
	l := newLane(s, p)
	s.lanes[p.nid] = l
	s.byUser[p.user] = append(s.byUser[p.user], l)
}

// forget drops pushers that were deleted.
func (s *Service) forget(nids []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, nid := range nids {
		l := s.lanes[nid]
		if l == nil {
			continue
		}
		l.close()
		delete(s.lanes, nid)
		rest := slices.DeleteFunc(slices.Clone(s.byUser[l.user]), func(other *lane) bool { return other == l })
		if len(rest) == 0 {
			delete(s.byUser, l.user)
		} else {
			s.byUser[l.user] = rest
		}
	}
}

// lanesOf returns a user's lanes; the slice is never changed in place by forget.
func (s *Service) lanesOf(user string) []*lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byUser[user]
}

func (s *Service) allLanes() []*lane {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		out = append(out, l)
	}
	return out
}

// recipients returns the local members of a room who have pushers, from the
// smaller of both sets.
func (s *Service) recipients(room string) (users []string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.byUser) == 0 {
		return nil
	}
	if len(s.byUser) < s.o.Hub.JoinedCount(room) {
		for u := range s.byUser {
			if s.o.Hub.IsJoined(u, room) {
				users = append(users, u)
			}
		}
		return users
	}
	for _, u := range s.o.Hub.JoinedUsers(room) {
		if len(s.byUser[u]) > 0 {
			users = append(users, u)
		}
	}
	return users
}

// Published says that a position was published. It is on the writer's goroutine.
func (s *Service) Published(int64) {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// CountsChanged says that a user's unread counts may have become others: they
// read something, left a room or changed their rules. It is on the writer's
// goroutine.
func (s *Service) CountsChanged(user string) {
	s.mu.RLock()
	some := len(s.byUser[user]) > 0
	s.mu.RUnlock()
	if some {
		s.mu.Lock()
		s.changed[user] = true
		s.mu.Unlock()
	}
}

func (s *Service) takeChanged() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.changed) == 0 {
		return nil
	}
	m := s.changed
	s.changed = map[string]bool{}
	return m
}

// slots are those of a gateway.
func (s *Service) slots(host string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.gateways[host]
	if c == nil {
		if len(s.gateways) > maxGateways {
			clear(s.gateways) // requests under way keep the old ones
		}
		c = make(chan struct{}, s.o.PerGateway)
		s.gateways[host] = c
	}
	return c
}

const maxGateways = 10_000

// spawn runs a lane's worker, while Run runs.
func (s *Service) spawn(l *lane) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.running {
		return false
	}
	s.workers.Add(1)
	go func() {
		defer s.workers.Done()
		l.work(s.ctx)
	}()
	return true
}
