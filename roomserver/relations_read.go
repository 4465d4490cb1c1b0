package roomserver

import (
	"context"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/store"
)

var memberOf = sqldb.Register("membership.memberOf", `SELECT m.room FROM membership m WHERE m.user_nid = $1 AND m.room = ANY($2::bigint[]) AND m.state = $3`)

// MutualRooms returns the rooms that a local user and another user, of any server, are both joined to, sorted by id.
func (s *Server) MutualRooms(ctx context.Context, localUser, other string) (rooms []string, err error) {
	mine := s.Hub.JoinedRooms(localUser)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		user, err := s.Store.FindName(tx, other)
		if err != nil || user == 0 || len(mine) == 0 {
			return err
		}
		byNID := make(map[int64]string, len(mine))
		nids := make([]int64, len(mine))
		for i, id := range mine {
			key, err := s.Store.RoomTx(tx, id)
			if err != nil {
				return err
			}
			nids[i], byNID[key.NID] = key.NID, id
		}
		shared, err := sqldb.Collect(tx, memberOf, func(rows *sqldb.Rows) (nid int64, err error) {
			err = rows.Scan(&nid)
			return nid, err
		}, user, nids, int64(store.Join))
		for _, nid := range shared {
			rooms = append(rooms, byNID[nid])
		}
		return err
	})
	slices.Sort(rooms)
	return rooms, err
}
