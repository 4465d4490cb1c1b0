package sqldb

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// pool is a set of read connections, opened when first needed.
type pool struct {
	db    *DB
	slots chan struct{} // one for every connection that may be in use
	mu    sync.Mutex
	idle  []conn // most recently used last
	shut  bool
	gone  chan struct{} // closed with shut
}

func (p *pool) init(db *DB, size int) {
	if size <= 0 {
		size = min(max(4, 2*runtime.GOMAXPROCS(0)), 16)
	}
	p.db, p.slots, p.gone = db, make(chan struct{}, size), make(chan struct{})
}

func (p *pool) get(ctx context.Context) (conn, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.gone:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a database connection: %w", ctx.Err())
	}
	p.mu.Lock()
	if p.shut {
		p.mu.Unlock()
		<-p.slots
		return nil, ErrClosed
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return c, nil
	}
	p.mu.Unlock()
	c, err := p.db.connect(ctx, false)
	if err != nil {
		<-p.slots
		return nil, err
	}
	return c, nil
}

func (p *pool) put(c conn) {
	p.mu.Lock()
	if p.shut || !c.usable() {
		p.mu.Unlock()
		_ = c.close()
	} else {
		p.idle = append(p.idle, c)
		p.mu.Unlock()
	}
	<-p.slots
}

// close closes idle connections; those in use are closed when they come back, which it waits for a while.
func (p *pool) close() error {
	p.mu.Lock()
	p.shut = true
	close(p.gone)
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	var errs []error
	for _, c := range idle {
		errs = append(errs, c.close())
	}
	timeout := time.After(10 * time.Second)
	for range cap(p.slots) {
		select {
		case p.slots <- struct{}{}:
		case <-timeout:
			return errors.Join(append(errs, errors.New("a read is still running"))...)
		}
	}
	return errors.Join(errs...)
}
