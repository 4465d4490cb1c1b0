package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// Flags of an event row.
type Flags int64

// The flags of an event.
const (
	Outlier    Flags = 1 << iota // its place in the DAG is not known: it has no state
	Rejected                     // refused by the auth rules
	SoftFailed                   // refused by the state of the room when it arrived
	Outgoing                     // created here or signed through us: to be sent to other servers
	Backfilled                   // history that was fetched, never delivered live
	Gapped                       // stored while prev events were not here: history has a gap before it
	Hollow                       // kept redacted from the start: its content hash did not match
	Partial                      // its state lacks members: it came while not all of the room's were known
)

// Row is what the database knows of an event beside its JSON. Zero stands for
// absent in Tuple, Pos, State and RedactedBy; HasOrd says whether Ord counts.
type Row struct {
	NID, Room, Tuple, Type, Sender int64
	ID                             string
	Depth, TS                      int64
	Flags                          Flags
	Pos, Ord                       int64
	HasOrd                         bool
	State                          int64 // state set before the event
	RedactedBy                     int64
	Auth                           []int64
}

// Stored is an event with its row. It is immutable and shared.
type Stored struct {
	Row
	Note
	Event  *event.Event
	Erased bool // a redacted copy for who may not see what an erased sender wrote
}

const eventColumns = `e.nid, e.room, e.id, e.tuple, e.type, e.sender, e.depth, e.ts, e.flags, e.pos, e.ord, e.state, e.redacted_by, e.auth`

