// Package agree owns the care that servers see the same end of the rooms they share, although nothing is being sent: it
// compares forward extremities (docs/decisions/0007) with each server that is back after it could not be reached, and
// with some server of each room now and then, and has the room server fetch what is missing here. It tells the other
// side nothing: that does the same for itself.
package agree

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/roomserver"
)

// Rooms compares and repairs rooms; roomserver.Server does.
type Rooms interface {
	// SharedWith and Federated list rooms in the order of their numbers.
	SharedWith(ctx context.Context, server string, after int64, limit int) (rooms []string, next int64, err error)
	Federated(ctx context.Context, after int64, limit int) (rooms map[string][]string, next int64, err error)
	Reconcile(ctx context.Context, server, roomID string) (roomserver.Comparison, error)
}

// Options configure a Keeper.
type Options struct {
	Rooms Rooms
	// Reachable tells whether a server is worth asking now.
	Reachable func(server string) bool
	// Settle is how long after a server's return its rooms are compared, so that what both queued comes first; 0 is 30 s.
	Settle time.Duration
	// Pace is the time between two steps of the round through all rooms; 0 is a minute.
	Pace time.Duration

	Log        *logrus.Entry         // nil is the standard logger
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	maxReturned = 1000 // servers that wait to be compared with
	returnRooms = 500  // rooms compared after a return
	stepRooms   = 10   // rooms compared in a step
	restSteps   = 15   // between two rounds
	askTime     = time.Minute
)

// Keeper compares.
type Keeper struct {
	o       Options
	metrics *prometheus.CounterVec

	mu       sync.Mutex
	returned map[string]time.Time // when to compare with servers that came back
	wake     chan struct{}
}

// New makes a Keeper. Run does the work.
func New(o Options) *Keeper {
	if o.Settle <= 0 {
		o.Settle = 30 * time.Second
	}
	if o.Pace <= 0 {
		o.Pace = time.Minute
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	k := &Keeper{o: o, returned: map[string]time.Time{}, wake: make(chan struct{}, 1),
		metrics: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "knock_federation_comparisons_total",
			Help: "Rooms whose end was compared with another server's, by result: same, ahead (nothing is missing here), behind (something was fetched), failed.",
		}, []string{"result"})}
	if o.Registerer != nil {
		o.Registerer.MustRegister(k.metrics)
	}
	return k
}

// Back says that a server can be reached again. It does not block.
func (k *Keeper) Back(server string) {
	k.mu.Lock()
	if len(k.returned) < maxReturned {
		k.returned[server] = time.Now().Add(k.o.Settle)
	}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run compares until ctx ends: servers that came back and, beside them, all rooms in turn.
func (k *Keeper) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() { k.compareReturned(ctx) })
	k.goRound(ctx)
	loops.Wait()
	return nil
}

// compareReturned compares rooms with servers that came back.
func (k *Keeper) compareReturned(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		server, wait := k.nextReturned()
		if server != "" {
			k.compareAll(ctx, server)
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-k.wake:
		case <-ctx.Done():
			return
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// nextReturned takes a server whose time has come, or says how long the next one has to wait.
func (k *Keeper) nextReturned() (server string, wait time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait = time.Hour
	for name, at := range k.returned {
		left := time.Until(at)
		if left <= 0 {
			delete(k.returned, name)
			return name, 0
		}
		wait = min(wait, left)
	}
	return "", wait
}

// compareAll compares the rooms that a server shares with us.
func (k *Keeper) compareAll(ctx context.Context, server string) {
	for after, n := int64(0), 0; n < returnRooms && ctx.Err() == nil; {
		rooms, next, err := k.o.Rooms.SharedWith(ctx, server, after, 100)
		if err != nil {
			k.failed(ctx, server, "", err)
			return
		}
		if len(rooms) == 0 {
			return
		}
		for _, room := range rooms {
			if !k.o.Reachable(server) {
				return // it will be back
			}
			k.compare(ctx, server, room)
		}
		after, n = next, n+len(rooms)
	}
}

// goRound compares all rooms in turn, each with some server that is in it, a few at a time and with a rest after each
// round.
func (k *Keeper) goRound(ctx context.Context) {
	tick := time.NewTicker(k.o.Pace)
	defer tick.Stop()
	after, rest := int64(0), restSteps
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if rest > 0 {
			rest--
			continue
		}
		rooms, next, err := k.o.Rooms.Federated(ctx, after, stepRooms)
		if err != nil {
			k.failed(ctx, "", "", err)
			continue
		}
		for room, servers := range rooms {
			if server := k.choose(servers); server != "" {
				k.compare(ctx, server, room)
			}
		}
		if after = next; len(rooms) < stepRooms {
			after, rest = 0, restSteps
		}
	}
}

// choose picks a server that can be reached, if one of a few does.
func (k *Keeper) choose(servers []string) string {
	for range min(len(servers), 5) {
		if server := servers[rand.IntN(len(servers))]; k.o.Reachable(server) {
			return server
		}
	}
	return ""
}

func (k *Keeper) compare(ctx context.Context, server, room string) {
	if ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := k.o.Rooms.Reconcile(ctx, server, room)
	switch {
	case err != nil:
		k.failed(ctx, server, room, err)
	case len(c.Missing) > 0:
		k.metrics.WithLabelValues("behind").Inc()
		k.o.Log.WithField("server", server).WithField("room", room).WithField("events", len(c.Missing)).
			Info("Another server has newer events of a room; they were fetched")
	case c.Same():
		k.metrics.WithLabelValues("same").Inc()
	default:
		k.metrics.WithLabelValues("ahead").Inc()
	}
}

func (k *Keeper) failed(ctx context.Context, server, room string, err error) {
	if ctx.Err() == context.Canceled {
		return
	}
	k.metrics.WithLabelValues("failed").Inc()
	k.o.Log.WithError(err).WithField("server", server).WithField("room", room).Debug("A room could not be compared")
}
