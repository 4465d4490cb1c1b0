package store

import (
	"context"

	"knock/internal/sqldb"
)

// Inbound is a PDU that was acknowledged to a peer and waits for its turn.
type Inbound struct {
	Seq, Room int64
	ID        string
	Origin    string
	Failures  int64
	Data      []byte // the event's JSON as it was parsed
}

// maxFailures is how often an inbound row is tried before it is left aside.
const maxFailures = 3

var (
	insertInbound = sqldb.RegisterInsert("inbound.insert", `INSERT INTO inbound (seq, room, id, origin, received, failures, data) VALUES`, 7, `ON CONFLICT DO NOTHING`)
	listInbound   = sqldb.Register("inbound.list", `SELECT seq, room, id, origin, failures, data FROM inbound WHERE room = $1 AND seq > $2 AND failures < $3 ORDER BY seq LIMIT $4`)
	countInbound  = sqldb.Register("inbound.count", `SELECT count(*) FROM inbound WHERE room = $1`)
	roomsInbound  = sqldb.Register("inbound.rooms", `SELECT DISTINCT room FROM inbound WHERE failures < $1`)
	deleteInbound = sqldb.Register("inbound.delete", `DELETE FROM inbound WHERE seq = $1`)
	failInbound   = sqldb.Register("inbound.fail", `UPDATE inbound SET failures = failures + 1 WHERE seq = $1`)
)

// AddInbound queues PDUs; one that is queued already is left as it is.
func (s *Store) AddInbound(tx *sqldb.Tx, rows []Inbound, now int64) error {
	values := make([][]any, len(rows))
	for i, r := range rows {
		values[i] = []any{r.Seq, r.Room, []byte(r.ID), []byte(r.Origin), now, 0, r.Data}
	}
	return tx.Insert(insertInbound, values...)
}

// InboundOf returns up to limit queued PDUs of a room after a row, oldest first,
// that have not failed too often.
func (s *Store) InboundOf(tx *sqldb.Tx, room, after int64, limit int) ([]Inbound, error) {
	return sqldb.Collect(tx, listInbound, func(rows *sqldb.Rows) (r Inbound, err error) {
		var id, origin []byte
		err = rows.Scan(&r.Seq, &r.Room, &id, &origin, &r.Failures, &r.Data)
		r.ID, r.Origin = string(id), string(origin)
		return r, err
	}, room, after, maxFailures, limit)
}

// InboundCount returns how many PDUs of a room are queued or were left aside.
func (s *Store) InboundCount(tx *sqldb.Tx, room int64) (n int64, err error) {
	err = tx.QueryRow(countInbound, room).Scan(&n)
	return n, err
}

// InboundRooms returns the rooms that have queued PDUs.
func (s *Store) InboundRooms(ctx context.Context) (nids []int64, err error) {
	err = s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err = sqldb.Collect(tx, roomsInbound, scanNID, maxFailures)
		return err
	})
	return nids, err
}

// EndInbound takes a PDU off the queue, or counts a failure of it.
func (s *Store) EndInbound(tx *sqldb.Tx, seq int64, failed bool) error {
	q := deleteInbound
	if failed {
		q = failInbound
	}
	_, err := tx.Exec(q, seq)
	return err
}
