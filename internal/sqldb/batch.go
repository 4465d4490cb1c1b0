package sqldb

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// batch is what the operations of one transaction share.
type batch struct {
	scratch  map[any]any
	buffers  [][]any // by Insert.id: bound values of whole rows
	before   []func() error
	after    []func(last int64)
	slowest  time.Duration
	slowStmt *Stmt
}

// runBatch writes items in one transaction, or one by one when that fails. (One operation is run again only when the
// connection broke.)
func (w *writer) runBatch(ctx context.Context, items []*item) {
	m := w.db.metrics
	m.batch.Observe(float64(len(items)))
	m.queue.Set(float64(len(w.queue)))
	err := w.attempt(ctx, items)
	if err == nil {
		return
	}
	broken := !w.db.write.usable() || errors.Is(err, errAborted)
	if (len(items) > 1 || broken) && !hopeless(err) {
		m.reruns.Inc()
		w.db.log.WithError(err).WithField("ops", len(items)).Warn("A transaction failed; running its operations one by one")
		w.runSingly(ctx, items)
		return
	}
	w.failAll(items, err)
}

func (w *writer) runSingly(ctx context.Context, items []*item) {
	w.carry = nil // it is part of items
	for _, it := range items {
		if isDone(it) {
			continue
		}
		one := []*item{it}
		if err := w.attempt(ctx, one); hopeless(err) {
			w.failAll(items, err)
			return
		} else if err != nil {
			w.failAll(one, err)
		}
	}
}

// hopeless reports whether trying again now cannot help: the database is away, or hangs.
func hopeless(err error) bool {
	return errors.Is(err, errUnreachable) || errors.Is(err, errUnknownFate) || errors.Is(err, context.DeadlineExceeded)
}

func (w *writer) failAll(items []*item, err error) {
	for _, it := range items {
		if !isDone(it) {
			w.fail(it, err)
		}
	}
}

func isDone(it *item) bool {
	select {
	case <-it.done:
		return true
	default:
		return false
	}
}

func (w *writer) fail(it *item, err error) {
	w.db.metrics.failures.WithLabelValues(it.op.Name).Inc()
	it.finish(err)
}

// attempt runs one transaction. Operations refused by their Check are finished with its error; the others are finished
// when the transaction is committed. With an error nothing was written and the others are not finished.
func (w *writer) attempt(ctx context.Context, items []*item) error {
	began := time.Now()
	c := w.db.write
	if w.db.dialect == Postgres { // a lost network must not hold the writer for ever
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, txTimeout)
		defer cancel()
	}
	if err := c.begin(ctx, true); err != nil {
		c.rollback()
		return fmt.Errorf("begin: %w", err)
	}
	tx := &Tx{db: w.db, ctx: ctx, conn: c, batch: &batch{}}
	accepted, err := w.check(tx, items, began)
	if err != nil || len(accepted) == 0 {
		tx.rollback()
		return err
	}
	last, err := w.write(tx, accepted)
	if err == nil {
		committing := time.Now()
		w.pace(len(items), committing.Sub(began))
		err = tx.finish()
		w.db.metrics.commit.Observe(time.Since(committing).Seconds())
	}
	if err != nil {
		tx.rollback()
		return err
	}
	w.warnSlow(tx.batch, accepted, time.Since(began))
	w.committed(tx.batch, accepted, last)
	return nil
}

// check runs the Checks and returns the operations to write. What does not fit into the batch's time is carried over to
// the next one. An error means that the transaction is lost.
func (w *writer) check(tx *Tx, items []*item, began time.Time) ([]*item, error) {
	accepted := make([]*item, 0, len(items))
	for i, it := range items {
		if len(accepted) > 0 && time.Since(began) > batchTime {
			w.carry = items[i:]
			break
		}
		if it.op.Check == nil {
			accepted = append(accepted, it)
			continue
		}
		err := w.guard(it.op, func() error { return it.op.Check(tx) })
		if tx.err != nil || tx.open != nil {
			return nil, tx.lost(it.op, err)
		}
		if err != nil {
			w.fail(it, err)
			continue
		}
		accepted = append(accepted, it)
	}
	return accepted, nil
}

// lost is the error of a transaction in which a statement failed or was left open, even when the operation hid it.
func (tx *Tx) lost(op *Op, err error) error {
	switch {
	case err != nil:
		return err
	case tx.err != nil:
		return tx.err
	}
	return fmt.Errorf("%s left the rows of %s open", op.Name, tx.open.stmt.name)
}

// write takes the positions and runs the Writes and the BeforeCommit functions. It returns the last position, 0 when
// none was needed.
func (w *writer) write(tx *Tx, items []*item) (last int64, err error) {
	total := 0
	for _, it := range items {
		total += it.op.Positions
	}
	next := int64(1)
	if total > 0 {
		if last, err = tx.conn.position(tx.ctx, int64(total)); err != nil {
			return 0, fmt.Errorf("take positions: %w", err)
		}
		next = last - int64(total) + 1
	}
	for _, it := range items {
		it.first = 0
		if it.op.Positions > 0 {
			it.first = next
			next += int64(it.op.Positions)
		}
		if err := w.writeOne(tx, it); err != nil {
			return 0, err
		}
	}
	return last, w.beforeCommit(tx, items[0].op)
}

func (w *writer) writeOne(tx *Tx, it *item) error {
	if it.op.Write == nil {
		return nil
	}
	err := w.guard(it.op, func() error { return it.op.Write(tx, it.first) })
	if err != nil || tx.err != nil || tx.open != nil {
		return tx.lost(it.op, err)
	}
	return nil
}

// beforeCommit runs the functions, also those that they add.
func (w *writer) beforeCommit(tx *Tx, op *Op) error {
	for i := 0; i < len(tx.batch.before); i++ {
		err := w.guard(op, tx.batch.before[i])
		if err != nil || tx.err != nil || tx.open != nil {
			return tx.lost(op, err)
		}
	}
	return nil
}

// finish inserts the buffered rows and commits.
func (tx *Tx) finish() error {
	var chunks []chunk
	for id, args := range tx.batch.buffers {
		if len(args) > 0 {
			chunks = appendChunks(chunks, insertByID(id), args)
		}
	}
	if err := tx.conn.commit(tx.ctx, chunks); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// committed tells everybody: the batch's functions, the callbacks in order, then the bus, then those who wait.
func (w *writer) committed(b *batch, items []*item, last int64) {
	for _, fn := range b.after {
		_ = w.guard(items[0].op, func() error { fn(last); return nil })
	}
	for _, it := range items {
		if it.op.Committed != nil {
			_ = w.guard(it.op, func() error { it.op.Committed(it.first); return nil })
		}
	}
	if last > 0 {
		for _, publish := range w.db.publish {
			publish(last)
		}
	}
	for _, it := range items {
		w.db.metrics.done.Inc()
		it.finish(nil)
	}
}

func (w *writer) warnSlow(b *batch, items []*item, took time.Duration) {
	if took < slowCommit {
		return
	}
	log := w.db.log.WithField("ms", took.Milliseconds()).WithField("ops", len(items)).WithField("op", items[0].op.Name)
	if b.slowStmt != nil {
		log = log.WithField("statement", b.slowStmt.name).WithField("statement_ms", b.slowest.Milliseconds())
	}
	log.Warn("Slow transaction")
}
