package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Bounds of what goes to one service.
const (
	maxEvents = 100 // in a transaction
	maxLive   = 1000
	lastRetry = 5 * time.Minute
	stopTime  = 10 * time.Second
)

// link is the way to one service: one transaction after the other, each sent until it is taken.
type link struct {
	s    *Services
	v    *Service
	wake chan struct{}

	mu     sync.Mutex
	latest int64 // newest event for the service that was seen
	live   []due // events after progress.claim, all there are unless behind
	behind bool  // events are to be read from the log

	marks *marks // what changed beside events; nil when only events are wanted

	// Of the goroutine of run alone.
	p      progress
	x      beside
	saved  progress
	savedX int64
	moves  *tracker
}

func newLink(s *Services, v *Service) *link {
	l := &link{s: s, v: v, wake: make(chan struct{}, 1), behind: true}
	if v.takesEphemeral() || v.Encryption {
		l.marks = newMarks()
		l.marks.all = true
	}
	return l
}

// push takes a new event; they come in the order of their positions.
func (l *link) push(d due) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.pos <= l.latest {
		return
	}
	l.latest = d.pos
	switch {
	case l.behind:
	case len(l.live) == maxLive:
		l.behind, l.live = true, nil
	default:
		l.live = append(l.live, d)
	}
	l.signal()
}

func (l *link) fallBehind() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.behind, l.live = true, nil
	l.signal()
}

func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx ends, and then writes down how far it came.
func (l *link) run(ctx context.Context) {
	l.saved, l.savedX, l.moves = l.p, l.x.pos, l.s.newTracker()
	if err := l.resume(ctx); err != nil {
		return // ctx ended
	}
	for ctx.Err() == nil {
		more, err := l.once(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			l.log(err, "What is for an application service could not be read; it is tried again")
			l.pause(ctx, time.Second)
		case err == nil && !more:
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
		}
	}
	if l.p == l.saved && l.x.pos == l.savedX && l.x.body == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := l.s.save(ctx, l, l.p, l.x, nil); err != nil {
		l.log(err, "How far an application service got what is for it could not be written down; some of it may be sent twice")
	}
}

func (l *link) log(err error, what string) {
	l.s.o.Log.WithError(err).WithField("service", l.v.ID).Warn(what)
}

// resume sends again the transaction that may or may not have been taken before the node stopped, with the same number
// and the same content.
func (l *link) resume(ctx context.Context) error {
	for l.p.claim > l.p.sent || l.x.body != nil {
		list, until, err := l.s.backlog(ctx, l.v, l.p.sent, l.p.claim)
		if err == nil && until < l.p.claim {
			l.p.claim = until // cannot be: a claim is one transaction
		}
		var body []byte
		if err == nil {
			body, err = l.body(ctx, list, l.x.body)
		}
		if err == nil {
			err = l.deliver(ctx, body)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			l.log(err, "What is for an application service could not be read; it is tried again")
			l.pause(ctx, time.Second)
			continue
		}
		l.p.sent, l.x.body = l.p.claim, nil
	}
	return nil
}

// once sends one transaction. more says that there may be another one.
func (l *link) once(ctx context.Context) (more bool, err error) {
	x, err := l.gather(ctx)
	if err != nil {
		return false, err
	}
	claimed := false
	if x != nil {
		defer func() {
			if !claimed || x.partial() {
				l.marks.putBack(x.took)
			}
		}()
	}
	list, whole, until, err := l.next(ctx)
	if err != nil {
		return false, err
	}
	if x != nil {
		list, whole = x.limit(list, whole)
		if err := l.addMoves(ctx, x, list); err != nil {
			return false, err
		}
	}
	if len(list) == 0 && (x == nil || x.empty()) {
		claimed = true
		l.passed(x)
		if whole && until > l.p.claim {
			l.p.sent, l.p.claim = until, until
		}
		return l.isBehind() || !whole || x.partial(), nil
	}
	if err := l.claim(ctx, x, list, whole, until); err != nil {
		return false, err
	}
	claimed = true
	body, err := l.body(ctx, list, l.x.body)
	if err == nil {
		err = l.deliver(ctx, body)
	}
	if err != nil {
		return false, err // ctx ended; it is sent again
	}
	l.p.sent, l.x.body = l.p.claim, nil
	l.taken(list)
	return true, nil
}

