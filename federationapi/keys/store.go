package keys

import (
	"context"
	"errors"

	"knock/internal/sqldb"
)

var (
	keysOf = sqldb.Register("keys.of",
		`SELECT server, key_id, key, valid_until, expired FROM server_keys WHERE server = ANY($1::bytea[])`)
	untilOf = sqldb.Register("keys.untilOf",
		`SELECT server, valid_until FROM server_key_answers WHERE server = ANY($1::bytea[])`)
	answersOf = sqldb.Register("keys.answersOf",
		`SELECT answer FROM server_key_answers WHERE server = ANY($1::bytea[]) ORDER BY server`)
	dropKeys = sqldb.Register("keys.drop", `DELETE FROM server_keys WHERE server = $1`)
	putKey   = sqldb.Register("keys.put",
		`INSERT INTO server_keys (server, key_id, key, valid_until, expired) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (server, key_id) DO UPDATE SET key = excluded.key, valid_until = excluded.valid_until, expired = excluded.expired`)
	putAnswer = sqldb.Register("keys.putAnswer",
		`INSERT INTO server_key_answers (server, valid_until, fetched, answer) VALUES ($1, $2, $3, $4)
		ON CONFLICT (server) DO UPDATE SET valid_until = excluded.valid_until, fetched = excluded.fetched, answer = excluded.answer`)
)

// load reads what the database knows about servers that are not in memory yet.
func (r *Ring) load(ctx context.Context, names []string) error {
	todo := map[string]*server{}
	var list [][]byte
	for _, name := range names {
		s := r.server(name)
		s.mu.Lock()
		if !s.loaded && todo[name] == nil {
			todo[name] = s
			list = append(list, []byte(name))
		}
		s.mu.Unlock()
	}
	if len(list) == 0 {
		return nil
	}
	var rows []keyRow
	var until []untilRow
	err := r.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if rows, err = sqldb.Collect(tx, keysOf, scanKey, list); err != nil {
			return err
		}
		until, err = sqldb.Collect(tx, untilOf, scanUntil, list)
		return err
	})
	if err != nil {
		return err
	}
	fill(todo, rows, until)
	return nil
}

type keyRow struct {
	server, id string
	key        verifyKey
}

type untilRow struct {
	server string
	until  int64
}

func scanKey(rows *sqldb.Rows) (k keyRow, err error) {
	err = rows.Scan(&k.server, &k.id, (*[]byte)(&k.key.key), &k.key.validUntil, &k.key.expired)
	return k, err
}

func scanUntil(rows *sqldb.Rows) (u untilRow, err error) {
	err = rows.Scan(&u.server, &u.until)
	return u, err
}

// fill puts rows into entries; what was fetched meanwhile is newer and stays.
func fill(todo map[string]*server, rows []keyRow, until []untilRow) {
	for _, row := range rows {
		s := todo[row.server]
		s.mu.Lock()
		if _, ok := s.keys[row.id]; !ok {
			s.keys[row.id] = row.key
		}
		s.mu.Unlock()
	}
	for _, row := range until {
		s := todo[row.server]
		s.mu.Lock()
		if s.until == 0 {
			s.until = row.until
		}
		s.mu.Unlock()
	}
	for _, s := range todo {
		s.mu.Lock()
		s.loaded = true
		s.mu.Unlock()
	}
}

// answers returns the newest answers of servers, as they signed them.
func (r *Ring) answers(ctx context.Context, names []string) (list [][]byte, err error) {
	err = r.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		list, err = sqldb.Collect(tx, answersOf, func(rows *sqldb.Rows) (raw []byte, err error) {
			err = rows.Scan(&raw)
			return raw, err
		}, names)
		return err
	})
	return list, err
}

// store writes what an answer changed. A failure is logged only: the keys are in memory and can be fetched again.
func (r *Ring) store(ctx context.Context, a *answer, c change) {
	if len(c.keys) == 0 {
		return
	}
	now := r.o.Clock.Millis()
	server := []byte(a.ServerName)
	err := r.o.DB.Do(ctx, &sqldb.Op{Name: "keys.store", Write: func(tx *sqldb.Tx, _ int64) error {
		if c.reset {
			if _, err := tx.Exec(dropKeys, server); err != nil {
				return err
			}
		}
		for id, k := range c.keys {
			if _, err := tx.Exec(putKey, server, []byte(id), []byte(k.key), k.validUntil, k.expired); err != nil {
				return err
			}
		}
		_, err := tx.Exec(putAnswer, server, a.until(now), now, a.raw)
		return err
	}})
	if err != nil && !errors.Is(err, context.Canceled) {
		r.o.Log.WithError(err).WithField("server", a.ServerName).Warn("Keys of a server could not be stored")
	}
}
