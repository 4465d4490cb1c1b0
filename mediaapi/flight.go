package mediaapi

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// flights lets many callers who need the same thing done wait for one of them to do it.
type flights struct {
	mu    sync.Mutex
	calls map[string]*flight
}

type flight struct {
	done chan struct{}
	err  error
}

var errAborted = errors.New("the one who did it panicked")

// do calls fn, or waits for the caller who is calling it for the same key, and returns its error. fn has limit for
// its work, and goes on when the request that started it ends: others wait for it.
func (f *flights) do(ctx context.Context, key string, limit time.Duration, fn func(context.Context) error) error {
	f.mu.Lock()
	if c, flying := f.calls[key]; flying {
		f.mu.Unlock()
		select {
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.calls == nil {
		f.calls = make(map[string]*flight)
	}
	c := &flight{done: make(chan struct{}), err: errAborted}
	f.calls[key] = c
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.calls, key)
		f.mu.Unlock()
		close(c.done)
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	c.err = fn(ctx)
	return c.err
}

// arrivals tells those who wait for a medium that its content has come.
type arrivals struct {
	mu      sync.Mutex
	waiting map[mxc]*arrival
}

type arrival struct {
	come    chan struct{}
	waiters int
}

// watch returns a channel that is closed when the content has come. Look for it after this call and before waiting;
// call stop in the end.
func (a *arrivals) watch(uri mxc) (come <-chan struct{}, stop func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.waiting[uri]
	if w == nil {
		w = &arrival{come: make(chan struct{})}
		if a.waiting == nil {
			a.waiting = make(map[mxc]*arrival)
		}
		a.waiting[uri] = w
	}
	w.waiters++
	return w.come, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if w.waiters--; w.waiters == 0 && a.waiting[uri] == w {
			delete(a.waiting, uri)
		}
	}
}

func (a *arrivals) announce(uri mxc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if w := a.waiting[uri]; w != nil {
		close(w.come)
		delete(a.waiting, uri)
	}
}

// failures remembers for a while what went wrong, so that asking again costs nothing.
type failures struct {
	mu sync.Mutex
	m  map[string]failure
}

type failure struct {
	err   error
	until int64
}

const maxFailures = 10_000

func (f *failures) get(key string, now int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e, ok := f.m[key]; ok && now < e.until {
		return e.err
	}
	return nil
}

func (f *failures) put(key string, err error, now int64, keep time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m == nil || len(f.m) >= maxFailures {
		f.m = make(map[string]failure)
	}
	f.m[key] = failure{err, now + keep.Milliseconds()}
}

// accesses collects when media were last used, to be saved many at a time.
type accesses struct {
	mu sync.Mutex
	m  map[mxc]int64
}

func (a *accesses) note(uri mxc, now int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.m == nil {
		a.m = make(map[mxc]int64)
	}
	a.m[uri] = now
}

func (a *accesses) take() map[mxc]int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.m
	a.m = nil
	return m
}

// visitors lets each user, and all together, have some pages fetched at a time.
type visitors struct {
	all *semaphore.Weighted
	mu  sync.Mutex
	of  map[string]*turns
}

type turns struct {
	*semaphore.Weighted
	users int // who hold or wait for one
}

// enter waits for a user's turn until ctx ends. Call leave after it.
func (v *visitors) enter(ctx context.Context, user string) (leave func(), err error) {
	mine := v.join(user)
	if err := mine.Acquire(ctx, 1); err != nil {
		v.part(user, mine)
		return nil, err
	}
	if err := v.all.Acquire(ctx, 1); err != nil {
		mine.Release(1)
		v.part(user, mine)
		return nil, err
	}
	return func() {
		v.all.Release(1)
		mine.Release(1)
		v.part(user, mine)
	}, nil
}

func (v *visitors) join(user string) *turns {
	v.mu.Lock()
	defer v.mu.Unlock()
	t := v.of[user]
	if t == nil {
		t = &turns{Weighted: semaphore.NewWeighted(maxPreviewsOfOne)}
		if v.of == nil {
			v.of = make(map[string]*turns)
		}
		v.of[user] = t
	}
	t.users++
	return t
}

func (v *visitors) part(user string, t *turns) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if t.users--; t.users == 0 {
		delete(v.of, user)
	}
}
