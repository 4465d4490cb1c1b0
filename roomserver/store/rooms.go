package store

import (
	"context"
	"errors"

	"knock/internal/sqldb"
)

// RoomRow is the mutable part of a room.
type RoomRow struct {
	NID         int64
	Resident    bool
	Rev         int64
	State       int64
	Extremities []int64
}

var (
	selectRoom  = sqldb.Register("rooms.select", `SELECT resident, rev, state, extremities FROM rooms WHERE nid = $1`)
	lockRoom    = sqldb.Register("rooms.lock", `SELECT rev FROM rooms WHERE nid = $1 FOR UPDATE`)
	insertRoom  = sqldb.Register("rooms.insert", `INSERT INTO rooms (nid, room_id, version, resident, rev, state, extremities) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`)
	updateRoom  = sqldb.Register("rooms.update", `UPDATE rooms SET resident = $3, rev = $4, state = $5, extremities = $6 WHERE nid = $1 AND rev = $2`)
	setVersion  = sqldb.Register("rooms.setVersion", `UPDATE rooms SET version = $2, rev = rev + 1 WHERE nid = $1 AND resident = 0`)
	allResident = sqldb.Register("rooms.resident", `SELECT nid FROM rooms WHERE resident = $1 ORDER BY nid`)
)

// RoomRow reads the mutable part of a room.
func (s *Store) RoomRow(tx *sqldb.Tx, nid int64) (RoomRow, error) {
	r := RoomRow{NID: nid}
	var resident int64
	var extremities []byte
	if err := tx.QueryRow(selectRoom, nid).Scan(&resident, &r.Rev, &r.State, &extremities); err != nil {
		return r, notFound(err)
	}
	r.Resident = resident != 0
	var err error
	r.Extremities, err = DecodeNIDs(extremities)
	return r, err
}

// LockRoom returns the revision of a room and, on PostgreSQL, locks its row
// until the transaction ends.
func (s *Store) LockRoom(tx *sqldb.Tx, nid int64) (rev int64, err error) {
	err = notFound(tx.QueryRow(lockRoom, nid).Scan(&rev))
	return rev, err
}

// InsertRoom writes a new room; it reports false when the id is taken.
func (s *Store) InsertRoom(tx *sqldb.Tx, k RoomKey, r RoomRow) (bool, error) {
	n, err := tx.Exec(insertRoom, k.NID, []byte(k.ID), []byte(k.Version.ID), flag(r.Resident), r.Rev, r.State, EncodeNIDs(r.Extremities))
	return n == 1, err
}

// ErrRevision is returned when a room changed under its handle.
var ErrRevision = errors.New("the room changed meanwhile")

// UpdateRoom writes a room whose revision was from.
func (s *Store) UpdateRoom(tx *sqldb.Tx, from int64, r RoomRow) error {
	n, err := tx.Exec(updateRoom, r.NID, from, flag(r.Resident), r.Rev, r.State, EncodeNIDs(r.Extremities))
	if err == nil && n != 1 {
		err = ErrRevision
	}
	return err
}

// SetVersion changes the version of a room that this server never was in.
func (s *Store) SetVersion(tx *sqldb.Tx, k RoomKey) error {
	n, err := tx.Exec(setVersion, k.NID, []byte(k.Version.ID))
	if err == nil && n != 1 {
		err = ErrRevision
	}
	return err
}

// ResidentRooms returns the numbers of all rooms that this server is in or was in.
func (s *Store) ResidentRooms(ctx context.Context) (nids []int64, err error) {
	err = s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err = sqldb.Collect(tx, allResident, scanNID, 1)
		return err
	})
	return nids, err
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

var (
	insertTxn = sqldb.RegisterInsert("txns.insert", `INSERT INTO txns (key, event) VALUES`, 2, `ON CONFLICT DO NOTHING`)
	selectTxn = sqldb.Register("txns.select", `SELECT event FROM txns WHERE key = $1`)
)

