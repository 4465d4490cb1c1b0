package pushrules

import (
	"slices"
	"strings"

	"knock/internal/sqldb"
)

// The statements exist for many rooms and for one, which is what most syncs
// ask about: plain equality takes half the time of a list.
var (
	selectUnread        = sqldb.Register("pushrules.unread", unreadSQL(`= ANY($2::bigint[])`, `= ANY($5::bytea[])`))
	selectUnreadOne     = sqldb.Register("pushrules.unreadOne", unreadSQL(`= $2`, `= $5`))
	selectExceptions    = sqldb.Register("pushrules.exceptions", exceptionsSQL(`= ANY($2::bigint[])`))
	selectExceptionsOne = sqldb.Register("pushrules.exceptionsOne", exceptionsSQL(`= $2`))
	selectReads         = sqldb.Register("pushrules.reads", readsSQL(`= ANY($2::bigint[])`))
	selectReadsOne      = sqldb.Register("pushrules.readsOne", readsSQL(`= $2`))
	deleteRoomTotals    = sqldb.Register("pushrules.deleteRoomTotals", `DELETE FROM push_totals WHERE room = $1`)
	deleteRoomHeads     = sqldb.Register("pushrules.deleteRoomHeads", `DELETE FROM push_heads WHERE room = $1`)
	deleteRoomEvents    = sqldb.Register("pushrules.deleteRoomEvents", `DELETE FROM push_events WHERE room = $1`)
)

func unreadSQL(rooms, senders string) string {
	return `SELECT h.room, h.thread, h.class, h.sender,
			CASE WHEN h.pos <= $3::bigint THEN h.total ELSE (
				SELECT n.total FROM push_totals n
				WHERE n.room = h.room AND n.thread = h.thread AND n.class = h.class AND n.sender = h.sender
				AND n.pos <= $3::bigint ORDER BY n.pos DESC LIMIT $6::bigint) END,
			(SELECT o.total FROM push_totals o
				WHERE o.room = h.room AND o.thread = h.thread AND o.class = h.class AND o.sender = h.sender
				AND o.pos <= CASE WHEN t.pos > r.pos THEN t.pos ELSE r.pos END
				ORDER BY o.pos DESC LIMIT $6::bigint)
		FROM push_reads r CROSS JOIN push_heads h
		LEFT JOIN push_reads t ON t.user_id = r.user_id AND t.room = r.room AND t.thread = h.thread
		WHERE r.user_id = $1 AND r.room ` + rooms + ` AND r.thread = $4
		AND h.room = r.room AND h.pos > r.pos AND h.sender ` + senders
}

func exceptionsSQL(rooms string) string {
	return `SELECT e.room, e.thread, e.class, e.flags, COUNT(e.pos)
		FROM push_reads r CROSS JOIN push_events e
		LEFT JOIN push_reads t ON t.user_id = r.user_id AND t.room = r.room AND t.thread = e.thread
		WHERE r.user_id = $1 AND r.room ` + rooms + ` AND r.thread = $4
		AND e.user_id = r.user_id AND e.room = r.room AND e.pos > r.pos AND e.pos <= $3::bigint
		AND (t.pos IS NULL OR e.pos > t.pos)
		GROUP BY e.room, e.thread, e.class, e.flags`
}

func readsSQL(rooms string) string {
	return `SELECT room, thread, pos FROM push_reads WHERE user_id = $1 AND room ` + rooms
}

// RoomKey names a room for Unread.
type RoomKey struct {
	ID  string
	NID int64
}

// Count is one pair of unread counts, as /sync gives them.
type Count struct {
	Notification int64 `json:"notification_count"`
	Highlight    int64 `json:"highlight_count"`
}

func (c *Count) add(flags, n int64) {
	if flags&flagNotify != 0 {
		c.Notification += n
	}
	if flags&flagHighlight != 0 {
		c.Highlight += n
	}
}

func (c Count) zero() bool { return c == Count{} }