// passed notes how far what is no event was looked at.
func (l *link) passed(x *extras) {
	if x != nil {
		l.x.pos, l.x.eph = max(l.x.pos, x.until), x.eph
	}
}

// claim stores what the next transaction is.
func (l *link) claim(ctx context.Context, x *extras, list []due, whole bool, until int64) error {
	p := progress{txn: l.p.txn + 1, sent: l.p.claim, claim: l.p.claim}
	if len(list) > 0 {
		p.claim = list[len(list)-1].pos
	}
	if whole {
		p.claim = max(p.claim, until)
	}
	fields, err := x.encode(l.v)
	if err != nil {
		return err
	}
	beside := l.x
	beside.body = fields
	var messages []e2ee.Waiting
	if x != nil {
		beside.pos, beside.eph, messages = max(l.x.pos, x.until), x.eph, x.messages
	}
	if err := l.s.save(ctx, l, p, beside, messages); err != nil {
		return err
	}
	l.p, l.saved, l.x, l.savedX = p, p, beside, beside.pos
	return nil
}

// next is what goes into the next transaction. whole says that there was no more up to until.
func (l *link) next(ctx context.Context) (list []due, whole bool, until int64, err error) {
	l.mu.Lock()
	if !l.behind {
		list, until = l.live, l.latest
		whole = len(list) <= maxEvents
		list = list[:min(len(list), maxEvents):min(len(list), maxEvents)]
		l.mu.Unlock()
		return list, whole, until, nil
	}
	to := max(l.s.o.Hub.Published(), l.latest)
	l.mu.Unlock()
	list, until, err = l.s.backlog(ctx, l.v, l.p.claim, to)
	if err != nil {
		return nil, false, 0, err
	}
	if whole = len(list) <= maxEvents; !whole {
		return list[:maxEvents], false, until, nil
	}
	if until == to {
		l.caughtUp(to, list)
	}
	return list, true, until, nil
}

// caughtUp ends the reading from the log if nothing came meanwhile.
func (l *link) caughtUp(to int64, list []due) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.latest <= to {
		l.latest, l.behind, l.live = to, false, append([]due(nil), list...)
	} else {
		l.signal()
	}
}

func (l *link) isBehind() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.behind
}

// taken drops from the live events what was delivered.
func (l *link) taken(list []due) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(list) == 0 {
		return
	}
	last := list[len(list)-1].pos
	for len(l.live) > 0 && l.live[0].pos <= last {
		l.live = l.live[1:]
	}
}

// body is a transaction's body (Application Service API, "Pushing events"). fields is an object of what it has beside
// events; nil for none.
func (l *link) body(ctx context.Context, list []due, fields []byte) ([]byte, error) {
	nids := make([]int64, len(list))
	for i, d := range list {
		nids[i] = d.event
	}
	var events []json.RawMessage
	err := l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := l.s.rooms.Store.Load(tx, nids)
		if err != nil {
			return err
		}
		stored := make([]*store.Stored, 0, len(nids))
		for _, nid := range nids {
			if e := found[nid]; e != nil { // else purged meanwhile
				stored = append(stored, e)
			}
		}
		events, err = l.s.rooms.Render(tx, viewer, stored, true, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	if events == nil {
		events = []json.RawMessage{}
	}
	body, err := json.Marshal(map[string]any{"events": events})
	if err == nil && fields != nil {
		body = append(append(body[:len(body)-1], ','), fields[1:]...)
	}
	return body, err
}

// deliver sends a transaction until the service takes it. The error is that ctx ended.
func (l *link) deliver(ctx context.Context, body []byte) error {
	txn := strconv.FormatInt(l.p.txn, 10)
	for wait := l.s.o.Retry; ; wait = min(2*wait, lastRetry) {
		err := l.s.client.transaction(ctx, l.v, l.s.epoch()+"-"+txn, body)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		l.log(err, "An application service did not take a transaction; it is sent again")
		l.pause(ctx, wait/2+rand.N(wait/2+1))
	}
}

func (l *link) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// begin reads how far each service got everything.
func (s *Services) begin(ctx context.Context) error {
	var errs []error
	for _, v := range s.reg.list {
		if v.link == nil {
			continue
		}
		errs = append(errs, s.load(ctx, v.link))
	}
	return errors.Join(errs...)
}

// epoch makes transaction ids differ from those of a database that was restored from a backup.
func (s *Services) epoch() string { return s.o.DB.Epoch() }
