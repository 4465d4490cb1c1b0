package sqldb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pgConn drives pgx without database/sql, which allows pipelining: BEGIN travels with the first statement, the buffered
// inserts with COMMIT, and nobody waits for the end of a read. One SELECT is one round trip.
type pgConn struct {
	cfg  *pgx.ConnConfig
	c    *pgx.Conn
	xid  string // of the transaction under way, to learn its fate when the connection breaks during COMMIT
	rows pgRows
	took int

	unsent beginning        // a transaction begun here and not yet at the server
	ending *pgconn.Pipeline // a ROLLBACK whose answer has not been read
}

// beginning says what to send before a transaction's first statement.
type beginning uint8

const (
	nothing beginning = iota
	readBegin
	writeBegin
)

// tickLock is the advisory lock that makes the order of positions the order of commits, over all nodes.
const tickLock = 0x6b6e6f636b // "knock"

func pgConfig(url string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("database URL: write postgres://user@host/database (the address given could not be read)")
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "knock"
	}
	cfg.StatementCacheCapacity = 2048
	return cfg, nil
}

func openPostgres(ctx context.Context, cfg *pgx.ConnConfig) (*pgConn, error) {
	c := &pgConn{cfg: cfg}
	c.rows.conn = c
	return c, c.dial(ctx)
}

func (c *pgConn) dial(ctx context.Context) (err error) {
	c.c, err = pgx.ConnectConfig(ctx, c.cfg.Copy())
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return nil
}

