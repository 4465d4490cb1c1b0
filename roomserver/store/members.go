package store

import (
	"context"
	"database/sql"

	"knock/internal/sqldb"
)

// Membership is the number of a membership in the database.
type Membership int64

// The memberships of the specification.
const (
	NoMembership Membership = iota
	Join
	Invite
	Leave
	Ban
	Knock
)

var membershipNames = [...]string{"", "join", "invite", "leave", "ban", "knock"}

func (m Membership) String() string { return membershipNames[m] }

// ParseMembership returns the number of a membership's name.
func ParseMembership(name string) Membership {
	for i, n := range membershipNames {
		if n == name {
			return Membership(i)
		}
	}
	return NoMembership
}

// MemberRow is the current membership of a user in a room.
type MemberRow struct {
	Room, User int64
	State      Membership
	Local      bool
	Forgotten  bool
	Event      int64
	Pos        int64 // of the change
}

var (
	putMembers = sqldb.RegisterInsert("membership.put", `INSERT INTO membership (room, user_nid, state, local, forgotten, event, pos) VALUES`, 7,
		`ON CONFLICT (room, user_nid) DO UPDATE SET state = excluded.state, local = excluded.local, forgotten = 0, event = excluded.event, pos = excluded.pos`)
	forgetMember  = sqldb.Register("membership.forget", `UPDATE membership SET forgotten = 1, pos = $3 WHERE room = $1 AND user_nid = $2`)
	memberColumns = `m.room, m.user_nid, m.state, m.local, m.forgotten, m.event, m.pos`
	selectMember  = sqldb.Register("membership.one", `SELECT `+memberColumns+` FROM membership m WHERE m.room = $1 AND m.user_nid = $2`)
	memberOfUser  = sqldb.Register("membership.ofUser", `SELECT `+memberColumns+` FROM membership m WHERE m.user_nid = $1 AND m.local = 1`)
	membersOfRoom = sqldb.Register("membership.ofRoom", `SELECT m.user_nid, n.s, m.state, m.event FROM membership m JOIN names n ON n.nid = m.user_nid WHERE m.room = $1`)
	roomsOfUser   = sqldb.Register("membership.roomsOfUser", `SELECT r.room_id FROM membership m JOIN rooms r ON r.nid = m.room WHERE m.user_nid = $1 AND m.state = $2 ORDER BY r.nid`)
	localJoined   = sqldb.Register("membership.localJoined", `SELECT r.room_id, n.s FROM membership m JOIN rooms r ON r.nid = m.room JOIN names n ON n.nid = m.user_nid WHERE m.local = 1 AND m.state = $1`)
)

// PutMembers writes the current memberships of different users.
func (s *Store) PutMembers(tx *sqldb.Tx, members []MemberRow) error {
	rows := make([][]any, len(members))
	for i, m := range members {
		rows[i] = []any{m.Room, m.User, int64(m.State), flag(m.Local), 0, m.Event, m.Pos}
	}
	return tx.Insert(putMembers, rows...)
}

// ForgetRoom hides a room that a user has left.
func (s *Store) ForgetRoom(tx *sqldb.Tx, room, user, pos int64) error {
	_, err := tx.Exec(forgetMember, room, user, pos)
	return err
}

func scanMember(rows *sqldb.Rows) (m MemberRow, err error) {
	var local, forgotten int64
	err = rows.Scan(&m.Room, &m.User, &m.State, &local, &forgotten, &m.Event, &m.Pos)
	m.Local, m.Forgotten = local != 0, forgotten != 0
	return m, err
}

// Member returns the membership row of a user in a room, or ErrNotFound.
func (s *Store) Member(tx *sqldb.Tx, room, user int64) (MemberRow, error) {
	rows, err := sqldb.Collect(tx, selectMember, scanMember, room, user)
	if err != nil {
		return MemberRow{}, err
	}
	if len(rows) == 0 {
		return MemberRow{}, ErrNotFound
	}
	return rows[0], nil
}

// MembershipsOf returns every membership of a local user.
func (s *Store) MembershipsOf(tx *sqldb.Tx, user int64) ([]MemberRow, error) {
	return sqldb.Collect(tx, memberOfUser, scanMember, user)
}

// JoinedRooms returns the rooms that any user, also one of another server, is in.
func (s *Store) JoinedRooms(tx *sqldb.Tx, user int64) ([]string, error) {
	return sqldb.Collect(tx, roomsOfUser, scanText, user, int64(Join))
}

// Member is a user's current membership with its name.
type Member struct {
	User  string
	NID   int64
	State Membership
	Event int64
}

// Members returns everybody who has a membership in a room.
func (s *Store) Members(tx *sqldb.Tx, room int64) ([]Member, error) {
	return sqldb.Collect(tx, membersOfRoom, func(rows *sqldb.Rows) (m Member, err error) {
		var user []byte
		err = rows.Scan(&m.NID, &user, &m.State, &m.Event)
		m.User = string(user)
		return m, err
	}, room)
}

