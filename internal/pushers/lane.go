package pushers

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"
)

// notice is a notification that waits.
type notice struct {
	pos    int64
	event  int64 // number
	tweaks []byte
	ts     int64 // when the event was looked at, ms
	stored bool  // there is a row
}

func encodeTweaks(tweaks map[string]json.RawMessage) []byte {
	if len(tweaks) == 0 {
		return []byte("{}")
	}
	b, err := json.Marshal(tweaks)
	if err != nil {
		return []byte("{}") // they were parsed from JSON: it cannot be
	}
	return b
}

// maxWaiting bounds a lane: a device that was out of reach wants the newest.
const maxWaiting = 100

// lane delivers one pusher's notifications, one after another.
type lane struct {
	s    *Service
	nid  int64
	user string

	mu      sync.Mutex
	p       *Pusher
	pending []notice
	done    []int64 // positions of rows that are not needed any more
	want    *int64  // badge to send
	told    *int64  // badge that the gateway knows
	working bool
	closed  bool
	mailed  int64         // when the last e-mail went, ms
	gap     time.Duration // how long after it the next one may go; 0 when all was read
	failing int           // requests in a row
	stir    chan struct{} // ends a pause: the pusher was changed or deleted
}

func newLane(s *Service, p *Pusher) *lane {
	return &lane{s: s, nid: p.nid, user: p.user, p: p, stir: make(chan struct{}, 1)}
}

func (l *lane) pusher() *Pusher {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.p
}

// change takes the pusher's new data; what failed may work now.
func (l *lane) change(p *Pusher) {
	l.mu.Lock()
	l.p, l.failing, l.told = p, 0, nil
	l.mu.Unlock()
	l.nudge()
}

func (l *lane) close() {
	l.mu.Lock()
	l.closed, l.pending, l.want = true, nil, nil
	l.mu.Unlock()
	l.nudge()
}

func (l *lane) nudge() {
	select {
	case l.stir <- struct{}{}:
	default:
	}
}

func (l *lane) add(n notice) {
	l.mu.Lock()
	if !l.closed {
		l.pending = append(l.pending, n)
		if len(l.pending) > maxWaiting {
			l.dropLocked(1)
		}
	}
	l.mu.Unlock()
	l.start()
}

// dropLocked gives up a notice. The first one may be on its way.
func (l *lane) dropLocked(at int) {
	l.s.metrics.dropped.Inc()
	l.doneLocked(at)
}

func (l *lane) doneLocked(at int) {
	if l.pending[at].stored {
		l.done = append(l.done, l.pending[at].pos)
	}
	l.pending = slices.Delete(l.pending, at, at+1)
}

// badge sends a count, unless the gateway has it.
func (l *lane) badge(n int64) {
	l.mu.Lock()
	if l.closed || l.p.noBadge() || l.told != nil && *l.told == n {
		l.want = nil
		l.mu.Unlock()
		return
	}
	l.want = &n
	l.mu.Unlock()
	l.start()
}

// start runs the worker when there is work for it.
func (l *lane) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.working && !l.closed && (len(l.pending) > 0 || l.want != nil) {
		l.working = l.s.spawn(l)
	}
}

// work delivers until there is nothing left.
func (l *lane) work(ctx context.Context) {
	for {
		wait, more := l.step(ctx)
		if !more {
			return
		}
		if wait > 0 && !l.pause(ctx, wait) {
			l.mu.Lock()
			l.working = false
			l.mu.Unlock()
			return
		}
	}
}

func (l *lane) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.stir:
	case <-ctx.Done():
		return false
	}
	return true
}

// step delivers the first notice, or the badge. It returns how long to wait
// before the next step.
func (l *lane) step(ctx context.Context) (wait time.Duration, more bool) {
	p, n, badge := l.next(ctx)
	if p == nil {
		return 0, false
	}
	if p.Kind == KindEmail {
		return l.mailStep(ctx, p), true
	}
	var err error
	var d delivery
	request, cancel := lingering(ctx)
	if n != nil {
		d, err = l.s.push(request, p, n, l.retried())
	} else {
		d, err = l.s.pushBadge(request, p, *badge)
	}
	cancel()
	if ctx.Err() != nil && err != nil {
		return time.Hour, true // pause ends at once; the notice waits in the table
	}
	return l.after(ctx, n, d, err), true
}

// stopGrace is how long a request that is under way may last when the node stops: cut off, it would be sent again.
const stopGrace = 2 * time.Second

// lingering is a context that ends a moment after ctx.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() { time.AfterFunc(stopGrace, cancel) })
	return longer, func() {
		forget()
		cancel()
	}
}

func (l *lane) retried() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failing > 0 || len(l.pending) > 0 && l.pending[0].stored
}

// next returns what comes next; without anything the worker has ended.
func (l *lane) next(ctx context.Context) (*Pusher, *notice, *int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := l.s.o.Clock.Millis() - l.s.o.GiveUp.Milliseconds()
	for len(l.pending) > 0 && l.pending[0].ts < limit {
		l.dropLocked(0)
	}
	if l.closed || ctx.Err() != nil || len(l.pending) == 0 && l.want == nil {
		l.working = false
		return nil, nil, nil
	}
	if len(l.pending) > 0 {
		n := l.pending[0]
		return l.p, &n, nil
	}
	return l.p, nil, l.want
}

// maxPause bounds the back-off.
const maxPause = time.Hour

// after settles a delivery and returns how long to wait.
func (l *lane) after(ctx context.Context, n *notice, d delivery, err error) time.Duration {
	if d.rejected {
		return l.s.reject(ctx, l)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failing++
		l.s.metrics.failed.Inc()
		l.s.o.Log.WithError(err).WithField("user", l.user).WithField("app", l.p.AppID).WithField("failures", l.failing).
			Debug("A push gateway could not be reached; it is tried again")
		return max(min(l.s.o.Retry<<min(l.failing-1, 20), maxPause), d.retryAfter)
	}
	l.failing = 0
	if n != nil && len(l.pending) > 0 && l.pending[0].pos == n.pos {
		l.doneLocked(0)
	}
	if d.sent {
		l.s.metrics.sent.Inc()
		told := d.badge
		l.told = &told
		if l.want != nil && (n == nil || *l.want == told) {
			l.want = nil
		}
	}
	return 0
}

// unsaved returns what must be written: notices without a row, and the rows that
// are not needed any more.
func (l *lane) unsaved() (add []notice, done []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.pending {
		if !n.stored {
			add = append(add, n)
		}
	}
	return add, slices.Clone(l.done)
}

// savedRows takes note of a save. What was delivered meanwhile has a row to delete.
func (l *lane) savedRows(add []notice, done []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = slices.DeleteFunc(l.done, func(pos int64) bool { return slices.Contains(done, pos) })
	for _, n := range add {
		at := slices.IndexFunc(l.pending, func(other notice) bool { return other.pos == n.pos })
		if at >= 0 {
			l.pending[at].stored = true
		} else {
			l.done = append(l.done, n.pos)
		}
	}
}
