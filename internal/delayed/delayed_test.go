package delayed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// rig is a service whose events go nowhere.
type rig struct {
	*Service
	t     *testing.T
	clock *clock.Manual

	mu     sync.Mutex
	sent   []string             // types, in the order in which they were committed
	before func(e *Event) error // runs before an event is written; its error keeps it from that
	after  func(e *Event) error // runs after the commit
	same   bool                 // events change nothing, so that none is written
}

func each(t *testing.T, fn func(r *rig)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		fn(newRig(t, db, clock.NewManual(time.UnixMilli(1_700_000_000_000))))
	})
}

func newRig(t *testing.T, db *sqldb.DB, c *clock.Manual) *rig {
	r := &rig{t: t, clock: c}
	log := logrus.New()
	log.SetLevel(logrus.PanicLevel)
	r.Service = New(Options{DB: db, Send: r.send, MaxDelay: time.Hour, MaxCount: 3, Clock: c.Now, Log: logrus.NewEntry(log)})
	r.pause = func(int) time.Duration { return 0 }
	return r
}

func (r *rig) send(ctx context.Context, e *Event, also func(tx *sqldb.Tx, eventID string) error) (string, error) {
	r.mu.Lock()
	before, after, same := r.before, r.after, r.same
	r.mu.Unlock()
	if before != nil {
		if err := before(e); err != nil {
			return "", err
		}
	}
	if same {
		return "$there", nil
	}
	id := "$" + e.Type
	err := r.db.Do(ctx, &sqldb.Op{Name: "event",
		Write: func(tx *sqldb.Tx, _ int64) error { return also(tx, id) },
		Committed: func(int64) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.sent = append(r.sent, e.Type)
		}})
	if err == nil && after != nil {
		err = after(e)
	}
	return id, err
}