// Txn returns the event that a client's transaction made, or ErrNotFound.
func (s *Store) Txn(tx *sqldb.Tx, key []byte) (nid int64, err error) {
	err = notFound(tx.QueryRow(selectTxn, key).Scan(&nid))
	return nid, err
}

// InsertTxn remembers a client's transaction.
func (s *Store) InsertTxn(tx *sqldb.Tx, key []byte, nid int64) { tx.Append(insertTxn, key, nid) }

var (
	insertMissing = sqldb.Register("missing.insert", `INSERT INTO missing (room, prev, event) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	deleteMissing = sqldb.Register("missing.delete", `DELETE FROM missing WHERE room = $1 AND prev = $2`)
	isMissing     = sqldb.Register("missing.is", `SELECT count(*) FROM missing WHERE room = $1 AND prev = $2`)
	missingRoom   = sqldb.Register("missing.room", `SELECT m.prev, m.event, e.ord FROM missing m JOIN events e ON e.nid = m.event WHERE m.room = $1 AND e.ord IS NOT NULL ORDER BY e.ord DESC LIMIT $2`)
)

// Gap is an event of a room's history one of whose prev events is not here.
type Gap struct {
	Prev  string // id of the absent event
	Event int64  // the event that names it
	Ord   int64  // its place
}

// AddMissing records that event names a prev event that is not here.
func (s *Store) AddMissing(tx *sqldb.Tx, room int64, prev string, event int64) error {
	_, err := tx.Exec(insertMissing, room, []byte(prev), event)
	return err
}

// FillMissing records that a prev event arrived.
func (s *Store) FillMissing(tx *sqldb.Tx, room int64, id string) error {
	_, err := tx.Exec(deleteMissing, room, []byte(id))
	return err
}

// IsMissing reports whether an event that is here names id as a prev event.
func (s *Store) IsMissing(tx *sqldb.Tx, room int64, id string) (bool, error) {
	var n int64
	err := tx.QueryRow(isMissing, room, []byte(id)).Scan(&n)
	return n > 0, err
}

// Gaps returns up to limit gaps of a room, newest first.
func (s *Store) Gaps(tx *sqldb.Tx, room int64, limit int) ([]Gap, error) {
	return sqldb.Collect(tx, missingRoom, func(rows *sqldb.Rows) (g Gap, err error) {
		var prev []byte
		err = rows.Scan(&prev, &g.Event, &g.Ord)
		g.Prev = string(prev)
		return g, err
	}, room, limit)
}

var (
	insertRedaction = sqldb.RegisterInsert("redactions.insert", `INSERT INTO redactions (target, event, room) VALUES`, 3, `ON CONFLICT DO NOTHING`)
	redactionsOf    = sqldb.Register("redactions.of", `SELECT event FROM redactions WHERE target = $1 AND room = $2 ORDER BY event LIMIT 100`)
)

// AddRedaction records a redaction by its target's id.
func (s *Store) AddRedaction(tx *sqldb.Tx, room int64, target string, event int64) {
	tx.Append(insertRedaction, []byte(target), event, room)
}

// RedactionsOf returns the redactions of an event id that a room has.
func (s *Store) RedactionsOf(tx *sqldb.Tx, room int64, target string) ([]int64, error) {
	return sqldb.Collect(tx, redactionsOf, scanNID, []byte(target), room)
}

var (
	insertStripped = sqldb.RegisterInsert("stripped.insert", `INSERT INTO stripped (event, data) VALUES`, 2, `ON CONFLICT DO NOTHING`)
	selectStripped = sqldb.Register("stripped.select", `SELECT data FROM stripped WHERE event = $1`)
)

// AddStripped keeps the stripped state that came with an invite or a knock: a
// JSON array.
func (s *Store) AddStripped(tx *sqldb.Tx, event int64, data []byte) {
	tx.Append(insertStripped, event, data)
}

// Stripped returns what AddStripped kept, or ErrNotFound.
func (s *Store) Stripped(tx *sqldb.Tx, event int64) (data []byte, err error) {
	err = notFound(tx.QueryRow(selectStripped, event).Scan(&data))
	return data, err
}
