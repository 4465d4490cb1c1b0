package ephemeral

import (
	"database/sql"
	"errors"

	"knock/internal/sqldb"
)

var (
	upsertReceipt = sqldb.RegisterInsert("ephemeral.receipt",
		`INSERT INTO receipts (room_id, user_id, type, thread, event_id, ord, ts, pos) VALUES`, 8,
		`ON CONFLICT (room_id, user_id, type, thread) DO UPDATE
		SET event_id = excluded.event_id, ord = excluded.ord, ts = excluded.ts, pos = excluded.pos
		WHERE excluded.ord > receipts.ord`)
	selectReceipts = sqldb.Register("ephemeral.receipts",
		`SELECT room_id, user_id, type, thread, event_id, ts FROM receipts
		WHERE room_id = ANY($1::bytea[]) AND pos > $2 AND pos <= $3 AND (type <> $4 OR user_id = $5)`)
	selectPart = sqldb.Register("ephemeral.receiptsPart",
		`SELECT room_id, user_id, type, thread, event_id, ts, pos FROM receipts
		WHERE room_id = ANY($1::bytea[]) AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
	selectPublic = sqldb.Register("ephemeral.public",
		`SELECT room_id, user_id, type, thread, event_id, ts FROM receipts
		WHERE room_id = ANY($1::bytea[]) AND pos > $2 AND type = $3 ORDER BY pos DESC LIMIT $4`)
	selectOrd = sqldb.Register("ephemeral.ord",
		`SELECT ord FROM receipts WHERE room_id = $1 AND user_id = $2 AND type = $3 AND thread = $4`)
	deleteReceipts = sqldb.Register("ephemeral.deleteRoom", `DELETE FROM receipts WHERE room_id = $1`)
)

// receiptKey is what has one receipt.
type receiptKey struct{ room, user, kind, thread string }

func keyOf(r *Receipt) receiptKey { return receiptKey{r.Room, r.User, r.Type, r.storedThread()} }

// placed is a receipt with its event's place in the room.
type placed struct {
	Receipt
	Place
}

// writes are the receipts of one transaction, the furthest of each key.
type writes map[receiptKey]written

type written struct {
	placed
	pos int64
}

type writesKey struct{}

func writesOf(tx *sqldb.Tx) writes {
	return tx.Scratch(writesKey{}, func() any {
		w := writes{}
		tx.BeforeCommit(func() error { return w.flush(tx) })
		return w
	}).(writes)
}

func (w writes) add(p placed, pos int64) {
	k := keyOf(&p.Receipt)
	if old, ok := w[k]; !ok || p.Ord > old.Ord {
		w[k] = written{p, pos}
	}
}

func (w writes) flush(tx *sqldb.Tx) error {
	rows := make([][]any, 0, len(w))
	for k, r := range w {
		rows = append(rows, []any{k.room, k.user, k.kind, k.thread, r.Event, r.Ord, r.TS, r.pos})
	}
	return tx.Insert(upsertReceipt, rows...)
}

func readReceipts(tx *sqldb.Tx, user string, rooms []string, from, to int64) (map[string][]Receipt, error) {
	list, err := sqldb.Collect(tx, selectReceipts, scanReceipt, rooms, from, to, ReadPrivate, user)
	out := map[string][]Receipt{}
	for _, r := range list {
		out[r.Room] = append(out[r.Room], r)
	}
	return out, err
}

func scanReceipt(rows *sqldb.Rows) (r Receipt, err error) {
	err = rows.Scan(&r.Room, &r.User, &r.Type, &r.Thread, &r.Event, &r.TS)
	if r.Thread == unthreaded {
		r.Thread = ""
	}
	return r, err
}

// ReceiptsAfter returns the newest public receipts of rooms with a position after pos, newest first.
func (r *Receipts) ReceiptsAfter(tx *sqldb.Tx, rooms []string, pos int64, limit int) ([]Receipt, error) {
	return sqldb.Collect(tx, selectPublic, scanReceipt, rooms, pos, Read, limit)
}

// Between returns receipts of rooms, others' private ones too, with from < position ≤ until, oldest first, at most
// limit of them; until is to when there are no more.
func (r *Receipts) Between(tx *sqldb.Tx, rooms []string, from, to int64, limit int) (list []Receipt, until int64, err error) {
	if rooms = r.changed(rooms, from); len(rooms) == 0 {
		return nil, to, nil
	}
	var last int64
	list, err = sqldb.Collect(tx, selectPart, func(rows *sqldb.Rows) (receipt Receipt, err error) {
		err = rows.Scan(&receipt.Room, &receipt.User, &receipt.Type, &receipt.Thread, &receipt.Event, &receipt.TS, &last)
		if receipt.Thread == unthreaded {
			receipt.Thread = ""
		}
		return receipt, err
	}, rooms, from, to, limit)
	if len(list) < limit {
		last = to
	}
	return list, last, err
}

// readOrd returns the place of a stored receipt's event; false when there is none.
func readOrd(tx *sqldb.Tx, k receiptKey) (ord int64, ok bool, err error) {
	err = tx.QueryRow(selectOrd, k.room, k.user, k.kind, k.thread).Scan(&ord)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return ord, err == nil, err
}
