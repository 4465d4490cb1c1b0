package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// sqliteConn drives mattn's connection directly: database/sql would add locks, a goroutine's worth of bookkeeping and
// several allocations to every statement.
type sqliteConn struct {
	c     *sqlite3.SQLiteConn
	stmts []*sqlite3.SQLiteStmt // by Stmt.id, prepared on first use
	ctl   map[string]*sqlite3.SQLiteStmt
	named []driver.NamedValue // reused: the driver copies what it binds
	rows  sqliteRows          // reused: one result is open at a time
}

// sqlitePragmas set up every connection. A page cache of 16 MiB and 256 MiB of mapped file bound its memory; the WAL is
// cut back to 4 MiB after a burst.
const sqlitePragmas = `PRAGMA journal_mode = WAL;
PRAGMA synchronous = %s;
PRAGMA foreign_keys = OFF;
PRAGMA cache_size = -%d;
PRAGMA mmap_size = 268435456;
PRAGMA wal_autocheckpoint = 1000;
PRAGMA journal_size_limit = 4194304;
PRAGMA temp_store = MEMORY;
PRAGMA query_only = %d`

const busyTimeout = "PRAGMA busy_timeout = 10000"

// sqlitePath takes "sqlite:path" or "sqlite:///abs/path" apart. The parameter sync=off is for tests: it trades
// durability for speed.
func sqlitePath(raw string) (path, sync string, err error) {
	path, query, _ := strings.Cut(strings.TrimPrefix(raw, "sqlite:"), "?")
	path = strings.TrimPrefix(path, "//")
	values, err := url.ParseQuery(query)
	if err != nil || path == "" {
		return "", "", fmt.Errorf("database URL %q: write sqlite:/path/to/file.db", raw)
	}
	if values.Get("sync") == "off" {
		return path, "OFF", nil
	}
	return path, "FULL", nil
}

func openSQLite(raw string, write bool) (*sqliteConn, error) {
	path, sync, err := sqlitePath(raw)
	if err != nil {
		return nil, err
	}
	if err := createPrivate(path); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_mutex=no&_busy_timeout=10000"
	dc, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	c := &sqliteConn{c: dc.(*sqlite3.SQLiteConn), ctl: make(map[string]*sqlite3.SQLiteStmt)}
	c.rows.conn = c
	cache, queryOnly := 4096, 1
	if write {
		cache, queryOnly = 16384, 0
	}
	if err := c.script(context.Background(), fmt.Sprintf(sqlitePragmas, sync, cache, queryOnly)); err != nil {
		c.close()
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return c, nil
}

// createPrivate makes a new database file readable by its owner alone; SQLite gives its log the same mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func (c *sqliteConn) prepareText(text string) (*sqlite3.SQLiteStmt, error) {
	s, err := c.c.Prepare(text)
	if err != nil {
		return nil, err
	}
	return s.(*sqlite3.SQLiteStmt), nil
}

func (c *sqliteConn) stmt(s *Stmt) (*sqlite3.SQLiteStmt, error) {
	if s.id < len(c.stmts) && c.stmts[s.id] != nil {
		return c.stmts[s.id], nil
	}
	st, err := c.prepareText(s.text[SQLite])
	if err != nil {
		return nil, err
	}
	for s.id >= len(c.stmts) {
		c.stmts = append(c.stmts, make([]*sqlite3.SQLiteStmt, s.id+64-len(c.stmts))...)
	}
	c.stmts[s.id] = st
	return st, nil
}

func (c *sqliteConn) prepare(_ context.Context, s *Stmt) error {
	_, err := c.stmt(s)
	return err
}

// control runs a statement without parameters, such as COMMIT, prepared once.
func (c *sqliteConn) control(text string) error {
	st := c.ctl[text]
	if st == nil {
		var err error
		if st, err = c.prepareText(text); err != nil {
			return err
		}
		c.ctl[text] = st
	}
	r, err := st.QueryContext(context.Background(), nil)
	if err != nil {
		return err
	}
	return r.Close()
}

func (c *sqliteConn) begin(_ context.Context, write bool) error {
	if write {
		return c.control("BEGIN IMMEDIATE")
	}
	return c.control("BEGIN")
}

func (c *sqliteConn) commit(ctx context.Context, chunks []chunk) error {
	if err := c.insert(ctx, chunks); err != nil {
		return err
	}
	return c.control("COMMIT")
}

func (c *sqliteConn) rollback() {
	if !c.c.AutoCommit() { // SQLite has rolled back itself after some errors
		_ = c.control("ROLLBACK")
	}
}

func (c *sqliteConn) bind(args []any) []driver.NamedValue {
	c.named = c.named[:0]
	for i, a := range args {
		c.named = append(c.named, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.named
}

func (c *sqliteConn) exec(ctx context.Context, s *Stmt, args []any) (int64, error) {
	if s.returns {
		r, err := c.query(ctx, s, args)
		if err != nil {
			return 0, err
		}
		var n int64
		for r.next() {
			n++
		}
		return n, r.close()
	}
	st, err := c.stmt(s)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(context.Background(), c.bind(args))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// insert goes through the driver's query path, which binds all parameters and steps in one call into C.
func (c *sqliteConn) insert(_ context.Context, chunks []chunk) error {
	for _, ch := range chunks {
		st, err := c.stmt(ch.stmt)
		if err != nil {
			return stmtErr(ch.stmt, err)
		}
		r, err := st.QueryContext(context.Background(), c.bind(ch.args))
		if err != nil {
			return stmtErr(ch.stmt, err)
		}
		if err := r.Close(); err != nil {
			return stmtErr(ch.stmt, err)
		}
	}
	return nil
}

func (c *sqliteConn) query(ctx context.Context, s *Stmt, args []any) (rows, error) {
	st, err := c.stmt(s)
	if err != nil {
		return nil, err
	}
	r, err := st.QueryContext(ctx, c.bind(args))
	if err != nil {
		return nil, err
	}
	c.rows.open(r)
	return &c.rows, nil
}

func (c *sqliteConn) position(ctx context.Context, n int64) (int64, error) {
	r, err := c.query(ctx, sqliteTakePosition, []any{n})
	if err != nil {
		return 0, err
	}
	var pos int64
	if !r.next() {
		return 0, errors.Join(errors.New("table position is empty"), r.close())
	}
	err = r.scan([]any{&pos})
	return pos, errors.Join(err, r.close())
}

func (c *sqliteConn) script(ctx context.Context, sql string) error {
	_, err := c.c.ExecContext(ctx, sql, nil)
	return err
}

// checkpoint moves the write-ahead log into the database file and empties it, unless a reader is in the way.
func (c *sqliteConn) checkpoint() error {
	err := c.script(context.Background(), "PRAGMA busy_timeout = 0; PRAGMA wal_checkpoint(TRUNCATE)")
	return errors.Join(err, c.script(context.Background(), busyTimeout))
}

func (c *sqliteConn) usable() bool { return true }

func (c *sqliteConn) close() error {
	for _, st := range c.stmts {
		if st != nil {
			st.Close()
		}
	}
	for _, st := range c.ctl {
		st.Close()
	}
	c.stmts, c.ctl = nil, nil
	return c.c.Close()
}
