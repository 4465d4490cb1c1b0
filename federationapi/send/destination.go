package send

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"knock/federationapi/client"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Bounds of one destination.
const (
	maxPDUs      = 50 // in a transaction
	maxLive      = 500
	firstBackoff = time.Second
	lastBackoff  = 5 * time.Minute
	// deniedAgain is how often it is looked how long a server is denied already; only a restart can allow it again.
	deniedAgain = time.Hour
)

// destination is one other server. At most one worker runs for it, and only while there is something to send: it makes
// one transaction after the other. A transaction that was not answered is kept and sent again as it was.
type destination struct {
	s    *Sender
	name string

	mu      sync.Mutex
	running bool        // a worker runs
	timer   *time.Timer // starts one after a failure; nil when none is set

	loaded bool  // cursor is known
	cursor int64 // everything up to here was delivered
	stored int64 // what the database says of cursor
	latest int64 // newest event for this server that was seen

	live    []pending   // new events after cursor, all there are unless behind
	behind  bool        // events after cursor are to be read from the log
	backlog []store.Due // the part of it that was listed
	until   int64       // up to where; 0 when nothing was listed

	extra    []extra
	durable  durable
	edus     eduQueue
	hello    bool   // say that we are back
	tried    func() // told of the end of the first attempt after a start; nil: nobody
	retry    *outgoing
	failures int // since the last success or sign of life
	failedAt time.Time
	retryAt  time.Time // when timer starts a worker
	apart    bool      // it may not have been reached, by us or at all
	missed   int64     // EDUs about what came after this position may not have arrived; 0: all did
	reminded int64     // those that were missed after this position are under way; 0: none are

	standing       standing
	storedStanding standing
	succeeded      int64  // when a transaction was last answered, in milliseconds since 1970; 0: not since the start
	lastError      string // of the last failure
	limit          int    // events in a transaction; lowered while the other server refuses whole ones
}

// pending is one event that waits in memory.
type pending struct {
	pos   int64
	event *event.Event
}

// outgoing is a transaction and what its answer settles.
type outgoing struct {
	id     string
	t      *client.Transaction
	upTo   int64 // cursor after it; 0: as it was
	listed int   // entries of the backlog that it takes
	// durable is how many EDUs that must arrive it takes, and told the position up to which they then all have.
	durable int
	told    int64
	extra   map[string]extra // those of the events that are older, by id
}

func newDestination(s *Sender, name string) *destination {
	return &destination{s: s, name: name, behind: true, limit: maxPDUs, edus: newEDUQueue(),
		durable: durable{unread: true}}
}

// push takes a new event.
func (d *destination) push(pos int64, e *event.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if pos <= d.cursor || pos <= d.latest {
		return
	}
	d.latest = pos
	switch {
	case d.behind, d.standing.retired:
		d.behind = true
	case len(d.live) == maxLive:
		d.fallBehind()
	default:
		d.live = append(d.live, pending{pos, e})
	}
	d.kick()
}

// fallBehind leaves what waits to the log.
func (d *destination) fallBehind() {
	d.behind, d.live, d.backlog, d.until = true, nil, nil, 0
}

// start looks what waits in the log. hello has the other server told that we are back even when nothing does, unless it
// has heard of us already. tried is called once it took a transaction, or failed to, or there was nothing to do.
func (d *destination) start(hello bool, tried func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hello, d.tried = hello && d.apart, tried
	if d.kick(); !d.running {
		d.wasTried()
	}
}

func (d *destination) tryEnded() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wasTried()
}

// wasTried ends the first attempt after a start; d.mu is held.
func (d *destination) wasTried() {
	if d.tried != nil {
		d.tried()
		d.tried = nil
	}
}

// begin notes that a server may not know that we are there, and tells whether it failed when we stopped.
func (d *destination) begin(apart bool) (failing bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.apart = d.apart || apart
	return d.standing.failing > 0
}

// kick has a worker run, unless the destination is left alone, for a while or for good. The caller holds d.mu.
func (d *destination) kick() {
	if d.running || d.timer != nil || d.standing.retired {
		return
	}
	d.running = true
	d.s.spawn(d)
}

// stopTimer tells whether one ran.
func (d *destination) stopTimer() bool {
	ran := d.timer != nil
	if ran {
		d.timer.Stop()
		d.timer = nil
	}
	return ran
}

// disarm stops a pending retry for good.
func (d *destination) disarm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopTimer()
}

// work sends until nothing is left or the other server fails.
func (d *destination) work(ctx context.Context) {
	defer d.tryEnded()
	for {
		out, err := d.next(ctx)
		if err != nil {
			d.pause(ctx, err, nil)
			return
		}
		if out == nil {
			return
		}
		if err := d.deliver(ctx, out); err != nil {
			d.pause(ctx, err, out)
			return
		}
		if err := d.told(ctx, out); err != nil {
			d.pause(ctx, err, nil)
			return
		}
		if d.settle(out) {
			d.s.o.Back(d.name)
		}
	}
}

// deliver sends one transaction, when it is its turn among all.
func (d *destination) deliver(ctx context.Context, out *outgoing) error {
	select {
	case d.s.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.s.slots }()
	refused, err := d.s.o.Client.SendTransaction(ctx, d.name, out.id, out.t)
	if err != nil && len(out.t.PDUs)+len(out.t.EDUs) <= 1 && d.blames(ctx, err) {
		d.s.o.Log.WithError(err).WithField("server", d.name).Warn("A server refuses an event as it stands; it is left out")
		err = nil
	}
	if err != nil {
		return err
	}
	for id, reason := range refused {
		d.s.o.Log.WithField("server", d.name).WithField("event", id).WithField("reason", reason).Info("A server refused an event")
	}
	d.refusedExtra(out, refused)
	d.s.metrics.sent(out.t)
	return nil
}