// EachLocalJoined calls fn with every (room id, user id) of a joined local user.
func (s *Store) EachLocalJoined(ctx context.Context, fn func(room, user string)) error {
	return s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		rows, err := tx.Query(localJoined, int64(Join))
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var room, user []byte
			if err := rows.Scan(&room, &user); err != nil {
				return err
			}
			fn(string(room), string(user))
		}
		return rows.Err()
	})
}

// Service is a time in which another server was in a room: joined by the event
// at From and gone with the event at To (0: it still is).
type Service struct {
	Server, Room int64
	From, To     int64
}

var (
	insertServer  = sqldb.Register("room_servers.insert", `INSERT INTO room_servers (server, room, from_pos) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	closeServer   = sqldb.Register("room_servers.close", `UPDATE room_servers SET to_pos = $3 WHERE server = $1 AND room = $2 AND to_pos IS NULL`)
	roomsOfServer = sqldb.Register("room_servers.ofServer", `SELECT server, room, from_pos, to_pos FROM room_servers WHERE server = $1 AND (to_pos IS NULL OR to_pos > $2)`)
	serversNow    = sqldb.Register("room_servers.now", `SELECT n.s FROM room_servers rs JOIN names n ON n.nid = rs.server WHERE rs.room = $1 AND rs.to_pos IS NULL`)
	allServersNow = sqldb.Register("room_servers.all", `SELECT DISTINCT n.s FROM room_servers rs JOIN names n ON n.nid = rs.server WHERE rs.to_pos IS NULL`)
	outgoingSince = sqldb.Register("events.outgoing", `SELECT nid FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 AND flags & $4 <> 0 ORDER BY pos LIMIT $5`)
	backlogOf     = sqldb.Register("events.backlog", `SELECT nid, pos FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 AND flags & $4 <> 0 ORDER BY pos DESC LIMIT $5`)
)

// ServerJoined records that a server came into a room at pos.
func (s *Store) ServerJoined(tx *sqldb.Tx, room, server, pos int64) error {
	_, err := tx.Exec(insertServer, server, room, pos)
	return err
}

// ServerLeft records that the last member of a server left a room at pos.
func (s *Store) ServerLeft(tx *sqldb.Tx, room, server, pos int64) error {
	_, err := tx.Exec(closeServer, server, room, pos)
	return err
}

// ServiceOf returns when a server was in rooms, leaving out what ended at or
// before the given position.
func (s *Store) ServiceOf(tx *sqldb.Tx, server, after int64) ([]Service, error) {
	return sqldb.Collect(tx, roomsOfServer, func(rows *sqldb.Rows) (v Service, err error) {
		var to sql.NullInt64
		err = rows.Scan(&v.Server, &v.Room, &v.From, &to)
		v.To = to.Int64
		return v, err
	}, server, after)
}

// Servers returns the other servers that are in a room.
func (s *Store) Servers(tx *sqldb.Tx, room int64) ([]string, error) {
	return sqldb.Collect(tx, serversNow, scanText, room)
}

// AllServers returns the other servers that share any room with us.
func (s *Store) AllServers(tx *sqldb.Tx) ([]string, error) {
	return sqldb.Collect(tx, allServersNow, scanText)
}

// Outgoing returns up to limit events of a room with from < pos ≤ to that are to
// be sent to other servers, oldest first.
func (s *Store) Outgoing(tx *sqldb.Tx, room, from, to int64, limit int) ([]int64, error) {
	return sqldb.Collect(tx, outgoingSince, scanNID, room, from, to, int64(Outgoing), limit)
}

// Due is an event that waits to be sent to another server.
type Due struct{ Event, Pos int64 }

// Backlog returns up to limit events of a room with from < pos ≤ to that are to
// be sent to other servers, newest first.
func (s *Store) Backlog(tx *sqldb.Tx, room, from, to int64, limit int) ([]Due, error) {
	return sqldb.Collect(tx, backlogOf, func(rows *sqldb.Rows) (d Due, err error) {
		err = rows.Scan(&d.Event, &d.Pos)
		return d, err
	}, room, from, to, int64(Outgoing), limit)
}

var waitingOf = sqldb.Register("events.waiting", `SELECT COUNT(*), COALESCE(MIN(ts), 0) FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 AND flags & $4 <> 0`)

// Waiting counts the events of a room with from < pos ≤ to that are to be sent to
// other servers, and returns the earliest of their times in milliseconds.
func (s *Store) Waiting(tx *sqldb.Tx, room, from, to int64) (n, earliest int64, err error) {
	err = tx.QueryRow(waitingOf, room, from, to, int64(Outgoing)).Scan(&n, &earliest)
	return n, earliest, err
}

func scanText(rows *sqldb.Rows) (string, error) {
	var text []byte
	err := rows.Scan(&text)
	return string(text), err
}
