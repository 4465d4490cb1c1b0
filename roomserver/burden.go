package roomserver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// InboundLimits bound what other servers' events may cost. Zero values are the
// defaults.
type InboundLimits struct {
	// RoomWaits and OriginWaits are how many events of one server may wait, in a
	// room and in all, before its transactions are answered late. 500 and 2,000.
	RoomWaits, OriginWaits int
	// Full is how many events of a room, or of a server, may wait; half of it of a
	// server in a room. Beyond it events are refused one by one. 10,000.
	Full int
	// Thinking is how long state resolution may take in a minute for the events of
	// one server; they wait once it took five times as long at a stretch. 10 s.
	Thinking time.Duration
	// Turn is how long the events of one server may take before it is the turn of others in
	// their room, and Place how long one of them may take, answers of servers included. 5 s and 2 min.
	Turn, Place time.Duration
}

func (l InboundLimits) orDefault() InboundLimits {
	for field, value := range map[*int]int{&l.RoomWaits: 500, &l.OriginWaits: 2_000, &l.Full: 10_000} {
		if *field <= 0 {
			*field = value
		}
	}
	for field, value := range map[*time.Duration]time.Duration{&l.Thinking: 10 * time.Second, &l.Turn: 5 * time.Second, &l.Place: 2 * time.Minute} {
		if *field <= 0 {
			*field = value
		}
	}
	return l
}

var errInboundFull = errors.New("too many events of the room wait to be placed; send it again later")

// Which bound of the inbound queue is reached, as a metric's label.
const (
	fullRoom   = "room"
	fullOrigin = "origin"
	fullShare  = "share"
)

// fullness is for how many rows the inbound queue has room, and what is full if
// not for all.
type fullness struct {
	rows int
	full string
}

// room tells how many of want rows may be added to a backlog. No server may fill
// a room's queue alone, and a full room leaves the other rooms of a transaction as
// they are: refusing the whole would let one room stop all others, encryption
// included.
func (l InboundLimits) room(n store.Backlog, want int) fullness {
	f := fullness{rows: want}
	for _, b := range []struct {
		name        string
		waits, most int64
	}{{fullRoom, n.Room, int64(l.Full)}, {fullOrigin, n.Origin, int64(l.Full)}, {fullShare, n.Share, int64(l.Full) / 2}} {
		if left := int(max(b.most-b.waits, 0)); left < f.rows {
			f = fullness{left, b.name}
		}
	}
	return f
}

// Bounds of waiting for the inbound queue before a transaction is answered.
const (
	slowFor   = 5 * time.Second
	slowCheck = 100 * time.Millisecond
)

// slow waits while too much of a server waits in the inbound queue: it sends its
// next transaction once this one is answered. What it sent is safe already.
func (s *Server) slow(ctx context.Context, key store.RoomKey, origin string) {
	ctx, cancel := context.WithTimeout(ctx, slowFor)
	defer cancel()
	tick := time.NewTicker(slowCheck)
	defer tick.Stop()
	for first := true; ; first = false {
		var n store.Backlog
		err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			n, err = s.Store.InboundBacklog(tx, key.NID, origin)
			return err
		})
		if err != nil || n.Share <= int64(s.Inbound.RoomWaits) && n.Origin <= int64(s.Inbound.OriginWaits) {
			return
		}
		if first {
			s.bounds.slowed.Inc()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// leftOver is an event for which the inbound queue had no room.
type leftOver struct {
	origin string
	event  *event.Event
}

// Bounds of events that are kept for later, in memory.
const (
	maxLeft      = 8  // of a room
	maxLeftRooms = 64 // rooms
)

// leave notes the newest of the events for which there was no room. What they
// follow is fetched when they come to be placed.
func (s *Server) leave(key store.RoomKey, origin string, refused []*event.Event, full string) {
	if len(refused) == 0 {
		return
	}
	s.bounds.refused.WithLabelValues(full).Add(float64(len(refused)))
	s.intake.mu.Lock()
	defer s.intake.mu.Unlock()
	list, known := s.intake.left[key.NID]
	if !known && len(s.intake.left) >= maxLeftRooms {
		return
	}
	for _, e := range refused {
		prevs := e.PrevEventIDs()
		list = slices.DeleteFunc(list, func(l leftOver) bool {
			return l.event.EventID() == e.EventID() || slices.Contains(prevs, l.event.EventID())
		})
		list = append(list, leftOver{origin, e})
	}
	s.intake.left[key.NID] = list[max(len(list)-maxLeft, 0):]
}

// takeLeft queues what was left, once the room's queue is empty.
func (s *Server) takeLeft(ctx context.Context, key store.RoomKey) {
	s.intake.mu.Lock()
	list := s.intake.left[key.NID]
	delete(s.intake.left, key.NID)
	s.intake.mu.Unlock()
	for _, l := range list {
		if _, err := s.park(ctx, key, l.origin, []*event.Event{l.event}); err != nil {
			s.Log.WithError(err).WithField("room", key.ID).Info("An event that was refused could not be queued")
			return
		}
	}
}

// thinking is how much state resolution the events of servers took lately.
type thinking struct {
	perMinute time.Duration
	mu        sync.Mutex
	spent     map[string]account
}

// account is time that was spent, as of a time.
type account struct {
	spent time.Duration
	at    time.Time
}

// thinkingBurst is how many minutes' allowance may be spent at a stretch.
const thinkingBurst = 5

// left is what of an account is not forgotten at a time.
func (t *thinking) left(a account, now time.Time) time.Duration {
	forgotten := time.Duration(now.Sub(a.at).Minutes() * float64(t.perMinute))
	return max(a.spent-max(forgotten, 0), 0)
}

// over tells whether a server's events took too much. It is quick.
func (t *thinking) over(server string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, ok := t.spent[server]
	return ok && t.left(a, now) > thinkingBurst*t.perMinute
}

// maxAccounts bounds the servers that are remembered.
const maxAccounts = 10_000

func (t *thinking) add(server string, d time.Duration, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a, known := t.spent[server]
	if !known && len(t.spent) >= maxAccounts {
		for name, old := range t.spent {
			if t.left(old, now) < time.Second {
				delete(t.spent, name)
			}
		}
	}
	if known || len(t.spent) < maxAccounts {
		t.spent[server] = account{t.left(a, now) + d, now}
	}
}

// thought notes how long a state resolution took for an event of a server.
func (s *Server) thought(server string, d time.Duration) {
	s.bounds.resolution.Add(d.Seconds())
	if server != "" && server != s.ServerName {
		s.thinking.add(server, d, s.Clock())
	}
}

// boundMetrics count what the bounds did.
type boundMetrics struct {
	refused    *prometheus.CounterVec
	slowed     prometheus.Counter
	heldBack   prometheus.Counter
	resolution prometheus.Counter
}

func (m *boundMetrics) init(reg prometheus.Registerer) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "knock_rooms_" + name, Help: help})
	}
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "knock_rooms_inbound_refused_total", Help: "Events of other servers for which the inbound queue had no room, by what was full.",
	}, []string{"full"})
	m.slowed = counter("inbound_slowed_total", "Transactions that were answered late because much of their server waits in the inbound queue.")
	m.heldBack = counter("inbound_held_back_total", "Times that an event waited because its server's events took much state resolution.")
	m.resolution = counter("state_resolution_seconds_total", "Time spent in state resolution.")
	if reg != nil {
		reg.MustRegister(m.refused, m.slowed, m.heldBack, m.resolution)
	}
}