// Counts are a room's unread counts: of the main timeline, and of the other
// threads that have any, by their root's event id.
type Counts struct {
	Main    Count
	Threads map[string]Count
	Calls   int64 // unread calls among them that ring under the user's rules
}

// All is the count of the whole room, for clients that do not ask for threads.
func (c Counts) All() Count {
	sum := c.Main
	for _, t := range c.Threads {
		sum.Notification += t.Notification
		sum.Highlight += t.Highlight
	}
	return sum
}

// Unread returns a user's unread counts at position at, in a snapshot that holds
// at least that position, by room id; rooms without any are left out. What was
// asked for lately costs no statement, all other rooms together three (a fourth
// when the user's rules are not cached). Messages of ignored senders are left
// out, as far as they were sent after somebody here began to ignore the sender.
//
// Totals are exact at the given position. A read position that is newer counts
// already: the sync that delivers the receipt brings the same count.
func (s *Service) Unread(tx *sqldb.Tx, user string, rooms []RoomKey, at int64, ignored ...string) (map[string]Counts, error) {
	if len(rooms) == 0 {
		return nil, nil
	}
	sets, err := s.rulesets(tx, []string{user}, at)
	if err != nil {
		return nil, err
	}
	names := joinNames(ignored)
	out := map[string]Counts{}
	var cold []RoomKey
	for _, r := range rooms {
		n, ok := s.tallies.count(user, r.NID, at, ignored, names)
		if !ok {
			cold = append(cold, r)
		} else if len(n) > 0 {
			n.result(out, sets[0], r.ID)
		}
	}
	if len(cold) == 0 {
		return out, nil
	}
	u, err := readUnread(tx, user, cold, at, ignored)
	if err != nil {
		return nil, err
	}
	for _, r := range cold {
		seat := u.seats[r.NID]
		seat.n.result(out, sets[0], r.ID)
		seat.at, seat.ignored = at, names
		s.tallies.keep(user, r.NID, seat)
	}
	return out, nil
}

// ReadMarks returns whether a user has read events of rooms, given each event's
// occurrence and position.
func (s *Service) ReadMarks(tx *sqldb.Tx, user string, rooms []int64) (read func(o *Occurrence, pos int64) bool, err error) {
	u := &unread{tx: tx, seats: make(map[int64]*seat, len(rooms))}
	for _, nid := range rooms {
		u.seats[nid] = &seat{}
	}
	if err := u.readPositions(selectReads, user, rooms); err != nil {
		return nil, err
	}
	return func(o *Occurrence, pos int64) bool {
		seat := u.seats[o.RoomNID]
		return seat != nil && pos <= max(seat.read, seat.threads[newSubject(o).thread()])
	}, nil
}

// joinNames makes one string of a set of names, and splitNames undoes it. User ids
// from outside may have any byte but this one in them here: what has it is
// ignored nowhere else either, since no sender is called so.
func joinNames(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "\n")
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return strings.Join(names, "\n")
}

func splitNames(names string) []string { return strings.Split(names, "\n") }

// unread reads one user's counts from the database.
type unread struct {
	tx    *sqldb.Tx
	seats map[int64]*seat
}

func readUnread(tx *sqldb.Tx, user string, rooms []RoomKey, at int64, ignored []string) (*unread, error) {
	u := &unread{tx: tx, seats: make(map[int64]*seat, len(rooms))}
	nids := make([]int64, len(rooms))
	for i, r := range rooms {
		nids[i] = r.NID
		u.seats[r.NID] = &seat{n: tally{}}
	}
	totals, exceptions, reads := selectUnread, selectExceptions, selectReads
	var which, senders any = nids, append([]string{everyone}, ignored...)
	if len(rooms) == 1 {
		exceptions, reads, which = selectExceptionsOne, selectReadsOne, nids[0]
		if len(ignored) == 0 {
			totals, senders = selectUnreadOne, everyone
		}
	}
	first := which
	if totals == selectUnread {
		first = nids
	}
	if err := u.readTotals(totals, user, first, at, Unthreaded, senders, 1); err != nil {
		return nil, err
	}
	if err := u.readExceptions(exceptions, user, which, at, Unthreaded); err != nil {
		return nil, err
	}
	return u, u.readPositions(reads, user, which)
}

