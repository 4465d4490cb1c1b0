package sqldb

import (
	"context"
	"fmt"
	"time"
)

// Tx is one transaction: a read snapshot or the writer's batch. It belongs to the function that it is given to.
type Tx struct {
	db    *DB
	ctx   context.Context
	conn  conn
	batch *batch // nil for a read
	open  *Rows  // the result that is open
	err   error  // first statement that failed: PostgreSQL runs nothing after it
	bound []any  // reused
}

// Context is the context of the transaction. In a write it is the writer's own, never a request's.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Exec runs a statement and returns the number of rows that it changed.
func (tx *Tx) Exec(s *Stmt, args ...any) (int64, error) {
	if err := tx.start(s, args); err != nil {
		return 0, err
	}
	began := tx.clock()
	n, err := tx.conn.exec(tx.ctx, s, tx.bound)
	tx.timed(s, began)
	return n, tx.failed(s, err)
}

// Query runs a statement and returns its rows. Close them before the next statement.
func (tx *Tx) Query(s *Stmt, args ...any) (*Rows, error) {
	if err := tx.start(s, args); err != nil {
		return nil, err
	}
	began := tx.clock()
	r, err := tx.conn.query(tx.ctx, s, tx.bound)
	tx.timed(s, began)
	if err != nil {
		return nil, tx.failed(s, err)
	}
	tx.open = &Rows{tx: tx, rows: r, stmt: s}
	return tx.open, nil
}

// QueryRow runs a statement that gives one row or none. Scan must follow.
func (tx *Tx) QueryRow(s *Stmt, args ...any) *Row {
	rows, err := tx.Query(s, args...)
	return &Row{rows: rows, err: err}
}

// Collect runs a statement and returns what scan makes of each row.
func Collect[T any](tx *Tx, s *Stmt, scan func(*Rows) (T, error), args ...any) ([]T, error) {
	rows, err := tx.Query(s, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rows.Close()
}

// Insert inserts rows now, in as few statements as the engine's limits allow.
func (tx *Tx) Insert(ins *Insert, rows ...[]any) error {
	if len(rows) == 0 {
		return nil
	}
	args := make([]any, 0, len(rows)*ins.columns)
	for _, row := range rows {
		var err error
		if args, err = tx.bindRow(ins, args, row); err != nil {
			return err
		}
	}
	if err := tx.ready(); err != nil {
		return err
	}
	chunks := appendChunks(nil, ins, args)
	began := tx.clock()
	err := tx.conn.insert(tx.ctx, chunks)
	tx.timed(chunks[0].stmt, began)
	return tx.failed(nil, err)
}

func appendChunks(chunks []chunk, ins *Insert, args []any) []chunk {
	_ = ins.chunks(args, func(s *Stmt, args []any) error {
		chunks = append(chunks, chunk{s, args})
		return nil
	})
	return chunks
}

func (tx *Tx) bindRow(ins *Insert, args []any, row []any) ([]any, error) {
	if len(row) != ins.columns {
		return nil, fmt.Errorf("%s: %d values for %d columns", ins.name, len(row), ins.columns)
	}
	for _, a := range row {
		v, err := bindValue(tx.db.dialect, a)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ins.name, err)
		}
		args = append(args, v)
	}
	return args, nil
}

// Append buffers a row. All buffers of a batch are inserted just before COMMIT, in the order in which the Inserts were
// registered. The values must not change until then. It panics on a wrong number or kind of values, which fails the
// operation.
func (tx *Tx) Append(ins *Insert, row ...any) {
	b := tx.writing()
	for ins.id >= len(b.buffers) {
		b.buffers = append(b.buffers, nil)
	}
	args, err := tx.bindRow(ins, b.buffers[ins.id], row)
	if err != nil {
		panic(err)
	}
	b.buffers[ins.id] = args
}

// Scratch is a value shared by all operations of one batch; make makes it for the first that asks.
func (tx *Tx) Scratch(key any, make func() any) any {
	b := tx.writing()
	v, ok := b.scratch[key]
	if !ok {
		v = make()
		if b.scratch == nil {
			b.scratch = map[any]any{}
		}
		b.scratch[key] = v
	}
	return v
}

// BeforeCommit runs fn once after all Writes of the batch, before the buffered rows are inserted. An error fails the
// batch as a Write's does.
func (tx *Tx) BeforeCommit(fn func() error) {
	b := tx.writing()
	b.before = append(b.before, fn)
}

// AfterCommit runs fn once after COMMIT, before the Committed callbacks and OnPublish, on the writer goroutine: it must
// not block. last is the batch's last position, 0 when it took none. A batch that fails does not run it.
func (tx *Tx) AfterCommit(fn func(last int64)) {
	b := tx.writing()
	b.after = append(b.after, fn)
}

func (tx *Tx) writing() *batch {
	if tx.batch == nil {
		panic("sqldb: a read transaction cannot write")
	}
	return tx.batch
}

// rollback ends the transaction, with a result that an operation left open.
func (tx *Tx) rollback() {
	if tx.open != nil {
		tx.open.Close()
	}
	tx.conn.rollback()
}

// start makes the transaction ready for a statement and binds its arguments.
func (tx *Tx) start(s *Stmt, args []any) error {
	if err := tx.ready(); err != nil {
		return stmtErr(s, err)
	}
	tx.bound = tx.bound[:0]
	for i, a := range args {
		v, err := bindValue(tx.db.dialect, a)
		if err != nil {
			return fmt.Errorf("%s: argument %d: %w", s.name, i+1, err)
		}
		tx.bound = append(tx.bound, v)
	}
	return nil
}

func (tx *Tx) ready() error {
	if tx.err != nil {
		return fmt.Errorf("a statement of this transaction has failed: %w", tx.err)
	}
	if tx.open != nil {
		return fmt.Errorf("the rows of %s are still open", tx.open.stmt.name)
	}
	return tx.ctx.Err()
}

func (tx *Tx) failed(s *Stmt, err error) error {
	if err == nil {
		return nil
	}
	if s != nil {
		err = stmtErr(s, err)
	}
	if tx.err == nil {
		tx.err = err
	}
	return err
}

func (tx *Tx) clock() time.Time {
	if tx.batch == nil {
		return time.Time{}
	}
	return time.Now()
}

func (tx *Tx) timed(s *Stmt, began time.Time) {
	if tx.batch == nil {
		return
	}
	if d := time.Since(began); d > tx.batch.slowest {
		tx.batch.slowest, tx.batch.slowStmt = d, s
	}
}