func (c *pgConn) begin(ctx context.Context, write bool) error {
	c.settle()
	if !c.usable() {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	c.unsent = readBegin
	if write {
		c.unsent, c.xid = writeBegin, ""
	}
	return nil
}

// batch is a pgx batch that begins the transaction if that is still to do.
func (c *pgConn) batch() *pgx.Batch {
	b := &pgx.Batch{}
	switch c.unsent {
	case readBegin:
		b.Queue("begin isolation level repeatable read read only")
	case writeBegin:
		b.Queue("begin isolation level read committed")
		b.Queue("select pg_current_xact_id()::text").QueryRow(func(r pgx.Row) error { return r.Scan(&c.xid) })
	}
	c.unsent = nothing
	return b
}

// opening runs a transaction's first round trip, a second time on a new connection when the old one turns out to have
// gone while it was idle: nothing of the transaction has happened then.
func (c *pgConn) opening(ctx context.Context, run func(b *pgx.Batch) error) error {
	kind := c.unsent
	err := run(c.batch())
	if kind == nothing || err == nil || c.usable() {
		return err
	}
	if derr := c.dial(ctx); derr != nil {
		return errors.Join(err, derr)
	}
	c.unsent = kind
	return run(c.batch())
}

// send sends a batch made by queue.
func (c *pgConn) send(ctx context.Context, queue func(b *pgx.Batch)) error {
	return c.opening(ctx, func(b *pgx.Batch) error {
		queue(b)
		return c.c.SendBatch(ctx, b).Close()
	})
}

func (c *pgConn) exec(ctx context.Context, s *Stmt, args []any) (n int64, err error) {
	if c.unsent == nothing {
		tag, err := c.c.Exec(ctx, s.text[Postgres], args...)
		return tag.RowsAffected(), err
	}
	err = c.send(ctx, func(b *pgx.Batch) {
		b.Queue(s.text[Postgres], args...).Exec(func(tag pgconn.CommandTag) error { n = tag.RowsAffected(); return nil })
	})
	return n, err
}

func (c *pgConn) query(ctx context.Context, s *Stmt, args []any) (rows, error) {
	if c.unsent == nothing {
		r, err := c.c.Query(ctx, s.text[Postgres], args...)
		if err != nil {
			return nil, err
		}
		c.rows.r = r
		return &c.rows, nil
	}
	err := c.opening(ctx, func(b *pgx.Batch) error { return c.queryBatch(ctx, b, s, args) })
	if err != nil {
		return nil, err
	}
	return &c.rows, nil
}

// queryBatch begins the transaction and opens the rows of its first query.
func (c *pgConn) queryBatch(ctx context.Context, b *pgx.Batch, s *Stmt, args []any) error {
	b.Queue(s.text[Postgres], args...)
	results := c.c.SendBatch(ctx, b)
	for _, q := range b.QueuedQueries[:b.Len()-1] {
		if err := beginResult(results, q); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	r, err := results.Query()
	if err != nil {
		return errors.Join(err, results.Close())
	}
	c.rows.r, c.rows.batch = r, results
	return nil
}

// beginResult reads the answer to one of the statements that begin a transaction.
func beginResult(results pgx.BatchResults, q *pgx.QueuedQuery) error {
	if q.Fn != nil {
		return q.Fn(results)
	}
	_, err := results.Exec()
	return err
}

// position takes the lock and appends to ticks in one round trip, in two statements: the second one's snapshot must be
// younger than the lock. An updated row would degrade under any long snapshot; ticks is appended to and pruned.
func (c *pgConn) position(ctx context.Context, n int64) (pos int64, err error) {
	c.took++
	err = c.send(ctx, func(b *pgx.Batch) {
		b.Queue(pgLockPosition.text[Postgres], int64(tickLock))
		b.Queue(pgTakePosition.text[Postgres], n).QueryRow(func(r pgx.Row) error { return r.Scan(&pos) })
		if c.took%256 == 0 {
			b.Queue(pgPruneTicks.text[Postgres])
		}
	})
	return pos, err
}

func (c *pgConn) insert(ctx context.Context, chunks []chunk) error {
	return c.send(ctx, func(b *pgx.Batch) { queueChunks(b, chunks) })
}

func queueChunks(b *pgx.Batch, chunks []chunk) {
	for _, ch := range chunks {
		b.Queue(ch.stmt.text[Postgres], ch.args...)
	}
}

// commit sends a BEGIN that is still to do by itself: without the transaction's number its fate could not be told.
func (c *pgConn) commit(ctx context.Context, chunks []chunk) error {
	if c.unsent != nothing {
		if err := c.send(ctx, func(*pgx.Batch) {}); err != nil {
			return err
		}
	}
	var b pgx.Batch
	queueChunks(&b, chunks)
	b.Queue("commit")
	err := c.c.SendBatch(ctx, &b).Close()
	if err != nil && !c.usable() {
		return c.fate(ctx, err)
	}
	return err
}

// fate asks a new connection whether the transaction whose COMMIT broke off was committed: running its operations again
// would do them twice.
func (c *pgConn) fate(ctx context.Context, cause error) error {
	for {
		status := "in progress"
		err := c.dial(ctx)
		if err == nil {
			err = c.c.QueryRow(ctx, "select pg_xact_status($1::text::xid8)", c.xid).Scan(&status)
		}
		switch {
		case status == "committed":
			return nil
		case status == "aborted":
			return errors.Join(errAborted, cause)
		}
		select {
		case <-ctx.Done():
			return errors.Join(errUnknownFate, cause, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// errUnreachable says that no connection could be made.
var errUnreachable = errors.New("cannot connect to PostgreSQL")

// errAborted says that the connection broke during COMMIT and the transaction was not committed.
var errAborted = errors.New("the connection to the database broke")

// errUnknownFate says that nobody can tell whether a transaction was committed. Its operations are not run again.
var errUnknownFate = errors.New("the connection broke during COMMIT and the database stayed away")

// rollback sends ROLLBACK and leaves its answer to the next use of the connection.
func (c *pgConn) rollback() {
	c.unsent = nothing
	if !c.usable() || c.c.PgConn().TxStatus() == 'I' {
		return
	}
	if c.c.PgConn().IsBusy() {
		_ = c.close()
		return
	}
	c.ending = c.c.PgConn().StartPipeline(context.Background())
	c.ending.SendQueryParams("rollback", nil, nil, nil, nil)
	if err := c.ending.Sync(); err != nil {
		c.settle()
	}
}

// settle reads what a ROLLBACK left to read. The server answers it at once, or the connection is of no use.
func (c *pgConn) settle() {
	if c.ending == nil {
		return
	}
	abort := time.AfterFunc(10*time.Second, func() { c.c.PgConn().Conn().Close() })
	defer abort.Stop()
	err := c.ending.Close()
	c.ending = nil
	if err != nil {
		_ = c.close()
	}
}

func (c *pgConn) prepare(ctx context.Context, s *Stmt) error {
	c.settle()
	_, err := c.c.Prepare(ctx, "", s.text[Postgres])
	return err
}

func (c *pgConn) script(ctx context.Context, sql string) error {
	c.settle()
	if c.unsent != nothing {
		if err := c.send(ctx, func(*pgx.Batch) {}); err != nil {
			return err
		}
	}
	_, err := c.c.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func (c *pgConn) usable() bool { return c.c != nil && !c.c.IsClosed() }

func (c *pgConn) close() error {
	if c.c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.c.Close(ctx)
}
