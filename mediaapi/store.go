package mediaapi

import (
	"context"
	"database/sql"
	"errors"

	"knock/internal/sqldb"
	"knock/mediaapi/files"
)

// store is all SQL about media.
type store struct{ db *sqldb.DB }

// medium is a row: one mxc:// URI.
type medium struct {
	origin, id  string
	hash        *files.Hash // nil while it waits for its content
	size        int64
	contentType string
	name        string
	user        string
	created     int64
	lastAccess  int64
	expires     int64 // pending only
}

var (
	insertMedium = sqldb.Register("media.insert", `INSERT INTO media
		(origin, media_id, hash, size, content_type, upload_name, user_id, created, last_access, expires)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`)
	insertPending = sqldb.Register("media.insertPending", `INSERT INTO media
		(origin, media_id, size, content_type, upload_name, user_id, created, last_access, expires)
		SELECT $1::bytea, $2::bytea, $3::bigint, $4::bytea, $4::bytea, $5::bytea, $6::bigint, $6::bigint, $7::bigint
		WHERE (SELECT COUNT(*) FROM media WHERE user_id = $5::bytea AND hash IS NULL AND expires > $6::bigint) < $8::bigint`)
	firstExpiry = sqldb.Register("media.firstExpiry",
		`SELECT COALESCE(MIN(expires), $2::bigint) FROM media WHERE user_id = $1 AND hash IS NULL AND expires > $2::bigint`)
	fillPending = sqldb.Register("media.fillPending", `UPDATE media
		SET hash = $4, size = $5, content_type = $6, upload_name = $7, created = $8, last_access = $8
		WHERE origin = $1 AND media_id = $2 AND hash IS NULL AND expires > $3`)
	selectMedium = sqldb.Register("media.select", `SELECT
		hash, size, content_type, upload_name, user_id, created, last_access, expires
		FROM media WHERE origin = $1 AND media_id = $2`)
	updateAccess = sqldb.Register("media.updateAccess",
		`UPDATE media SET last_access = $3 WHERE origin = $1 AND media_id = $2 AND last_access < $3`)
	selectUsage = sqldb.Register("media.usage",
		`SELECT COUNT(*), COALESCE(SUM(size), $2::bigint)::bigint FROM media WHERE user_id = $1 AND hash IS NOT NULL`)
	selectUsed = sqldb.Register("media.used", `SELECT hash FROM media WHERE hash = ANY($1::bytea[])
		UNION SELECT thumb FROM media_thumbnails WHERE thumb = ANY($1::bytea[])`)
	selectExpired = sqldb.Register("media.expired",
		`SELECT origin, media_id, size FROM media WHERE hash IS NULL AND expires <= $1 LIMIT $2`)
	selectStale = sqldb.Register("media.stale", `SELECT origin, media_id, size FROM media
		WHERE last_access < $1 AND origin <> $2 AND hash IS NOT NULL ORDER BY last_access LIMIT $3`)
	selectCached = sqldb.Register("media.cached",
		`SELECT COALESCE(SUM(size), $2::bigint)::bigint FROM media WHERE origin <> $1`)
	deletePending = sqldb.Register("media.deletePending",
		`DELETE FROM media WHERE origin = $1 AND media_id = $2 AND hash IS NULL`)
	deleteMedium = sqldb.Register("media.delete", `DELETE FROM media WHERE origin = $1 AND media_id = $2`)
)

// write runs one statement as an operation of its own and returns how many rows it changed. A request that ends
// does not end it.
func (s store) write(ctx context.Context, name string, stmt *sqldb.Stmt, args ...any) (n int64, err error) {
	err = s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: name, Write: func(tx *sqldb.Tx, _ int64) (err error) {
		n, err = tx.Exec(stmt, args...)
		return err
	}})
	return n, err
}

// insert adds a medium with its content. One that is there already stays as it is.
func (s store) insert(ctx context.Context, m *medium) error {
	return s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: "media_insert", Write: func(tx *sqldb.Tx, _ int64) error { return insertRow(tx, m) }})
}

