package store

import "knock/internal/sqldb"

// Who shares rooms with whom, other servers' users included.

var (
	serversOfUser = sqldb.Register("sharing.servers",
		`SELECT DISTINCT n.s FROM membership m JOIN room_servers rs ON rs.room = m.room JOIN names n ON n.nid = rs.server
		WHERE m.user_nid = $1 AND m.state = $2 AND rs.to_pos IS NULL`)
	roomsWithLocals = sqldb.Register("sharing.rooms",
		`SELECT r.room_id FROM membership m JOIN rooms r ON r.nid = m.room WHERE m.user_nid = $1 AND m.state = $2
		AND EXISTS (SELECT 1 FROM membership l WHERE l.room = m.room AND l.local = 1 AND l.state = $2)`)
	joinedOfRoom = sqldb.Register("sharing.joined",
		`SELECT n.s FROM membership m JOIN names n ON n.nid = m.user_nid WHERE m.room = $1 AND m.state = $2`)
	joinedElsewhere = sqldb.Register("sharing.joinedElsewhere",
		`SELECT n.s FROM membership m JOIN names n ON n.nid = m.user_nid WHERE m.room = $1 AND m.state = $2 AND m.local = 0`)
	localsOfRoom = sqldb.Register("sharing.locals",
		`SELECT n.s FROM membership m JOIN names n ON n.nid = m.user_nid WHERE m.room = $1 AND m.local = 1 AND m.state = $2 ORDER BY m.user_nid LIMIT $3`)
	localOfRoom = sqldb.Register("sharing.local",
		`SELECT user_nid FROM membership WHERE room = $1 AND local = 1 AND state = $2 LIMIT $3`)
	sharingUsers = sqldb.Register("sharing.users",
		`SELECT DISTINCT n.s FROM names n JOIN membership o ON o.user_nid = n.nid JOIN membership m ON m.room = o.room
		WHERE n.s = ANY($1::bytea[]) AND o.state = $3 AND m.user_nid = $2 AND m.state = $3`)
	newServersFor = sqldb.Register("sharing.newServers",
		`SELECT n.s FROM room_servers rs JOIN names n ON n.nid = rs.server WHERE rs.room = $1 AND rs.to_pos IS NULL
		AND NOT EXISTS (SELECT 1 FROM room_servers o JOIN membership m ON m.room = o.room
			WHERE o.server = rs.server AND o.room <> $1 AND o.to_pos IS NULL AND m.user_nid = $2 AND m.state = $3)`)
	newUsersFor = sqldb.Register("sharing.newUsers",
		`SELECT n.s FROM membership m JOIN names n ON n.nid = m.user_nid WHERE m.room = $1 AND m.local = 1 AND m.state = $3
		AND EXISTS (SELECT 1 FROM room_servers i WHERE i.server = $2 AND i.room = $1 AND i.from_pos = $4)
		AND NOT EXISTS (SELECT 1 FROM room_servers o JOIN membership x ON x.room = o.room
			WHERE o.server = $2 AND o.room <> $1 AND o.to_pos IS NULL AND x.user_nid = m.user_nid AND x.state = $3) LIMIT $5`)
)

// ServersWith returns the other servers that share a room with a user.
func (s *Store) ServersWith(tx *sqldb.Tx, user string) ([]string, error) {
	return s.ofUser(tx, serversOfUser, user)
}

// RoomsWithLocals returns the rooms of a user that somebody here has joined too.
func (s *Store) RoomsWithLocals(tx *sqldb.Tx, user string) ([]string, error) {
	return s.ofUser(tx, roomsWithLocals, user)
}

func (s *Store) ofUser(tx *sqldb.Tx, stmt *sqldb.Stmt, user string) ([]string, error) {
	nid, err := s.FindName(tx, user)
	if err != nil || nid == 0 {
		return nil, err
	}
	return sqldb.Collect(tx, stmt, scanText, nid, int64(Join))
}

// Joined returns the joined users of a room.
func (s *Store) Joined(tx *sqldb.Tx, room int64) ([]string, error) {
	return sqldb.Collect(tx, joinedOfRoom, scanText, room, int64(Join))
}

// JoinedElsewhere returns the joined users of a room who belong to other servers.
func (s *Store) JoinedElsewhere(tx *sqldb.Tx, room int64) ([]string, error) {
	return sqldb.Collect(tx, joinedElsewhere, scanText, room, int64(Join))
}

