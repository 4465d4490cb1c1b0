package sqldb

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Op is one operation for the writer.
type Op struct {
	// Name is from a closed set; it appears in metrics and logs.
	Name string
	// Positions is the number of stream positions that it needs.
	Positions int
	// Check guards and reads. It runs for all operations of the batch before positions are taken, so it does not see
	// what the others of the batch will write. Its error fails this operation alone; it must not have written.
	Check func(tx *Tx) error
	// Write executes; first is the first of the operation's positions.
	Write func(tx *Tx, first int64) error
	// Committed runs after COMMIT, in order, on the writer goroutine: it must not block.
	Committed func(first int64)
}

// Bounds of a batch and of the queue, in operations.
const (
	batchOps   = 256
	batchTime  = 20 * time.Millisecond
	queueOps   = 4096
	idleAfter  = time.Second
	txTimeout  = time.Minute
	slowCommit = time.Second
)

// item is a queued operation.
type item struct {
	op    *Op
	first int64
	err   error
	done  chan struct{}
}

func (it *item) finish(err error) {
	it.err = err
	close(it.done)
}

// writer owns the write connection and the queue in front of it.
type writer struct {
	db      *DB
	queue   chan *item
	mu      sync.RWMutex // held for reading while queueing, so that stop can close the queue
	closed  bool
	started bool
	stopped chan struct{}

	limit int     // operations that the last batches suggest fit into batchTime
	dirty bool    // something was written since the last checkpoint
	carry []*item // taken from the queue, left over by the last batch
}

func (w *writer) init(db *DB) {
	w.db, w.limit = db, batchOps
	w.queue = make(chan *item, queueOps)
	w.stopped = make(chan struct{})
}

// Enqueue queues an operation, in the order of the calls, and returns once it is queued; it blocks while the queue is
// full. wait returns when the operation is committed and its callbacks have run, or with its error; its context only
// ends the waiting.
func (db *DB) Enqueue(op *Op) (wait func(context.Context) error) {
	return db.writer.put(context.Background(), op).wait
}

// Do queues an operation and waits for it. The context only ends the waiting: an operation that was queued runs all the
// same.
func (db *DB) Do(ctx context.Context, op *Op) error {
	return db.writer.put(ctx, op).wait(ctx)
}

func (it *item) wait(ctx context.Context) error {
	select {
	case <-it.done:
		return it.err
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to be written: %w", it.op.Name, ctx.Err())
	}
}

func (w *writer) put(ctx context.Context, op *Op) *item {
	it := &item{op: op, done: make(chan struct{})}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		it.finish(ErrClosed)
		return it
	}
	select {
	case w.queue <- it: // also when the context has ended: only a full queue makes it matter
		return it
	default:
	}
	select {
	case w.queue <- it:
	case <-ctx.Done():
		it.finish(fmt.Errorf("queue %s: %w", op.Name, ctx.Err()))
	}
	return it
}

func (w *writer) start(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started || w.closed {
		return
	}
	w.started = true
	go w.run(ctx)
}

// stop refuses new operations and returns when those queued are done.
func (w *writer) stop() {
	w.mu.Lock()
	w.closed = true
	close(w.queue)
	started := w.started
	w.mu.Unlock()
	if !started {
		for it := range w.queue {
			it.finish(ErrClosed)
		}
		return
	}
	<-w.stopped
}

func (w *writer) run(ctx context.Context) {
	defer close(w.stopped)
	idle := time.NewTimer(idleAfter)
	defer idle.Stop()
	for {
		items, open := w.take(idle)
		if len(items) > 0 {
			w.runBatch(ctx, items)
			w.dirty = true
			idle.Reset(idleAfter)
		}
		if !open {
			w.checkpoint()
			return
		}
	}
}

// take waits for an operation and takes what else is queued. It reports false when the queue is closed and empty.
func (w *writer) take(idle *time.Timer) ([]*item, bool) {
	items := w.carry
	w.carry = nil
	for len(items) == 0 {
		select {
		case it, ok := <-w.queue:
			if !ok {
				return nil, false
			}
			items = append(items, it)
		case <-idle.C:
			w.checkpoint()
		}
	}
	for len(items) < w.limit {
		select {
		case it, ok := <-w.queue:
			if !ok {
				return items, true // the next take sees it closed again
			}
			items = append(items, it)
		default:
			return items, true
		}
	}
	return items, true
}

// pace adapts the size of batches to batchTime: a transaction holds the position lock of all nodes.
func (w *writer) pace(ops int, took time.Duration) {
	switch {
	case took > batchTime && ops > 1:
		w.limit = max(1, int(time.Duration(ops)*batchTime/took))
	case took < batchTime/2 && w.limit < batchOps:
		w.limit = min(batchOps, w.limit*2)
	}
}

// checkpoint empties SQLite's write-ahead log when nothing else is to do.
func (w *writer) checkpoint() {
	c, ok := w.db.write.(*sqliteConn)
	if !ok || !w.dirty {
		return
	}
	w.dirty = false
	if err := c.checkpoint(); err != nil {
		w.db.log.WithError(err).Warn("Could not empty the write-ahead log; it is tried again after the next write")
	}
}

// guard turns a panic of an operation into its error.
func (w *writer) guard(op *Op, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s panicked: %v", op.Name, p)
			w.db.log.WithField("op", op.Name).Errorf("Operation panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return fn()
}