func (r *rig) schedule(user, typ string, delay int64) string {
	r.t.Helper()
	id, err := r.Schedule(r.t.Context(), event(user, typ, delay), "")
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func event(user, typ string, delay int64) Event {
	return Event{User: user, Room: "!room:hs", Type: typ, Content: []byte(`{"a":1}`), Delay: delay}
}

// pass lets so many milliseconds pass and sends what is due then.
func (r *rig) pass(ms int64) {
	r.clock.Advance(time.Duration(ms) * time.Millisecond)
	r.dispatch(r.t.Context())
	r.going.Wait()
}

func (r *rig) wantSent(types ...string) {
	r.t.Helper()
	if diff := cmp.Diff(types, r.sent); diff != "" {
		r.t.Fatalf("sent: %s", diff)
	}
}

func (r *rig) get(user, id string) *Event {
	r.t.Helper()
	e, err := r.Get(r.t.Context(), user, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

func (r *rig) want(err, want error) {
	r.t.Helper()
	if !errors.Is(err, want) {
		r.t.Fatalf("got %v, want %v", err, want)
	}
}

// TestOrder sends in the order in which events are due, and after a restart too.
func TestOrder(t *testing.T) {
	each(t, func(r *rig) {
		r.schedule("@a:hs", "third", 30)
		r.schedule("@b:hs", "first", 10)
		empty := ""
		e := event("@a:hs", "second", 20)
		ts := int64(5)
		e.Device, e.Service, e.StateKey, e.TS = "DEV", "bridge", &empty, &ts
		second, err := r.Schedule(t.Context(), e, "")
		r.want(err, nil)
		got := r.get("@a:hs", second)
		e.ID, e.Scheduled, e.nid, e.due = second, r.clock.Now().UnixMilli(), got.nid, r.clock.Now().UnixMilli()+20
		if diff := cmp.Diff(&e, got, cmp.AllowUnexported(Event{})); diff != "" {
			t.Error(diff)
		}
		list, err := r.Scheduled(t.Context(), "@a:hs")
		if err != nil || len(list) != 2 || list[0].Type != "second" || list[1].Type != "third" {
			t.Errorf("scheduled: %v, %v", list, err)
		}
		r.pass(9)
		r.wantSent()

		again := newRig(t, r.db, r.clock)
		again.pass(20)
		again.wantSent("first", "second")
		again.pass(1)
		again.wantSent("first", "second", "third")
		again.pass(1000)
		again.wantSent("first", "second", "third")
		if e := again.get("@a:hs", second); e.EventID != "$second" || e.Finalised == 0 || e.Error != nil {
			t.Errorf("it became %+v", e)
		}
	})
}

// TestRun sends by the clock, and what is scheduled while it waits for something later.
func TestRun(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db, nil)
		r.o.Clock = clock.System
		done := make(chan string)
		r.after = func(e *Event) error { done <- e.Type; return nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		r.schedule("@a:hs", "late", 3_600_000)
		id := r.schedule("@a:hs", "restarted", 3_500_000)
		r.schedule("@a:hs", "soon", 1)
		if got := <-done; got != "soon" {
			t.Errorf("%s came first", got)
		}
		sent := make(chan error)
		go func() { sent <- r.Send(t.Context(), "", id) }()
		if got := <-done; got != "restarted" {
			t.Errorf("%s came next", got)
		}
		r.want(<-sent, nil)
		cancel()
		r.want(<-ended, nil)
	})
}

// TestOnce loses the answers of events that were committed.
func TestOnce(t *testing.T) {
	each(t, func(r *rig) {
		id := r.schedule("@a:hs", "x", 10)
		r.after = func(*Event) error { return context.DeadlineExceeded }
		r.pass(10)
		r.pass(10)
		r.wantSent("x")
		if e := r.get("@a:hs", id); e.EventID != "$x" {
			t.Errorf("it became %+v", e)
		}
		r.want(r.Send(t.Context(), "", id), nil)
		r.want(r.Cancel(t.Context(), "", id), ErrSent)
		r.want(r.Restart(t.Context(), "", id), ErrSent)
		r.wantSent("x")
	})
}

// TestRaces cancels and restarts an event while it is being sent: what was answered stays true.
func TestRaces(t *testing.T) {
	each(t, func(r *rig) {
		id := r.schedule("@a:hs", "cancelled", 10)
		r.before = func(*Event) error { return r.Cancel(t.Context(), "", id) }
		r.pass(10)
		r.want(r.Cancel(t.Context(), "", id), nil)
		r.want(r.Send(t.Context(), "", id), ErrCancelled)
		r.want(r.Restart(t.Context(), "", id), ErrCancelled)

		id = r.schedule("@a:hs", "restarted", 10)
		r.before = func(*Event) error { r.before = nil; return r.Restart(t.Context(), "", id) }
		r.takeSoon()
		r.pass(10)
		r.wantSent()
		if soon, due := r.takeSoon(), r.get("@a:hs", id).due; soon != due || due != r.clock.Now().UnixMilli()+10 {
			t.Errorf("due at %d, and looked for at %d", due, soon)
		}
		r.pass(9)
		r.wantSent()
		r.pass(1)
		r.wantSent("restarted")

		id = r.schedule("@a:hs", "now", 10)
		r.before = func(*Event) error { r.before = nil; return r.Restart(t.Context(), "", id) }
		r.want(r.Send(t.Context(), "", id), nil)
		r.pass(100)
		r.wantSent("restarted", "now")
	})
}

// TestUnchanged finalises an event that says what the room's state says already.
func TestUnchanged(t *testing.T) {
	each(t, func(r *rig) {
		r.same = true
		id := r.schedule("@a:hs", "x", 10)
		r.pass(10)
		if e := r.get("@a:hs", id); e.EventID != "$there" || e.Finalised == 0 {
			t.Errorf("it became %+v", e)
		}
	})
}

// TestOwner lets nobody else manage an event, but for those who know its id and need no name.
func TestOwner(t *testing.T) {
	each(t, func(r *rig) {
		id := r.schedule("@a:hs", "x", 10)
		_, err := r.Get(t.Context(), "@b:hs", id)
		r.want(err, ErrNotFound)
		for _, act := range []func(context.Context, string, string) error{r.Cancel, r.Restart, r.Send} {
			r.want(act(t.Context(), "@b:hs", id), ErrNotFound)
			r.want(act(t.Context(), "", "abc"), ErrNotFound)
			r.want(act(t.Context(), "", strings.Repeat("x", 1000)), ErrNotFound)
		}
		r.want(r.Restart(t.Context(), "@a:hs", id), nil)
		r.want(r.Send(t.Context(), "@a:hs", id), nil)
		r.wantSent("x")
	})
}

// TestLimits schedules too many and too late.
func TestLimits(t *testing.T) {
	each(t, func(r *rig) {
		_, err := r.Schedule(t.Context(), event("@a:hs", "x", time.Hour.Milliseconds()+1), "")
		r.want(err, ErrTooLong)
		first, err := r.Schedule(t.Context(), event("@a:hs", "x", 5000), "txn")
		r.want(err, nil)
		for range 5 {
			again, err := r.Schedule(t.Context(), event("@a:hs", "x", 5000), "txn")
			if again != first {
				t.Fatalf("the same transaction made %s, then %s (%v)", first, again, err)
			}
		}
		e := event("@a:hs", "x", 0)
		if id, err := r.ScheduledBefore(t.Context(), &e, "txn"); id != first || err != nil {
			t.Errorf("the transaction made %q (%v)", id, err)
		}
		r.schedule("@a:hs", "y", 6000)
		r.schedule("@a:hs", "z", 7000)
		_, err = r.Schedule(t.Context(), event("@a:hs", "v", 1), "")
		if e := matrixerr.From(err); e.HTTP != 429 || e.RetryAfter != 5*time.Second {
			t.Errorf("one too many is refused with %v, for %v", e, e.RetryAfter)
		}
		r.schedule("@b:hs", "v", 1)
		r.want(r.Cancel(t.Context(), "", first), nil)
		r.schedule("@a:hs", "v", 1)

		r.o.MaxCount = 0
		_, err = r.Schedule(t.Context(), event("@a:hs", "x", 1), "")
		r.want(err, ErrOff)
	})
}

// TestRefused keeps why an event was not sent; what may pass is tried again, and holds up those behind it.
func TestRefused(t *testing.T) {
	each(t, func(r *rig) {
		id := r.schedule("@a:hs", "x", 10)
		r.before = func(*Event) error { return matrixerr.Forbidden("no") }
		if err := r.Send(t.Context(), "", id); matrixerr.From(err).HTTP != 403 {
			t.Errorf("sent at once: %v", err)
		}
		if e := r.get("@a:hs", id); e.Finalised != 0 {
			t.Error("it is not scheduled any more")
		}
		r.pass(10)
		if e := r.get("@a:hs", id); string(e.Error) != `{"errcode":"M_FORBIDDEN","error":"no"}` || e.EventID != "" || e.Finalised == 0 {
			t.Errorf("it became %+v, %s", e, e.Error)
		}
		r.want(r.Cancel(t.Context(), "", id), nil)

		r.schedule("@a:hs", "y", 10)
		r.schedule("@a:hs", "z", 11)
		failures := 0
		r.before = func(e *Event) error {
			if e.Type != "y" || failures == maxTries-1 {
				return nil
			}
			failures++
			return errors.New("the disk is full")
		}
		r.pass(20)
		r.wantSent("y", "z")

		id = r.schedule("@a:hs", "v", 10)
		r.before = func(*Event) error { return errors.New("the disk stays full") }
		r.pass(20)
		if e := r.get("@a:hs", id); !strings.Contains(string(e.Error), `"M_UNKNOWN"`) || strings.Contains(string(e.Error), "disk") {
			t.Errorf("it became %+v, %s", e, e.Error)
		}
	})
}

// TestStop gives up nothing: what was under way goes after a restart.
func TestStop(t *testing.T) {
	each(t, func(r *rig) {
		id := r.schedule("@a:hs", "x", 10)
		ctx, cancel := context.WithCancel(t.Context())
		r.before = func(*Event) error { cancel(); return ctx.Err() }
		r.clock.Advance(time.Second)
		r.dispatch(ctx)
		r.going.Wait()
		if e := r.get("@a:hs", id); e.Finalised != 0 {
			t.Errorf("it became %+v", e)
		}
		again := newRig(t, r.db, r.clock)
		again.pass(0)
		again.wantSent("x")
	})
}

// TestMany sends more than one look finds.
func TestMany(t *testing.T) {
	each(t, func(r *rig) {
		r.o.MaxCount = 2*look + 1
		var want []string
		for i := range 2*look + 1 {
			r.schedule("@a:hs", fmt.Sprint(i), int64(1+i/3))
			want = append(want, fmt.Sprint(i))
		}
		r.clock.Advance(time.Minute)
		for r.dispatch(t.Context()) != never {
		}
		r.going.Wait()
		r.wantSent(want...)

		ids := map[string]bool{}
		for after := (Place{}); ; {
			page, err := r.Finalised(t.Context(), "@a:hs", after, 100)
			r.want(err, nil)
			if len(page) == 0 {
				break
			}
			for _, e := range page {
				ids[e.ID] = true
				after = e.Place()
			}
		}
		if len(ids) != len(want) {
			t.Errorf("%d of %d are told to be finalised", len(ids), len(want))
		}
	})
}

// TestForgotten deletes finalised events that are old or too many, and those of users who go.
func TestForgotten(t *testing.T) {
	each(t, func(r *rig) {
		r.o.MaxCount = keptCount + 10
		stays := r.schedule("@b:hs", "stays", time.Hour.Milliseconds())
		for i := range keptCount + 5 {
			r.schedule("@a:hs", fmt.Sprint(i), int64(i+1))
		}
		r.clock.Advance(time.Minute)
		for r.dispatch(t.Context()) != r.get("@b:hs", stays).due {
		}
		r.going.Wait()
		r.want(r.prune(t.Context()), nil)
		list, err := r.Finalised(t.Context(), "@a:hs", Place{}, 2*keptCount)
		if len(list) != keptCount || slices.ContainsFunc(list, func(e *Event) bool { return len(e.Type) == 1 && e.Type < "5" }) {
			t.Errorf("%d are left (%v), or not the newest", len(list), err)
		}
		r.clock.Advance(kept + time.Minute)
		r.want(r.prune(t.Context()), nil)
		if list, err := r.Finalised(t.Context(), "@a:hs", Place{}, 1); len(list) != 0 || err != nil {
			t.Errorf("old ones are left (%v)", err)
		}
		r.get("@b:hs", stays)
		r.want(r.db.Do(t.Context(), &sqldb.Op{Name: "go", Write: func(tx *sqldb.Tx, _ int64) error { return r.UserDeactivating(tx, "@b:hs") }}), nil)
		_, err = r.Get(t.Context(), "@b:hs", stays)
		r.want(err, ErrNotFound)
	})
}
