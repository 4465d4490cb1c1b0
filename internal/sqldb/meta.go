package sqldb

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
)

var (
	metaGet = Register("sqldb.metaGet", "SELECT value FROM meta WHERE key = $1")
	metaSet = Register("sqldb.metaSet",
		"INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")
	metaInit = Register("sqldb.metaInit", "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING")

	sqliteTakePosition = RegisterFor(SQLite, "sqldb.takePosition", "UPDATE position SET pos = pos + ?1 RETURNING pos")
	sqlitePosition     = RegisterFor(SQLite, "sqldb.position", "SELECT pos FROM position")

	pgLockPosition = RegisterFor(Postgres, "sqldb.lockPosition", "SELECT pg_advisory_xact_lock($1)")
	pgTakePosition = RegisterFor(Postgres, "sqldb.takeTick",
		"INSERT INTO ticks (pos) SELECT max(pos) + $1::bigint FROM ticks RETURNING pos")
	pgPruneTicks = RegisterFor(Postgres, "sqldb.pruneTicks",
		"DELETE FROM ticks WHERE pos < (SELECT max(pos) FROM ticks)")
	pgPosition = RegisterFor(Postgres, "sqldb.lastTick", "SELECT max(pos) FROM ticks")
)

// Meta reads a value of the database itself, such as its epoch; nil when it was never set.
func (db *DB) Meta(ctx context.Context, key string) (value []byte, err error) {
	err = db.Read(ctx, func(tx *Tx) error { return tx.QueryRow(metaGet, key).Scan(&value) })
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return value, err
}

// SetMeta sets a value through the writer.
func (db *DB) SetMeta(ctx context.Context, key string, value []byte) error {
	return db.Do(ctx, &Op{Name: "sqldb.setMeta", Write: func(tx *Tx, _ int64) error {
		_, err := tx.Exec(metaSet, key, value)
		return err
	}})
}

// Epoch is a random word made when the database was created; a restore sets another. It is known after Migrate.
func (db *DB) Epoch() string { return db.epoch }

// loadEpoch makes the epoch on the first start and reads it on every one.
func (db *DB) loadEpoch(ctx context.Context) error {
	tx := &Tx{db: db, ctx: ctx, conn: db.write}
	if err := tx.conn.begin(ctx, true); err != nil {
		return err
	}
	defer tx.conn.rollback()
	if _, err := tx.Exec(metaInit, "epoch", rand.Text()[:12]); err != nil {
		return err
	}
	if err := tx.QueryRow(metaGet, "epoch").Scan(&db.epoch); err != nil {
		return err
	}
	return tx.conn.commit(ctx, nil)
}