func insertRow(tx *sqldb.Tx, m *medium) error {
	_, err := tx.Exec(insertMedium, m.origin, m.id, m.hash[:], m.size, m.contentType, m.name, m.user, m.created, m.lastAccess, 0)
	return err
}

// create adds a medium that waits for its content, unless its user has limit of them already.
func (s store) create(ctx context.Context, m *medium, limit int) (created bool, err error) {
	n, err := s.write(ctx, "media_create", insertPending, m.origin, m.id, 0, "", m.user, m.created, m.expires, limit)
	return n == 1, err
}

// fill gives a waiting medium its content. It reports false when it does not wait any more.
func (s store) fill(ctx context.Context, m *medium) (filled bool, err error) {
	n, err := s.write(ctx, "media_fill", fillPending, m.origin, m.id, m.created, m.hash[:], m.size, m.contentType, m.name, m.created)
	return n == 1, err
}

// get returns a medium, nil when there is none.
func (s store) get(ctx context.Context, origin, id string) (*medium, error) {
	m := &medium{origin: origin, id: id}
	var hash []byte
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(selectMedium, origin, id).
			Scan(&hash, &m.size, &m.contentType, &m.name, &m.user, &m.created, &m.lastAccess, &m.expires)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if len(hash) == len(files.Hash{}) {
		m.hash = (*files.Hash)(hash)
	}
	return m, err
}

// firstExpiry is when the first of a user's waiting media expires; now when none waits.
func (s store) firstExpiry(ctx context.Context, user string, now int64) (at int64, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(firstExpiry, user, now).Scan(&at) })
	return at, err
}

func (s store) usage(ctx context.Context, user string) (u Usage, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(selectUsage, user, 0).Scan(&u.Files, &u.Bytes) })
	return u, err
}

// touch saves when media were last used, also when ctx has ended.
func (s store) touch(ctx context.Context, at map[mxc]int64) error {
	return s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: "media_touch", Write: func(tx *sqldb.Tx, _ int64) error {
		for uri, t := range at {
			if _, err := tx.Exec(updateAccess, uri.origin, uri.id, t); err != nil {
				return err
			}
		}
		return nil
	}})
}

// sized is a medium that may go.
type sized struct {
	mxc
	size int64
}

func (s store) list(ctx context.Context, stmt *sqldb.Stmt, args ...any) (list []sized, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, stmt, func(r *sqldb.Rows) (v sized, err error) {
			err = r.Scan(&v.origin, &v.id, &v.size)
			return v, err
		}, args...)
		return err
	})
	return list, err
}

// expired lists media whose content did not come in time.
func (s store) expired(ctx context.Context, now int64, limit int) ([]sized, error) {
	return s.list(ctx, selectExpired, now, limit)
}

// stale lists media of servers other than local that were last used before a time, longest ago first.
func (s store) stale(ctx context.Context, local string, before int64, limit int) ([]sized, error) {
	return s.list(ctx, selectStale, before, local, limit)
}

// cached is the size of all media of servers other than local.
func (s store) cached(ctx context.Context, local string) (size int64, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(selectCached, local, 0).Scan(&size) })
	return size, err
}

func (s store) delete(ctx context.Context, stmt *sqldb.Stmt, list []sized) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "media_delete", Write: func(tx *sqldb.Tx, _ int64) error {
		for _, v := range list {
			if _, err := tx.Exec(stmt, v.origin, v.id); err != nil {
				return err
			}
		}
		return nil
	}})
}

// InUse returns those of the hashes that a medium or a thumbnail names (files.References).
func (s store) InUse(ctx context.Context, hashes []files.Hash) (used []files.Hash, err error) {
	list := make([][]byte, len(hashes))
	for i := range hashes {
		list[i] = hashes[i][:]
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		used, err = sqldb.Collect(tx, selectUsed, func(r *sqldb.Rows) (h files.Hash, err error) {
			err = r.Scan(&h)
			return h, err
		}, list)
		return err
	})
	return used, err
}