// HasLocals reports whether a local user is in a room.
func (s *Store) HasLocals(tx *sqldb.Tx, room int64) (bool, error) {
	found, err := sqldb.Collect(tx, localOfRoom, scanNID, room, int64(Join), 1)
	return len(found) > 0, err
}

// LocalsOf returns up to limit local users who are in a room.
func (s *Store) LocalsOf(tx *sqldb.Tx, room int64, limit int) ([]string, error) {
	return sqldb.Collect(tx, localsOfRoom, scanText, room, int64(Join), limit)
}

// Sharing returns those of others who share a room with a user.
func (s *Store) Sharing(tx *sqldb.Tx, user string, others []string) ([]string, error) {
	nid, err := s.FindName(tx, user)
	if err != nil || nid == 0 {
		return nil, err
	}
	return sqldb.Collect(tx, sharingUsers, scanText, others, nid, int64(Join))
}

// NewServersFor returns the other servers in a room that share no other room
// with a user.
func (s *Store) NewServersFor(tx *sqldb.Tx, room int64, user string) ([]string, error) {
	nid, err := s.FindName(tx, user)
	if err != nil || nid == 0 {
		return nil, err
	}
	return sqldb.Collect(tx, newServersFor, scanText, room, nid, int64(Join))
}

// NewUsersFor returns up to limit local users in a room who share no other room
// with a server that came into it at pos; nobody when it did not.
func (s *Store) NewUsersFor(tx *sqldb.Tx, room int64, server string, pos int64, limit int) ([]string, error) {
	nid, err := s.FindName(tx, server)
	if err != nil || nid == 0 {
		return nil, err
	}
	return sqldb.Collect(tx, newUsersFor, scanText, room, nid, int64(Join), pos, limit)
}

var (
	sharedWith = sqldb.Register("sharing.with",
		`SELECT r.nid, r.room_id FROM room_servers rs JOIN rooms r ON r.nid = rs.room WHERE rs.server = $1 AND rs.to_pos IS NULL AND r.nid > $2
		AND EXISTS (SELECT 1 FROM membership l WHERE l.room = r.nid AND l.local = 1 AND l.state = $3) ORDER BY r.nid LIMIT $4`)
	federated = sqldb.Register("sharing.federated",
		`SELECT r.nid, r.room_id FROM rooms r WHERE r.nid > $1 AND EXISTS (SELECT 1 FROM room_servers rs WHERE rs.room = r.nid AND rs.to_pos IS NULL)
		AND EXISTS (SELECT 1 FROM membership l WHERE l.room = r.nid AND l.local = 1 AND l.state = $2) ORDER BY r.nid LIMIT $3`)
	oneLocal = sqldb.Register("sharing.oneLocal",
		`SELECT n.s FROM membership m JOIN names n ON n.nid = m.user_nid WHERE m.room = $1 AND m.local = 1 AND m.state = $2 LIMIT 1`)
)

func scanNumbered(rows *sqldb.Rows) (k RoomKey, err error) {
	var id []byte
	err = rows.Scan(&k.NID, &id)
	k.ID = string(id)
	return k, err
}

// SharedWith returns up to limit rooms with a number beyond after that both a server and local users are in, and the
// number of the last.
func (s *Store) SharedWith(tx *sqldb.Tx, server string, after int64, limit int) (rooms []string, next int64, err error) {
	nid, err := s.FindName(tx, server)
	if err != nil || nid == 0 {
		return nil, 0, err
	}
	keys, err := sqldb.Collect(tx, sharedWith, scanNumbered, nid, after, int64(Join), limit)
	for _, k := range keys {
		rooms, next = append(rooms, k.ID), k.NID
	}
	return rooms, next, err
}

// Federated returns up to limit rooms with a number beyond after that both local users and other servers are in: their
// numbers and ids.
func (s *Store) Federated(tx *sqldb.Tx, after int64, limit int) ([]RoomKey, error) {
	return sqldb.Collect(tx, federated, scanNumbered, after, int64(Join), limit)
}

// OneLocal returns some local user who is in a room, or ErrNotFound.
func (s *Store) OneLocal(tx *sqldb.Tx, room int64) (string, error) {
	users, err := sqldb.Collect(tx, oneLocal, scanText, room, int64(Join))
	if err == nil && len(users) == 0 {
		return "", ErrNotFound
	}
	if err != nil {
		return "", err
	}
	return users[0], nil
}
