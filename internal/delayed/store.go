package delayed

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"

	"knock/internal/sqldb"
)

const columns = `SELECT nid, id, owner, device, service, room, type, state_key, content, ts, sticky, delay, scheduled, due, finalised, event, error FROM delayed_events `

var (
	insert = sqldb.RegisterInsert("delayed.insert",
		`INSERT INTO delayed_events (nid, id, owner, device, service, room, type, state_key, content, ts, sticky, txn, delay, scheduled, due) VALUES`, 15, ``)
	byID      = sqldb.Register("delayed.byID", columns+`WHERE id = $1`)
	byNID     = sqldb.Register("delayed.byNID", columns+`WHERE nid = $1`)
	byTxn     = sqldb.Register("delayed.byTxn", `SELECT id FROM delayed_events WHERE txn = $1`)
	scheduled = sqldb.Register("delayed.scheduled", columns+`WHERE owner = $1 AND finalised IS NULL ORDER BY due, nid`)
	finalised = sqldb.Register("delayed.finalised", columns+`WHERE owner = $1 AND (finalised > $2 OR finalised = $2 AND nid > $3)
		ORDER BY finalised, nid LIMIT $4`)
	countOf   = sqldb.Register("delayed.count", `SELECT count(*), min(due) FROM delayed_events WHERE owner = $1 AND finalised IS NULL`)
	nextDue   = sqldb.Register("delayed.next", `SELECT nid, room, due FROM delayed_events WHERE due IS NOT NULL ORDER BY due, nid LIMIT $1`)
	setEnd    = sqldb.Register("delayed.finalise", `UPDATE delayed_events SET due = NULL, finalised = $3, event = $4, error = $5 WHERE nid = $1 AND scheduled = $2 AND finalised IS NULL`)
	setStart  = sqldb.Register("delayed.restart", `UPDATE delayed_events SET scheduled = $2, due = $3 WHERE nid = $1 AND finalised IS NULL`)
	deleteOld = sqldb.Register("delayed.deleteOld", `DELETE FROM delayed_events WHERE finalised < $1`)
	richest   = sqldb.Register("delayed.richest", `SELECT owner FROM delayed_events WHERE finalised IS NOT NULL GROUP BY owner HAVING count(*) > $1`)
	deleteTop = sqldb.Register("delayed.deleteMost", `DELETE FROM delayed_events WHERE nid IN (SELECT nid FROM delayed_events
		WHERE owner = $1 AND finalised IS NOT NULL ORDER BY finalised DESC, nid DESC LIMIT $2 OFFSET $3)`)
	deleteAll = sqldb.Register("delayed.deleteOf", `DELETE FROM delayed_events WHERE owner = $1`)
)

func scan(row interface{ Scan(...any) error }) (e *Event, err error) {
	e = &Event{}
	var stateKey []byte
	var due, end *int64
	var id, owner, device, service, room, typ, eventID []byte
	err = row.Scan(&e.nid, &id, &owner, &device, &service, &room, &typ, &stateKey, (*[]byte)(&e.Content), &e.TS, &e.Sticky, &e.Delay, &e.Scheduled, &due, &end,
		&eventID, (*[]byte)(&e.Error))
	e.ID, e.User, e.Device, e.Service, e.Room, e.Type, e.EventID = string(id), string(owner), string(device), string(service), string(room), string(typ), string(eventID)
	if stateKey != nil {
		key := string(stateKey)
		e.StateKey = &key
	}
	if due != nil {
		e.due = *due
	}
	if end != nil {
		e.Finalised = *end
	}
	return e, err
}

func scanRow(rows *sqldb.Rows) (*Event, error) { return scan(rows) }

// find reads one event, or returns ErrNotFound.
func (s *Service) find(ctx context.Context, stmt *sqldb.Stmt, key any) (e *Event, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		e, err = scan(tx.QueryRow(stmt, key))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	return e, err
}

func (e *Event) row(txn []byte) []any {
	var stateKey []byte
	if e.StateKey != nil {
		stateKey = append([]byte{}, *e.StateKey...)
	}
	return []any{e.nid, []byte(e.ID), []byte(e.User), []byte(e.Device), []byte(e.Service), []byte(e.Room), []byte(e.Type), stateKey, []byte(e.Content), e.TS, e.Sticky, txn,
		e.Delay, e.Scheduled, e.due}
}

// txnKey is a hash of what a transaction id is scoped to, nil without one.
func txnKey(e *Event, txn string) []byte {
	if txn == "" {
		return nil
	}
	h := sha256.New()
	for _, part := range []string{e.User, e.Device, e.Room, e.Type, txn} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return h.Sum(nil)[:16]
}

// end writes what became of an event that is still as e says; false when it is not. It writes nothing else, so that
// it may be part of another operation.
func (s *Service) end(tx *sqldb.Tx, e *Event, eventID string, why []byte) (bool, error) {
	var id []byte
	if eventID != "" {
		id = []byte(eventID)
	}
	n, err := tx.Exec(setEnd, e.nid, e.Scheduled, s.o.Clock.Millis(), id, why)
	return n > 0, err
}

// finalise is end as an operation of its own.
func (s *Service) finalise(ctx context.Context, e *Event, eventID string, why []byte) (done bool, err error) {
	err = s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: "delayed.finalise", Write: func(tx *sqldb.Tx, _ int64) (err error) {
		done, err = s.end(tx, e, eventID, why)
		return err
	}})
	return done, err
}
