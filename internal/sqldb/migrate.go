package sqldb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
)

const createVersions = "CREATE TABLE IF NOT EXISTS schema_migrations (" +
	"version BIGINT PRIMARY KEY, name BYTEA NOT NULL, applied_ts BIGINT NOT NULL)"

var (
	selectVersions = Register("sqldb.versions", "SELECT version FROM schema_migrations")
	insertVersion  = Register("sqldb.addVersion",
		"INSERT INTO schema_migrations (version, name, applied_ts) VALUES ($1, $2, $3)")
)

// migration is one schema file.
type migration struct {
	version int64
	name    string
	sql     string
}

// Migrate brings the schema up to the newest of files ("NNNN_name.sql"), each in one transaction. On PostgreSQL an
// advisory lock keeps other nodes waiting. It returns ErrNewerSchema when the database has a migration that files lack.
// Call it before Start.
func (db *DB) Migrate(ctx context.Context, files fs.FS) error {
	list, err := readMigrations(files, db.dialect)
	if err != nil {
		return err
	}
	if db.dialect == Postgres {
		if err := db.write.script(ctx, fmt.Sprintf("SELECT pg_advisory_lock(%d)", tickLock+1)); err != nil {
			return fmt.Errorf("wait for another node's migration: %w", err)
		}
		defer db.write.script(ctx, fmt.Sprintf("SELECT pg_advisory_unlock(%d)", tickLock+1))
	}
	if err := db.write.script(ctx, SchemaText(db.dialect, createVersions)); err != nil {
		return fmt.Errorf("create schema_migrations: %w", err)
	}
	applied, err := db.appliedVersions(ctx)
	if err != nil {
		return err
	}
	if err := checkNewer(applied, list); err != nil {
		return err
	}
	for _, m := range list {
		if slices.Contains(applied, m.version) {
			continue
		}
		if err := db.apply(ctx, m); err != nil {
			return fmt.Errorf("migration %s: %w", m.name, err)
		}
		db.log.WithField("migration", m.name).Debug("Migrated the database")
	}
	return db.loadEpoch(ctx)
}

func (db *DB) appliedVersions(ctx context.Context) ([]int64, error) {
	tx := &Tx{db: db, ctx: ctx, conn: db.write}
	return Collect(tx, selectVersions, func(r *Rows) (v int64, err error) { return v, r.Scan(&v) })
}

func checkNewer(applied []int64, list []migration) error {
	for _, v := range applied {
		if !slices.ContainsFunc(list, func(m migration) bool { return m.version == v }) {
			return fmt.Errorf("%w: it has schema version %d and this program does not know it; "+
				"start the newer version again, or restore the backup made before the update", ErrNewerSchema, v)
		}
	}
	return nil
}

func (db *DB) apply(ctx context.Context, m migration) error {
	tx := &Tx{db: db, ctx: ctx, conn: db.write}
	if err := tx.conn.begin(ctx, true); err != nil {
		return err
	}
	defer tx.conn.rollback()
	if err := tx.conn.script(ctx, m.sql); err != nil {
		return err
	}
	if _, err := tx.Exec(insertVersion, m.version, m.name, time.Now().UnixMilli()); err != nil {
		return err
	}
	return tx.conn.commit(ctx, nil)
}

func readMigrations(files fs.FS, d Dialect) ([]migration, error) {
	names, err := fs.Glob(files, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var list []migration
	for _, name := range names {
		number, _, ok := strings.Cut(name, "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil || version <= 0 {
			return nil, fmt.Errorf("schema file %s: the name must be NNNN_name.sql", name)
		}
		if len(list) > 0 && list[len(list)-1].version == version {
			return nil, fmt.Errorf("schema files %s and %s have the same number", list[len(list)-1].name, name)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		list = append(list, migration{version, name, SchemaText(d, string(text))})
	}
	if len(list) == 0 {
		return nil, errors.New("there are no schema files")
	}
	return list, nil
}

// SchemaText turns a schema file into the engine's own SQL; the package comment says what may be in one.
func SchemaText(d Dialect, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasSuffix(trimmed, "-- only: "+(1-d).String()):
			continue
		case strings.HasPrefix(trimmed, "-- "+d.String()+": "):
			line = strings.TrimPrefix(trimmed, "-- "+d.String()+": ") + "\n"
		}
		b.WriteString(line)
	}
	if d == Postgres {
		return b.String()
	}
	return sqliteTypes(b.String())
}

// sqliteTypes names the types as SQLite does. INTEGER matters: only "INTEGER PRIMARY KEY" is the rowid.
func sqliteTypes(sql string) string {
	var b strings.Builder
	for _, t := range tokenize(sql) {
		switch {
		case t.is("BYTEA"):
			b.WriteString("BLOB")
		case t.is("BIGINT"):
			b.WriteString("INTEGER")
		default:
			b.WriteString(t.text)
		}
	}
	return b.String()
}