var (
	eventsByNID = sqldb.Register("events.byNID", `SELECT `+eventColumns+`, j.data FROM events e JOIN event_json j ON j.nid = e.nid WHERE e.nid = ANY($1::bigint[])`)
	nidByID     = sqldb.Register("events.nidByID", `SELECT nid FROM events WHERE id = $1`)
	nidsByID    = sqldb.Register("events.nidsByID", `SELECT nid, id FROM events WHERE id = ANY($1::bytea[])`)
	backOrd     = sqldb.Register("events.backOrd", `SELECT nid FROM events WHERE room = $1 AND ord < $2 ORDER BY ord DESC LIMIT $3`)
	forwardOrd  = sqldb.Register("events.forwardOrd", `SELECT nid FROM events WHERE room = $1 AND ord > $2 ORDER BY ord LIMIT $3`)
	backPos     = sqldb.Register("events.backPos", `SELECT nid FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 ORDER BY pos DESC LIMIT $4`)
	forwardPos  = sqldb.Register("events.forwardPos", `SELECT nid FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
	lastOrds    = sqldb.Register("events.lastOrd", `SELECT
		(SELECT ord FROM events WHERE room = $1 AND ord IS NOT NULL ORDER BY ord DESC LIMIT 1),
		(SELECT ord FROM events WHERE room = $1 AND ord IS NOT NULL ORDER BY ord LIMIT 1)`)
	ordAtPos  = sqldb.Register("events.ordAtPos", `SELECT ord FROM events WHERE room = $1 AND pos <= $2 AND ord IS NOT NULL ORDER BY pos DESC LIMIT 1`)
	nextOrd   = sqldb.Register("events.nextOrd", `SELECT min(ord) FROM events WHERE room = $1 AND ord > $2`)
	prevOrd   = sqldb.Register("events.prevOrd", `SELECT max(ord) FROM events WHERE room = $1 AND ord < $2`)
	nearestTS = [2]*sqldb.Stmt{
		sqldb.Register("events.nearestBack", `SELECT nid FROM events WHERE room = $1 AND ord IS NOT NULL AND ts <= $2 ORDER BY ts DESC, ord DESC LIMIT 1`),
		sqldb.Register("events.nearestForward", `SELECT nid FROM events WHERE room = $1 AND ord IS NOT NULL AND ts >= $2 ORDER BY ts, ord LIMIT 1`),
	}

	insertEvent = sqldb.RegisterInsert("events.insert", `INSERT INTO events (nid, room, id, tuple, type, sender, depth, ts, flags, pos, ord, state, redacted_by, auth) VALUES`, 14, ``)
	insertJSON  = sqldb.RegisterInsert("event_json.insert", `INSERT INTO event_json (nid, data) VALUES`, 2, ``)
	updateJSON  = sqldb.Register("event_json.update", `UPDATE event_json SET data = $2 WHERE nid = $1`)
	setRedacted = sqldb.Register("events.setRedacted", `UPDATE events SET redacted_by = $2 WHERE nid = $1`)
	placeEvent  = sqldb.Register("events.place", `UPDATE events SET flags = $2, pos = $3, ord = $4, state = $5, auth = $6 WHERE nid = $1`)
)

// hashed is what the id column holds: 32 bytes where the id is a hash.
func hashed(id string) []byte {
	if len(id) == 44 && id[0] == '$' {
		if raw, err := decodeHash(id[1:]); err == nil {
			return raw
		}
	}
	return []byte(id)
}

// decodeHash reads the URL-safe and, for room version 3, the standard alphabet.
// The version of the room decides which one unhashed writes again.
func decodeHash(text string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		raw, err = base64.RawStdEncoding.Strict().DecodeString(text)
	}
	return raw, err
}

// unhashed is the event id of a hash in a room version.
func unhashed(v *event.Version, hash []byte) string {
	if v.IDFormat == event.IDHash {
		return "$" + base64.RawStdEncoding.EncodeToString(hash)
	}
	return "$" + base64.RawURLEncoding.EncodeToString(hash)
}

// Load returns the events with the given numbers; numbers without a row are
// left out.
func (s *Store) Load(tx *sqldb.Tx, nids []int64) (map[int64]*Stored, error) {
	out := make(map[int64]*Stored, len(nids))
	var absent []int64
	for _, nid := range nids {
		if e, ok := s.events.Get(nid); ok {
			out[nid] = e
		} else {
			absent = append(absent, nid)
		}
	}
	const chunk = 1000
	for len(absent) > 0 {
		n := min(chunk, len(absent))
		if err := s.loadAbsent(tx, absent[:n], out); err != nil {
			return nil, err
		}
		absent = absent[n:]
	}
	return out, nil
}

func (s *Store) loadAbsent(tx *sqldb.Tx, nids []int64, out map[int64]*Stored) error {
	packed, err := sqldb.Collect(tx, eventsByNID, scanPacked, nids)
	if err != nil {
		return err
	}
	for _, p := range packed {
		room, err := s.RoomByNID(tx, p.row.Room)
		if err != nil {
			return err
		}
		e, err := s.unpackEvent(room.Version, p)
		if err != nil {
			return err
		}
		s.events.Put(e.NID, e)
		out[e.NID] = e
	}
	return nil
}

type packedEvent struct {
	row  Row
	id   []byte
	data []byte
}

func scanPacked(rows *sqldb.Rows) (p packedEvent, err error) {
	var pos, ord sql.NullInt64
	var auth []byte
	r := &p.row
	if err := rows.Scan(&r.NID, &r.Room, &p.id, &r.Tuple, &r.Type, &r.Sender, &r.Depth, &r.TS, &r.Flags, &pos, &ord, &r.State, &r.RedactedBy, &auth, &p.data); err != nil {
		return p, err
	}
	r.Pos, r.Ord, r.HasOrd = pos.Int64, ord.Int64, ord.Valid
	r.Auth, err = DecodeNIDs(auth)
	return p, err
}

func (s *Store) unpackEvent(v *event.Version, p packedEvent) (*Stored, error) {
	json, n, err := s.codec.unpack(p.data)
	if err != nil {
		return nil, fmt.Errorf("event %d: %w", p.row.NID, err)
	}
	if n.Version != "" {
		if v, err = versionOf(n.Version); err != nil {
			return nil, fmt.Errorf("event %d: %w", p.row.NID, err)
		}
	}
	id := string(p.id)
	if len(p.id) == 32 {
		id = unhashed(v, p.id)
	}
	e, err := event.FromStored(v, id, json)
	if err != nil {
		return nil, fmt.Errorf("event %d: %w", p.row.NID, err)
	}
	p.row.ID = id
	return &Stored{Row: p.row, Note: n.Note, Event: e}, nil
}

// Event returns one event by its number, or ErrNotFound.
func (s *Store) Event(tx *sqldb.Tx, nid int64) (*Stored, error) {
	if e, ok := s.events.Get(nid); ok {
		return e, nil
	}
	out, err := s.Load(tx, []int64{nid})
	if err != nil {
		return nil, err
	}
	if e := out[nid]; e != nil {
		return e, nil
	}
	return nil, ErrNotFound
}

// Cached returns an event that is in memory.
func (s *Store) Cached(nid int64) (*Stored, bool) { return s.events.Get(nid) }

// EventNID returns the number of an event id, or ErrNotFound.
func (s *Store) EventNID(tx *sqldb.Tx, id string) (int64, error) {
	if nid, ok := s.byID.Get(id); ok {
		return nid, nil
	}
	var nid int64
	if err := tx.QueryRow(nidByID, hashed(id)).Scan(&nid); err != nil {
		return 0, notFound(err)
	}
	s.byID.Put(id, nid)
	return nid, nil
}

// EventByID returns one event by its id, or ErrNotFound.
func (s *Store) EventByID(tx *sqldb.Tx, id string) (*Stored, error) {
	nid, err := s.EventNID(tx, id)
	if err != nil {
		return nil, err
	}
	return s.Event(tx, nid)
}

// EventNIDs returns the numbers of those event ids that have rows.
func (s *Store) EventNIDs(tx *sqldb.Tx, ids []string) (map[string]int64, error) {
	out := make(map[string]int64, len(ids))
	var keys [][]byte
	byKey := map[string]string{}
	for _, id := range ids {
		if nid, ok := s.byID.Get(id); ok {
			out[id] = nid
			continue
		}
		k := hashed(id)
		keys = append(keys, k)
		byKey[string(k)] = id
	}
	for len(keys) > 0 {
		n := min(1000, len(keys))
		if err := s.lookupIDs(tx, keys[:n], byKey, out); err != nil {
			return nil, err
		}
		keys = keys[n:]
	}
	return out, nil
}

func (s *Store) lookupIDs(tx *sqldb.Tx, keys [][]byte, byKey map[string]string, out map[string]int64) error {
	rows, err := tx.Query(nidsByID, keys)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var nid int64
		var key []byte
		if err := rows.Scan(&nid, &key); err != nil {
			return err
		}
		id := byKey[string(key)]
		out[id] = nid
		s.byID.Put(id, nid)
	}
	return rows.Err()
}

// Insert writes an event that is new. data is the result of Pack.
func (s *Store) Insert(tx *sqldb.Tx, r *Row, data []byte) {
	var pos, ord any
	if r.Pos != 0 {
		pos = r.Pos
	}
	if r.HasOrd {
		ord = r.Ord
	}
	tx.Append(insertEvent, r.NID, r.Room, hashed(r.ID), r.Tuple, r.Type, r.Sender, r.Depth, r.TS, int64(r.Flags), pos, ord, r.State, r.RedactedBy, EncodeNIDs(r.Auth))
	tx.Append(insertJSON, r.NID, data)
}

// Reread replaces an outlier's JSON by the event as another room version reads it.
func (s *Store) Reread(tx *sqldb.Tx, nid int64, e *event.Event) error {
	_, err := tx.Exec(updateJSON, nid, s.PackOutlier(e))
	return err
}

// Place gives an outlier its place in history.
func (s *Store) Place(tx *sqldb.Tx, r *Row) error {
	var pos, ord any
	if r.Pos != 0 {
		pos = r.Pos
	}
	if r.HasOrd {
		ord = r.Ord
	}
	_, err := tx.Exec(placeEvent, r.NID, int64(r.Flags), pos, ord, r.State, EncodeNIDs(r.Auth))
	return err
}

// Keep puts a committed event into the caches.
func (s *Store) Keep(e *Stored) {
	s.events.Put(e.NID, e)
	s.byID.Put(e.ID, e.NID)
}

// Forget drops an event from the cache, after its row changed.
func (s *Store) Forget(nid int64) { s.events.Delete(nid) }

// Redact replaces an event's JSON by its redacted form and names the redaction.
func (s *Store) Redact(tx *sqldb.Tx, target *Stored, by int64) (*Stored, error) {
	redacted := *target
	redacted.Event = target.Event.Redact()
	redacted.RedactedBy = by
	if _, err := tx.Exec(setRedacted, target.NID, by); err != nil {
		return nil, err
	}
	packed := s.Pack(redacted.Event, target.Note)
	if target.Flags&Outlier != 0 {
		packed = s.PackOutlier(redacted.Event)
	}
	_, err := tx.Exec(updateJSON, target.NID, packed)
	return &redacted, err
}

// EncodeNIDs packs event numbers.
func EncodeNIDs(nids []int64) []byte {
	out := make([]byte, 0, 4*len(nids))
	for _, n := range nids {
		out = binary.AppendUvarint(out, uint64(n))
	}
	return out
}

var errNIDs = errors.New("a list of event numbers is damaged")

// DecodeNIDs is the inverse of EncodeNIDs.
func DecodeNIDs(data []byte) ([]int64, error) {
	var out []int64
	for len(data) > 0 {
		n, size := binary.Uvarint(data)
		if size <= 0 {
			return nil, errNIDs
		}
		out = append(out, int64(n))
		data = data[size:]
	}
	return out, nil
}

func scanNID(rows *sqldb.Rows) (nid int64, err error) {
	err = rows.Scan(&nid)
	return nid, err
}

// Page returns up to limit event numbers of a room before (back) or after ord,
// nearest first.
func (s *Store) Page(tx *sqldb.Tx, room, ord int64, back bool, limit int) ([]int64, error) {
	q := forwardOrd
	if back {
		q = backOrd
	}
	return sqldb.Collect(tx, q, scanNID, room, ord, limit)
}

// Delivered returns up to limit event numbers of a room with from < pos ≤ to,
// newest first if back.
func (s *Store) Delivered(tx *sqldb.Tx, room, from, to int64, back bool, limit int) ([]int64, error) {
	q := forwardPos
	if back {
		q = backPos
	}
	return sqldb.Collect(tx, q, scanNID, room, from, to, limit)
}

// Ords returns the highest and lowest ord of a room; ok is false when it has no
// history.
func (s *Store) Ords(tx *sqldb.Tx, room int64) (highest, lowest int64, ok bool, err error) {
	var hi, lo sql.NullInt64
	err = tx.QueryRow(lastOrds, room).Scan(&hi, &lo)
	return hi.Int64, lo.Int64, hi.Valid, err
}

// OrdAt returns the ord of the last event that was delivered at or before pos.
func (s *Store) OrdAt(tx *sqldb.Tx, room, pos int64) (ord int64, ok bool, err error) {
	err = notFound(tx.QueryRow(ordAtPos, room, pos).Scan(&ord))
	if errors.Is(err, ErrNotFound) {
		return 0, false, nil
	}
	return ord, err == nil, err
}

// Neighbour returns the nearest ord before (back) or after the given one.
func (s *Store) Neighbour(tx *sqldb.Tx, room, ord int64, back bool) (int64, bool, error) {
	q := nextOrd
	if back {
		q = prevOrd
	}
	var n sql.NullInt64
	err := tx.QueryRow(q, room, ord).Scan(&n)
	return n.Int64, n.Valid, err
}

// NearestTS returns the event nearest to a time: the last at or before it, or
// the first at or after it.
func (s *Store) NearestTS(tx *sqldb.Tx, room, ts int64, forward bool) (*Stored, error) {
	q := nearestTS[0]
	if forward {
		q = nearestTS[1]
	}
	var nid int64
	if err := tx.QueryRow(q, room, ts).Scan(&nid); err != nil {
		return nil, notFound(err)
	}
	return s.Event(tx, nid)
}

// LoadOne is Event in a snapshot of its own.
func (s *Store) LoadOne(ctx context.Context, nid int64) (e *Stored, err error) {
	if e, ok := s.events.Get(nid); ok {
		return e, nil
	}
	err = s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err = s.Event(tx, nid)
		return err
	})
	return e, err
}

// InOrder returns the events with the given numbers in that order.
func (s *Store) InOrder(tx *sqldb.Tx, nids []int64) ([]*Stored, error) {
	byNID, err := s.Load(tx, nids)
	if err != nil {
		return nil, err
	}
	out := make([]*Stored, 0, len(nids))
	for _, nid := range nids {
		e := byNID[nid]
		if e == nil {
			return nil, fmt.Errorf("event %d: %w", nid, ErrNotFound)
		}
		out = append(out, e)
	}
	return out, nil
}
