package roomserver

import (
	"knock/internal/sqldb"
)

// Activity says when something last happened in a room, as stream positions: its
// newest delivered event, and the newest one of the types asked for among the
// last hundred (0: none of them).
type Activity struct{ Last, OfTypes int64 }

const activityDepth = 100

var roomActivity = sqldb.Register("rooms.activity", `
SELECT r.nid,
	(SELECT max(e.pos) FROM events e WHERE e.room = r.nid AND e.pos <= $2),
	(SELECT max(n.pos) FROM (
		SELECT e.pos AS pos, e.type AS type FROM events e WHERE e.room = r.nid AND e.pos <= $2 ORDER BY e.pos DESC LIMIT $4::bigint) n
		WHERE n.type = ANY($3::bigint[]))
FROM rooms r WHERE r.nid = ANY($1::bigint[])`)

// Activity returns the activity of rooms up to a position.
func (s *Server) Activity(tx *sqldb.Tx, rooms []int64, types []string, at int64) (map[int64]Activity, error) {
	var nids []int64
	for _, typ := range types {
		nid, err := s.Store.FindName(tx, typ)
		if err != nil {
			return nil, err
		}
		if nid != 0 {
			nids = append(nids, nid)
		}
	}
	rows, err := tx.Query(roomActivity, rooms, at, nids, activityDepth)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make(map[int64]Activity, len(rooms))
	for rows.Next() {
		var room int64
		var last, ofTypes *int64
		if err := rows.Scan(&room, &last, &ofTypes); err != nil {
			return nil, err
		}
		var a Activity
		if last != nil {
			a.Last = *last
		}
		if ofTypes != nil {
			a.OfTypes = *ofTypes
		}
		out[room] = a
	}
	return out, rows.Err()
}
