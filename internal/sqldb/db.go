package sqldb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
)

// Options say which database to open.
type Options struct {
	URL        string // "sqlite:path/to/file.db", "postgres://…" or "postgresql://…"
	Readers    int    // connections for reads; 0 chooses by the number of processors
	Log        *logrus.Entry
	Registerer prometheus.Registerer
}

// DB is an open database. Its methods may be called from any goroutine.
type DB struct {
	dialect Dialect
	url     string
	pg      *pgx.ConnConfig
	log     *logrus.Entry
	metrics *metrics

	write   conn // the writer's; Migrate's before Start
	readers pool
	writer  writer
	ids     ids
	epoch   string
	publish []func(int64)
	close   sync.Once
}

// Open opens a database. It starts nothing: call Migrate and Start next.
func Open(ctx context.Context, o Options) (*DB, error) {
	db := &DB{url: o.URL, log: o.Log, metrics: newMetrics(o.Registerer)}
	if db.log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		db.log = logrus.NewEntry(silent)
	}
	switch {
	case strings.HasPrefix(o.URL, "sqlite:"):
		db.dialect = SQLite
	case strings.HasPrefix(o.URL, "postgres://"), strings.HasPrefix(o.URL, "postgresql://"):
		db.dialect = Postgres
		cfg, err := pgConfig(o.URL)
		if err != nil {
			return nil, err
		}
		db.pg = cfg
	default:
		return nil, errors.New("the database URL must begin with sqlite: or postgres://")
	}
	var err error
	if db.write, err = db.connect(ctx, true); err != nil {
		return nil, err
	}
	db.readers.init(db, o.Readers)
	db.writer.init(db)
	return db, nil
}

func (db *DB) connect(ctx context.Context, write bool) (conn, error) {
	if db.dialect == SQLite {
		c, err := openSQLite(db.url, write)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	c, err := openPostgres(ctx, db.pg)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Dialect is the engine behind db.
func (db *DB) Dialect() Dialect { return db.dialect }

// OnPublish has fn called on the writer goroutine after the Committed callbacks of each batch that took positions, with
// the last position. Set it before Start.
func (db *DB) OnPublish(fn func(pos int64)) { db.publish = append(db.publish, fn) }

// Start starts the writer. The context gives it values, not an end: Close ends it.
func (db *DB) Start(ctx context.Context) {
	db.writer.start(context.WithoutCancel(ctx))
}

// Close lets the writer finish what is queued, stops it and closes all connections.
func (db *DB) Close() error {
	var err error
	db.close.Do(func() {
		db.writer.stop()
		err = errors.Join(db.readers.close(), db.write.close())
		db.metrics.unregister()
	})
	return err
}

// Read runs fn in a read snapshot. Keep it short: it holds one of a few connections, and rows deleted meanwhile cannot
// be cleaned up. The context interrupts its queries.
func (db *DB) Read(ctx context.Context, fn func(tx *Tx) error) (err error) {
	c, err := db.readers.get(ctx)
	if err != nil {
		return err
	}
	defer func() { db.readers.put(c) }()
	if err := c.begin(ctx, false); err != nil {
		return fmt.Errorf("begin a read: %w", err)
	}
	tx := &Tx{db: db, ctx: ctx, conn: c}
	defer tx.rollback()
	return fn(tx)
}

// Position is the highest committed stream position.
func (db *DB) Position(ctx context.Context) (pos int64, err error) {
	s := sqlitePosition
	if db.dialect == Postgres {
		s = pgPosition
	}
	err = db.Read(ctx, func(tx *Tx) error { return tx.QueryRow(s).Scan(&pos) })
	return pos, err
}

// PrepareAll has the engine check every registered statement and returns what it refuses.
func (db *DB) PrepareAll(ctx context.Context) error {
	return db.Read(ctx, func(tx *Tx) error {
		var errs []error
		for _, s := range All(db.dialect) {
			if err := tx.conn.prepare(ctx, s); err != nil {
				errs = append(errs, fmt.Errorf("%w in: %s", stmtErr(s, err), s.text[db.dialect]))
				tx.conn.rollback()
			}
		}
		return errors.Join(errs...)
	})
}
