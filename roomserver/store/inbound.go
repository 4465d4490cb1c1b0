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
	Error     string // of the last failure; filled in by InboundAside only
}

// Bounds of inbound rows.
const (
	maxFailures     = 3   // how often a row is tried before it is left aside
	maxInboundError = 500 // bytes of an error that are kept
	maxAside        = 100 // rows of an answer of InboundAside
)

var (
	insertInbound = sqldb.RegisterInsert("inbound.insert", `INSERT INTO inbound (seq, room, id, origin, received, failures, data) VALUES`, 7,
		`ON CONFLICT (room, id) DO UPDATE SET failures = excluded.failures`)
	lineInbound   = sqldb.Register("inbound.line", `SELECT seq, origin FROM inbound WHERE room = $1 AND failures < $2 ORDER BY seq`)
	loadInbound   = sqldb.Register("inbound.load", `SELECT seq, room, id, origin, failures, data FROM inbound WHERE seq = ANY($1::bigint[]) AND failures < $2 ORDER BY seq`)
	asideInbound  = sqldb.Register("inbound.aside", `SELECT seq, room, id, origin, failures, error FROM inbound WHERE room = $1 AND failures >= $2 ORDER BY seq LIMIT $3`)
	countInbound  = sqldb.Register("inbound.count", `SELECT count(*) FROM inbound WHERE room = $1 AND failures < $2`)
	countOrigin   = sqldb.Register("inbound.countOrigin", `SELECT count(*) FROM inbound WHERE origin = $1 AND failures < $2`)
	countShare    = sqldb.Register("inbound.countShare", `SELECT count(*) FROM inbound WHERE origin = $1 AND room = $2 AND failures < $3`)
	originInbound = sqldb.Register("inbound.origin", `SELECT origin FROM inbound WHERE room = $1 AND failures < $2 ORDER BY seq LIMIT 1`)
	roomsInbound  = sqldb.Register("inbound.rooms", `SELECT DISTINCT room FROM inbound WHERE failures < $1`)
	deleteInbound = sqldb.Register("inbound.delete", `DELETE FROM inbound WHERE seq = $1`)
	failInbound   = sqldb.Register("inbound.fail", `UPDATE inbound SET failures = failures + 1, error = $2 WHERE seq = $1`)
	sweepInbound  = sqldb.Register("inbound.sweep", `DELETE FROM inbound WHERE failures >= $1 AND received < $2`)
)

// AddInbound queues PDUs. One that is queued already has all its turns again: its
// server may have by now what it lacked.
func (s *Store) AddInbound(tx *sqldb.Tx, rows []Inbound, now int64) error {
	values := make([][]any, len(rows))
	for i, r := range rows {
		values[i] = []any{r.Seq, r.Room, []byte(r.ID), []byte(r.Origin), now, 0, r.Data}
	}
	return tx.Insert(insertInbound, values...)
}

// InboundLine returns all queued PDUs of a room that have not failed too often, oldest first: only Seq and Origin.
func (s *Store) InboundLine(tx *sqldb.Tx, room int64) ([]Inbound, error) {
	return sqldb.Collect(tx, lineInbound, func(rows *sqldb.Rows) (r Inbound, err error) {
		var origin []byte
		err = rows.Scan(&r.Seq, &origin)
		r.Room, r.Origin = room, string(origin)
		return r, err
	}, room, maxFailures)
}

// InboundRows returns queued PDUs, oldest first, as far as they are still queued.
func (s *Store) InboundRows(tx *sqldb.Tx, seqs []int64) ([]Inbound, error) {
	return sqldb.Collect(tx, loadInbound, func(rows *sqldb.Rows) (r Inbound, err error) {
		var id, origin []byte
		err = rows.Scan(&r.Seq, &r.Room, &id, &origin, &r.Failures, &r.Data)
		r.ID, r.Origin = string(id), string(origin)
		return r, err
	}, seqs, maxFailures)
}

// InboundCount returns how many PDUs of a room wait for their turn.
func (s *Store) InboundCount(tx *sqldb.Tx, room int64) (n int64, err error) {
	err = tx.QueryRow(countInbound, room, maxFailures).Scan(&n)
	return n, err
}

// Backlog is how many PDUs wait for their turn: of a room, of a server, and of the server in the room.
type Backlog struct{ Room, Origin, Share int64 }

// InboundBacklog counts what waits of a room and of the server that sent it.
func (s *Store) InboundBacklog(tx *sqldb.Tx, room int64, origin string) (b Backlog, err error) {
	if b.Room, err = s.InboundCount(tx, room); err != nil {
		return b, err
	}
	if err = tx.QueryRow(countOrigin, []byte(origin), maxFailures).Scan(&b.Origin); err != nil {
		return b, err
	}
	err = tx.QueryRow(countShare, []byte(origin), room, maxFailures).Scan(&b.Share)
	return b, err
}

// InboundOrigin returns the server that sent the PDU of a room that waits longest, "" when none waits.
func (s *Store) InboundOrigin(tx *sqldb.Tx, room int64) (string, error) {
	origins, err := sqldb.Collect(tx, originInbound, func(rows *sqldb.Rows) (origin []byte, err error) {
		err = rows.Scan(&origin)
		return origin, err
	}, room, maxFailures)
	if err != nil || len(origins) == 0 {
		return "", err
	}
	return string(origins[0]), nil
}

// InboundAside returns the first hundred PDUs of a room that failed too often,
// with their errors and without their data.
func (s *Store) InboundAside(tx *sqldb.Tx, room int64) ([]Inbound, error) {
	return sqldb.Collect(tx, asideInbound, func(rows *sqldb.Rows) (r Inbound, err error) {
		var id, origin, reason []byte
		err = rows.Scan(&r.Seq, &r.Room, &id, &origin, &r.Failures, &reason)
		r.ID, r.Origin, r.Error = string(id), string(origin), string(reason)
		return r, err
	}, room, maxFailures, maxAside)
}

// SweepInbound forgets PDUs that failed too often and came before a time in
// milliseconds.
func (s *Store) SweepInbound(tx *sqldb.Tx, before int64) error {
	_, err := tx.Exec(sweepInbound, maxFailures, before)
	return err
}

// InboundRooms returns the rooms that have queued PDUs.
func (s *Store) InboundRooms(ctx context.Context) (nids []int64, err error) {
	err = s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err = sqldb.Collect(tx, roomsInbound, scanNID, maxFailures)
		return err
	})
	return nids, err
}

// EndInbound takes a PDU off the queue, or counts a failure of it and keeps why.
func (s *Store) EndInbound(tx *sqldb.Tx, seq int64, failure error) error {
	if failure == nil {
		_, err := tx.Exec(deleteInbound, seq)
		return err
	}
	reason := failure.Error()
	_, err := tx.Exec(failInbound, seq, []byte(reason[:min(len(reason), maxInboundError)]))
	return err
}