// indigestible tells whether the answer, or the client before it sends, says that the transaction itself is wrong, so that it will not pass later. A
// signature that does not hold is either ours or, with servers that write JSON in another way, of this content.
func indigestible(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Kind == client.KindUnsent || answered(err, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnauthorized)
}

func answered(err error, codes ...int) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Matrix != nil && slices.Contains(codes, e.Code)
}

// blames tells whether a transaction of one event or EDU at most failed because of it: one without any passes then.
func (d *destination) blames(ctx context.Context, err error) bool {
	if !answered(err, http.StatusUnauthorized) {
		return indigestible(err)
	}
	empty := &client.Transaction{Origin: d.s.o.ServerName, TS: d.s.o.Clock.Millis(), PDUs: []json.RawMessage{}}
	_, err = d.s.o.Client.SendTransaction(ctx, d.name, d.s.txnID(), empty)
	return err == nil
}

// settle notes that a transaction was answered, and tells whether the server is back with it.
func (d *destination) settle(out *outgoing) (back bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures, d.limit = 0, min(2*d.limit, maxPDUs)
	d.succeeded = d.s.o.Clock.Millis()
	d.standing.heard, d.standing.failing = d.succeeded, 0
	if d.durable.edus = d.durable.edus[out.durable:]; out.durable == 0 {
		d.retry = nil
	}
	d.passed(out)
	if d.edus.empty() && len(out.t.EDUs) > out.durable {
		d.reminded = 0
	}
	d.wasTried()
	back, d.apart = d.apart, false
	return back
}

// passed moves the cursor over what a transaction took; d.mu is held.
func (d *destination) passed(out *outgoing) {
	d.cursor = max(d.cursor, out.upTo)
	if d.behind && d.until > 0 {
		d.backlog = d.backlog[min(out.listed, len(d.backlog)):]
	}
}

// pause ends the worker after a failure and sets the time of the next attempt. EDUs are not kept for a server that is
// down, and events wait in the log.
func (d *destination) pause(ctx context.Context, err error, out *outgoing) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = false
	if out != nil && len(out.t.PDUs) > 0 {
		d.retry = out
	}
	if ctx.Err() != nil {
		return
	}
	d.s.metrics.failed.Inc()
	d.fails(err)
	d.edus.clear()
	if d.missed == 0 {
		d.missed = d.s.marks.earlier()
	}
	if d.reminded > 0 {
		d.missed, d.reminded = min(d.missed, d.reminded), 0
	}
	if len(d.live) > 0 {
		d.fallBehind()
	}
	if out != nil && indigestible(err) {
		d.retry, d.limit = nil, 1
		d.fallBehind()
	}
	if d.standing.retired {
		d.s.o.Log.WithError(err).WithField("server", d.name).Warn("A server was silent for so long that it counts as gone; it is left alone until it calls")
		return
	}
	wait := d.patience(err)
	d.s.o.Log.WithError(err).WithField("server", d.name).WithField("wait", wait).Info("A server could not be reached; it is tried again")
	d.timer, d.retryAt = time.AfterFunc(wait, d.again), d.failedAt.Add(wait)
}

// patience is the time until the next attempt after a failure; d.mu is held.
func (d *destination) patience(err error) time.Duration {
	if denied(err) {
		return deniedAgain
	}
	if wait := d.s.o.Client.Wait(d.name); wait > 0 {
		return wait
	}
	wait := min(firstBackoff<<min(d.failures-1, 20), lastBackoff)
	return wait - rand.N(wait/5+1)
}

// denied tells whether the configuration keeps us from speaking to a server: what is for it waits as for one that is
// down, for it may be allowed again, and no longer.
func denied(err error) bool {
	var e *client.Error
	return errors.As(err, &e) && e.Kind == client.KindDenied
}

// again starts a worker after a pause.
func (d *destination) again() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer == nil {
		return // stopped as it fired
	}
	d.timer = nil
	d.kick()
}

// toSave returns what is to be written. A destination without anything to send has got everything up to the horizon,
// which is only worth writing at the end or along with more.
func (d *destination) toSave(horizon int64, last bool) (row, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.loaded {
		return row{}, false
	}
	idle := !d.behind && len(d.live) == 0 && d.retry == nil && !d.running
	if (last || d.cursor > d.stored) && idle {
		d.cursor = max(d.cursor, horizon)
	}
	due := d.cursor > d.stored || d.standing.worthWriting(d.storedStanding) || last && d.standing != d.storedStanding
	return row{d.name, d.cursor, d.standing, d.unsure()}, due
}

// unsure is the position after which EDUs may not have arrived, should we end now: those of the last seconds are perhaps
// not handed out yet. d.mu is held.
func (d *destination) unsure() int64 {
	pos := d.s.marks.earlier()
	for _, missed := range []int64{d.missed, d.reminded} {
		if missed > 0 {
			pos = min(pos, missed)
		}
	}
	return pos
}

func (d *destination) saved(r row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stored, d.storedStanding = r.cursor, r.standing
}
