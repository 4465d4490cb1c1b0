package roomserver

import (
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Reads that only /sync needs.

var membershipsSince = sqldb.Register("membership.ofUserSince",
	`SELECT room, user_nid, state, local, forgotten, event, pos FROM membership WHERE user_nid = $1 AND local = 1 AND pos > $2`)

// MembershipsSince returns the memberships of a local user that changed after a
// position, those that changed after the published position among them.
func (s *Server) MembershipsSince(tx *sqldb.Tx, userID string, after int64) ([]store.MemberRow, error) {
	user, err := s.Store.FindName(tx, userID)
	if err != nil || user == 0 {
		return nil, err
	}
	return sqldb.Collect(tx, membershipsSince, scanMembership, user, after)
}

func scanMembership(rows *sqldb.Rows) (m store.MemberRow, err error) {
	err = rows.Scan(&m.Room, &m.User, &m.State, &m.Local, &m.Forgotten, &m.Event, &m.Pos)
	return m, err
}
