package sqldb

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// pgConn drives pgx without database/sql, which allows pipelining: BEGIN travels with the question of the transaction's
// number, and the buffered inserts with COMMIT.
type pgConn struct {
	cfg  *pgx.ConnConfig
	c    *pgx.Conn
	xid  string // of the transaction under way, to learn its fate when the connection breaks during COMMIT
	rows pgRows
	took int
}

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
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	return nil
}

func (c *pgConn) begin(ctx context.Context, write bool) error {
	if !c.usable() {
		if err := c.dial(ctx); err != nil {
			return err
		}
	}
	if !write {
		_, err := c.c.Exec(ctx, "begin isolation level repeatable read read only")
		return err
	}
	var b pgx.Batch
	b.Queue("begin")
	b.Queue("select pg_current_xact_id()::text").QueryRow(func(r pgx.Row) error { return r.Scan(&c.xid) })
	return c.c.SendBatch(ctx, &b).Close()
}

func (c *pgConn) exec(ctx context.Context, s *Stmt, args []any) (int64, error) {
	tag, err := c.c.Exec(ctx, s.text[Postgres], args...)
	return tag.RowsAffected(), err
}

func (c *pgConn) query(ctx context.Context, s *Stmt, args []any) (rows, error) {
	r, err := c.c.Query(ctx, s.text[Postgres], args...)
	if err != nil {
		return nil, err
	}
	c.rows.r = r
	return &c.rows, nil
}

// position takes the lock and appends to ticks in one round trip, in two statements: the second one's snapshot must be
// younger than the lock. An updated row would degrade under any long snapshot; ticks is appended to and pruned.
func (c *pgConn) position(ctx context.Context, n int64) (pos int64, err error) {
	var b pgx.Batch
	b.Queue(pgLockPosition.text[Postgres], int64(tickLock))
	b.Queue(pgTakePosition.text[Postgres], n).QueryRow(func(r pgx.Row) error { return r.Scan(&pos) })
	if c.took++; c.took%256 == 0 {
		b.Queue(pgPruneTicks.text[Postgres])
	}
	return pos, c.c.SendBatch(ctx, &b).Close()
}

func (c *pgConn) insert(ctx context.Context, chunks []chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	var b pgx.Batch
	queueChunks(&b, chunks)
	return c.c.SendBatch(ctx, &b).Close()
}

func queueChunks(b *pgx.Batch, chunks []chunk) {
	for _, ch := range chunks {
		b.Queue(ch.stmt.text[Postgres], ch.args...)
	}
}

func (c *pgConn) commit(ctx context.Context, chunks []chunk) error {
	var b pgx.Batch
	queueChunks(&b, chunks)
	b.Queue("commit")
	err := c.c.SendBatch(ctx, &b).Close()
	if err != nil && c.c.IsClosed() && c.xid != "" {
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
			return cause
		}
		select {
		case <-ctx.Done():
			return errors.Join(errUnknownFate, cause, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// errUnknownFate says that nobody can tell whether a transaction was committed. Its operations are not run again.
var errUnknownFate = errors.New("the connection broke during COMMIT and the database stayed away")

func (c *pgConn) rollback() {
	if !c.usable() || c.c.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.c.Exec(ctx, "rollback"); err != nil {
		c.c.Close(ctx)
	}
}

func (c *pgConn) prepare(ctx context.Context, s *Stmt) error {
	_, err := c.c.Prepare(ctx, "", s.text[Postgres])
	return err
}

func (c *pgConn) script(ctx context.Context, sql string) error {
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

type pgRows struct {
	conn *pgConn
	r    pgx.Rows
}

func (r *pgRows) next() bool { return r.r.Next() }

func (r *pgRows) close() error {
	r.r.Close()
	return r.r.Err()
}

func (r *pgRows) scan(dest []any) error {
	raw, fields := r.r.RawValues(), r.r.FieldDescriptions()
	if len(dest) != len(raw) {
		return fmt.Errorf("%d columns for %d destinations", len(raw), len(dest))
	}
	for i, d := range dest {
		if p, ok := d.(*int64); ok && fields[i].DataTypeOID == pgtype.Int8OID && len(raw[i]) == 8 && fields[i].Format == 1 {
			*p = int64(binary.BigEndian.Uint64(raw[i]))
			continue
		}
		v, err := r.decode(fields[i].DataTypeOID, fields[i].Format, raw[i])
		if err == nil {
			err = assign(d, v)
		}
		if err != nil {
			return columnErr(i, err)
		}
	}
	return nil
}

// decode turns a column into one of the values that SQLite gives for it.
func (r *pgRows) decode(oid uint32, format int16, raw []byte) (any, error) {
	if raw == nil {
		return nil, nil
	}
	if format != pgtype.BinaryFormatCode {
		return r.decodeOther(oid, format, raw)
	}
	switch {
	case oid == pgtype.Int8OID && len(raw) == 8:
		return int64(binary.BigEndian.Uint64(raw)), nil
	case oid == pgtype.Int4OID && len(raw) == 4:
		return int64(int32(binary.BigEndian.Uint32(raw))), nil
	case oid == pgtype.Int2OID && len(raw) == 2:
		return int64(int16(binary.BigEndian.Uint16(raw))), nil
	case oid == pgtype.BoolOID && len(raw) == 1:
		return int64(raw[0]), nil
	case oid == pgtype.Float8OID && len(raw) == 8:
		return math.Float64frombits(binary.BigEndian.Uint64(raw)), nil
	case oid == pgtype.ByteaOID, oid == pgtype.TextOID, oid == pgtype.VarcharOID, oid == pgtype.NameOID:
		return append(make([]byte, 0, len(raw)), raw...), nil
	}
	return r.decodeOther(oid, format, raw)
}

func (r *pgRows) decodeOther(oid uint32, format int16, raw []byte) (any, error) {
	m := r.conn.c.TypeMap()
	typ, ok := m.TypeForOID(oid)
	if !ok {
		return nil, fmt.Errorf("type %d of PostgreSQL is not supported", oid)
	}
	v, err := typ.Codec.DecodeValue(m, oid, format, raw)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case pgtype.Numeric: // sum of a BIGINT
		if n, err := v.Int64Value(); err == nil {
			return n.Int64, nil
		}
		f, err := v.Float64Value()
		return f.Float64, err
	case int16:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	}
	return v, nil
}
