package pushrules

import "knock/internal/sqldb"

var (
	selectHeads = sqldb.Register("pushrules.heads",
		`SELECT room, thread, class, sender, total FROM push_heads
		WHERE room = ANY($1::bigint[]) AND thread = ANY($2::bytea[])`)
	insertTotal = sqldb.RegisterInsert("pushrules.total",
		`INSERT INTO push_totals (room, thread, class, sender, pos, total) VALUES`, 6, ``)
	upsertHead = sqldb.RegisterInsert("pushrules.head",
		`INSERT INTO push_heads (room, thread, class, sender, pos, total) VALUES`, 6,
		`ON CONFLICT (room, thread, class, sender) DO UPDATE SET pos = excluded.pos, total = excluded.total`)
	insertEvent = sqldb.RegisterInsert("pushrules.event",
		`INSERT INTO push_events (user_id, room, pos, thread, class, flags) VALUES`, 6, ``)
	upsertRead = sqldb.RegisterInsert("pushrules.read",
		`INSERT INTO push_reads (user_id, room, thread, pos) VALUES`, 4,
		`ON CONFLICT (user_id, room, thread) DO UPDATE SET pos = excluded.pos WHERE excluded.pos > push_reads.pos`)
	deleteReadEvents = sqldb.Register("pushrules.deleteReadEvents",
		`DELETE FROM push_events WHERE user_id = ANY($1::bytea[]) AND room = ANY($2::bigint[]) AND EXISTS (
			SELECT r.pos FROM push_reads r
			WHERE r.user_id = push_events.user_id AND r.room = push_events.room
			AND (r.thread = $3 OR r.thread = push_events.thread) AND r.pos >= push_events.pos)`)
	deletePassedReads = sqldb.Register("pushrules.deletePassedReads",
		`DELETE FROM push_reads WHERE user_id = ANY($1::bytea[]) AND room = ANY($2::bigint[]) AND thread <> $3 AND EXISTS (
			SELECT r.pos FROM push_reads r
			WHERE r.user_id = push_reads.user_id AND r.room = push_reads.room
			AND r.thread = $3 AND r.pos >= push_reads.pos)`)
)

// everyone stands for the totals of all senders.
const everyone = "*"

// headKey names a running total.
type headKey struct {
	room   int64
	thread string
	class  Class
	sender string
}

type userRoom struct {
	user string
	room int64
}

type readKey struct {
	userRoom
	thread string
}

// total is one row to come of push_totals; its number is known at the end.
type total struct {
	key headKey
	pos int64
}

// batch gathers what the operations of one transaction do to counts. The totals
// are added up at its end, on top of what is committed: an operation that fails
// leaves no trace in any other's.
type batch struct {
	tallies  *tallies
	totals   []total
	logged   []roomEvent
	reads    map[readKey]int64
	receipts map[userRoom]bool // moved by a receipt: what was passed is deleted
}

// roomEvent is an event that counts, of some room.
type roomEvent struct {
	room int64
	logged
}

// batchKey is where a transaction keeps its batch.
type batchKey struct{}

func (t *tallies) batch(tx *sqldb.Tx) *batch {
	return tx.Scratch(batchKey{}, func() any {
		b := &batch{tallies: t, reads: map[readKey]int64{}, receipts: map[userRoom]bool{}}
		tx.BeforeCommit(func() error { return b.flush(tx) })
		tx.AfterCommit(func(last int64) { t.committed(b, last) })
		return b
	}).(*batch)
}

func (b *batch) event(tx *sqldb.Tx, e *counted, pos int64) {
	if e.class != 0 {
		b.totals = append(b.totals, total{headKey{e.room, e.thread, e.class, everyone}, pos})
		if e.ignored != "" {
			b.totals = append(b.totals, total{headKey{e.room, e.thread, e.class, e.ignored}, pos})
		}
	}
	if e.class != 0 || len(e.others) > 0 {
		b.logged = append(b.logged, roomEvent{e.room, logged{pos: pos, thread: e.thread, class: e.class, ignored: e.ignored, others: e.others}})
	}
	for _, x := range e.others {
		tx.Append(insertEvent, x.user, e.room, pos, e.thread, int64(e.class), x.flags)
	}
	if e.reader != "" {
		b.read(e.reader, e.room, e.readThread, pos)
	}
}

func (b *batch) read(user string, room int64, thread string, pos int64) {
	k := readKey{userRoom{user, room}, thread}
	b.reads[k] = max(b.reads[k], pos)
}

func (b *batch) flush(tx *sqldb.Tx) error {
	if err := b.flushTotals(tx); err != nil {
		return err
	}
	if len(b.receipts) > 0 {
		return b.flushReceipts(tx)
	}
	for k, pos := range b.reads {
		tx.Append(upsertRead, k.user, k.room, k.thread, pos)
	}
	return nil
}

func (b *batch) flushTotals(tx *sqldb.Tx) error {
	if len(b.totals) == 0 {
		return nil
	}
	heads, err := b.committedHeads(tx)
	if err != nil {
		return err
	}
	newest := map[headKey]int64{}
	for _, t := range b.totals {
		heads[t.key]++
		newest[t.key] = t.pos
		tx.Append(insertTotal, t.key.room, t.key.thread, int64(t.key.class), t.key.sender, t.pos, heads[t.key])
	}
	for k, pos := range newest {
		tx.Append(upsertHead, k.room, k.thread, int64(k.class), k.sender, pos, heads[k])
	}
	return nil
}

// committedHeads returns the totals before the batch for all its rooms and
// threads, in one statement.
func (b *batch) committedHeads(tx *sqldb.Tx) (map[headKey]int64, error) {
	rooms, threads := map[int64]bool{}, map[string]bool{}
	for _, t := range b.totals {
		rooms[t.key.room], threads[t.key.thread] = true, true
	}
	rows, err := tx.Query(selectHeads, keysOf(rooms), keysOf(threads))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	heads := map[headKey]int64{}
	for rows.Next() {
		var k headKey
		var n int64
		if err := rows.Scan(&k.room, &k.thread, &k.class, &k.sender, &n); err != nil {
			return nil, err
		}
		heads[k] = n
	}
	return heads, rows.Close()
}

// flushReceipts moves the read positions now and deletes what receipts passed.
func (b *batch) flushReceipts(tx *sqldb.Tx) error {
	rows := make([][]any, 0, len(b.reads))
	for k, pos := range b.reads {
		rows = append(rows, []any{k.user, k.room, k.thread, pos})
	}
	if err := tx.Insert(upsertRead, rows...); err != nil {
		return err
	}
	users, rooms := map[string]bool{}, map[int64]bool{}
	for k := range b.receipts {
		users[k.user], rooms[k.room] = true, true
	}
	args := []any{keysOf(users), keysOf(rooms), Unthreaded}
	if _, err := tx.Exec(deleteReadEvents, args...); err != nil {
		return err
	}
	_, err := tx.Exec(deletePassedReads, args...)
	return err
}

func keysOf[K comparable](m map[K]bool) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	return out
}
