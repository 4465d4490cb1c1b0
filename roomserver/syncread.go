package roomserver

import (
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Reads that only /sync needs.

// MembershipsSince returns the memberships of a local user that changed after a
// position, those that changed after the published position among them.
func (s *Server) MembershipsSince(tx *sqldb.Tx, userID string, after int64) ([]store.MemberRow, error) {
	rows, err := s.Memberships(tx, userID)
	if err != nil || after == 0 {
		return rows, err
	}
	var changed []store.MemberRow
	for _, m := range rows {
		if m.Pos > after {
			changed = append(changed, m)
		}
	}
	return changed, nil
}
