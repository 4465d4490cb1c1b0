package pushrules

import "knock/internal/sqldb"

// The statements exist for many rooms and for one, which is what most syncs
// ask about: plain equality takes half the time of a list.
var (
	selectUnread        = sqldb.Register("pushrules.unread", unreadSQL(`= ANY($2::bigint[])`, `= ANY($5::bytea[])`))
	selectUnreadOne     = sqldb.Register("pushrules.unreadOne", unreadSQL(`= $2`, `= $5`))
	selectExceptions    = sqldb.Register("pushrules.exceptions", exceptionsSQL(`= ANY($2::bigint[])`))
	selectExceptionsOne = sqldb.Register("pushrules.exceptionsOne", exceptionsSQL(`= $2`))
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
// at least that position, by room id; rooms without any are left out. It costs
// two statements for all rooms (a third when the user's rules are not cached).
// Messages of ignored senders are left out, as far as they were sent after
// somebody here began to ignore the sender.
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
	u := newUnread(sets[user], rooms)
	totals, exceptions := selectUnread, selectExceptions
	var which, senders any = u.nids, append([]string{everyone}, ignored...)
	if len(rooms) == 1 && len(ignored) == 0 {
		totals, exceptions = selectUnreadOne, selectExceptionsOne
		which, senders = u.nids[0], everyone
	}
	if err := u.readTotals(tx, totals, user, which, at, Unthreaded, senders, 1); err != nil {
		return nil, err
	}
	if err := u.readExceptions(tx, exceptions, user, which, at, Unthreaded); err != nil {
		return nil, err
	}
	return u.result(), nil
}

// unread adds up one user's counts.
type unread struct {
	rules *ruleset
	nids  []int64
	rooms map[int64]*unreadRoom
}

type unreadRoom struct {
	subject *subject
	flags   map[Class]int64
	counts  map[string]*Count // by thread
}

func newUnread(rs *ruleset, rooms []RoomKey) *unread {
	u := &unread{rules: rs, rooms: make(map[int64]*unreadRoom, len(rooms))}
	for _, r := range rooms {
		u.nids = append(u.nids, r.NID)
		u.rooms[r.NID] = &unreadRoom{subject: roomSubject(r.ID)}
	}
	return u
}

// class returns what events of a class are to the user in a room.
func (u *unread) class(r *unreadRoom, c Class) int64 {
	flags, ok := r.flags[c]
	if !ok {
		flags = u.rules.flags(r.subject, c)
		if r.flags == nil {
			r.flags = map[Class]int64{}
		}
		r.flags[c] = flags
	}
	return flags
}

func (r *unreadRoom) thread(id string) *Count {
	if r.counts[id] == nil {
		if r.counts == nil {
			r.counts = map[string]*Count{}
		}
		r.counts[id] = &Count{}
	}
	return r.counts[id]
}

func (u *unread) readTotals(tx *sqldb.Tx, stmt *sqldb.Stmt, args ...any) error {
	rows, err := tx.Query(stmt, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k headKey
		var now, read *int64
		if err := rows.Scan(&k.room, &k.thread, &k.class, &k.sender, &now, &read); err != nil {
			return err
		}
		n := max(0, value(now)-value(read))
		if k.sender != everyone {
			n = -n
		}
		r := u.rooms[k.room]
		r.thread(k.thread).add(u.class(r, k.class), n)
	}
	return rows.Close()
}

// readExceptions replaces, for each event with a row of the user's own, what its
// class says by what the row says.
func (u *unread) readExceptions(tx *sqldb.Tx, stmt *sqldb.Stmt, args ...any) error {
	rows, err := tx.Query(stmt, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k headKey
		var flags, n int64
		if err := rows.Scan(&k.room, &k.thread, &k.class, &flags, &n); err != nil {
			return err
		}
		r := u.rooms[k.room]
		count := r.thread(k.thread)
		count.add(u.class(r, k.class), -n)
		count.add(flags, n)
	}
	return rows.Close()
}

func (u *unread) result() map[string]Counts {
	out := map[string]Counts{}
	for _, r := range u.rooms {
		var c Counts
		for thread, n := range r.counts {
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
		if !c.Main.zero() || c.Threads != nil {
			out[r.subject.Room] = c
		}
	}
	return out
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
	return nil
}