func (u *unread) readTotals(stmt *sqldb.Stmt, args ...any) error {
	return u.each(stmt, func(rows *sqldb.Rows) error {
		var k headKey
		var now, read *int64
		if err := rows.Scan(&k.room, &k.thread, &k.class, &k.sender, &now, &read); err != nil {
			return err
		}
		n := max(0, value(now)-value(read))
		if k.sender != everyone {
			n = -n
		}
		u.seats[k.room].n.plus(tallyKey{k.thread, k.class, byClass}, n)
		return nil
	}, args...)
}

// readExceptions replaces, for each event with a row of the user's own, what its
// class says by what the row says.
func (u *unread) readExceptions(stmt *sqldb.Stmt, args ...any) error {
	return u.each(stmt, func(rows *sqldb.Rows) error {
		var k headKey
		var flags, n int64
		if err := rows.Scan(&k.room, &k.thread, &k.class, &flags, &n); err != nil {
			return err
		}
		seat := u.seats[k.room]
		seat.n.plus(tallyKey{k.thread, k.class, byClass}, -n)
		seat.n.plus(tallyKey{k.thread, k.class, flags}, n)
		return nil
	}, args...)
}

func (u *unread) readPositions(stmt *sqldb.Stmt, args ...any) error {
	return u.each(stmt, func(rows *sqldb.Rows) error {
		var room, pos int64
		var thread string
		if err := rows.Scan(&room, &thread, &pos); err != nil {
			return err
		}
		seat := u.seats[room]
		if thread == Unthreaded {
			seat.member, seat.read = true, pos
			return nil
		}
		if seat.threads == nil {
			seat.threads = map[string]int64{}
		}
		seat.threads[thread] = pos
		return nil
	}, args...)
}

func (u *unread) each(stmt *sqldb.Stmt, scan func(*sqldb.Rows) error, args ...any) error {
	rows, err := u.tx.Query(stmt, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Close()
}

func (n tally) plus(k tallyKey, by int64) {
	if n[k] += by; n[k] == 0 {
		delete(n, k)
	}
}

// result adds a room's counts under a user's rules to out, when there are any.
func (n tally) result(out map[string]Counts, rules *ruleset, room string) {
	if len(n) == 0 {
		return
	}
	subject, threads, calls := roomSubject(room), map[string]*Count{}, int64(0)
	for k, events := range n {
		if threads[k.thread] == nil {
			threads[k.thread] = &Count{}
		}
		flags := k.flags
		if flags == byClass {
			flags = rules.flags(subject, k.class)
		}
		threads[k.thread].add(flags, events)
		if k.class&classCall != 0 && flags&flagNotify != 0 {
			calls += events
		}
	}
	if c := countsOf(threads); !c.Main.zero() || c.Threads != nil {
		c.Calls = calls
		out[room] = c
	}
}

func countsOf(threads map[string]*Count) (c Counts) {
	for thread, n := range threads {
		// A sender ignored after mentioning the user is subtracted twice.
		n.Notification, n.Highlight = max(0, n.Notification), max(0, n.Highlight)
		switch {
		case n.zero():
		case thread == Main:
			c.Main = *n
		default:
			if c.Threads == nil {
				c.Threads = map[string]Count{}
			}
			c.Threads[thread] = *n
		}
	}
	return c
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// DeleteRoom deletes the counts of a purged room, all but its members' read
// positions, which go when they join another time.
func (s *Service) DeleteRoom(tx *sqldb.Tx, room int64) error {
	for _, stmt := range []*sqldb.Stmt{deleteRoomTotals, deleteRoomHeads, deleteRoomEvents} {
		if _, err := tx.Exec(stmt, room); err != nil {
			return err
		}
	}
	tx.AfterCommit(func(int64) { s.tallies.forget(room) })
	return nil
}
