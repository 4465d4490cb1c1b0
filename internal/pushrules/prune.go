package pushrules

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"knock/internal/sqldb"
)

var (
	nextRooms = sqldb.Register("pushrules.nextRooms",
		`SELECT DISTINCT room FROM push_heads WHERE room > $1 ORDER BY room LIMIT $2`)
	leastRead = sqldb.Register("pushrules.leastRead",
		`SELECT min(pos) FROM push_reads WHERE user_id = ANY($1::bytea[]) AND room = $2 AND thread = $3`)
	pruneEnd = sqldb.Register("pushrules.pruneEnd",
		`SELECT pos FROM push_totals WHERE room = $1 AND pos <= $2 ORDER BY pos LIMIT $3 OFFSET $4`)
	pruneTotals = sqldb.Register("pushrules.prune",
		`DELETE FROM push_totals WHERE room = $1 AND pos <= $2::bigint AND EXISTS (
			SELECT n.pos FROM push_totals n WHERE n.room = push_totals.room AND n.thread = push_totals.thread
			AND n.class = push_totals.class AND n.sender = push_totals.sender
			AND n.pos > push_totals.pos AND n.pos <= $2::bigint)`)
)

// Bounds of pruning.
const (
	pruneEvery = 10 * time.Second
	pruneRooms = 20  // rooms looked at each time
	pruneRows  = 500 // rows of a room that are read or deleted at once
)

// Members are the local members of rooms.
type Members interface {
	// Joined returns the local users who are joined to a room, by its number.
	Joined(tx *sqldb.Tx, room int64) ([]string, error)
}

// Prune deletes, until ctx ends, the totals that nobody needs any more: those of
// a room below the lowest position up to which all its local members have read,
// but for the newest of each kind, from which the counts go on. It goes round all
// rooms, a few at a time.
func (s *Service) Prune(ctx context.Context, m Members) error {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	var after int64
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next, err := s.pruneSome(ctx, m, after)
		if err != nil && ctx.Err() == nil {
			s.log.WithError(err).Warn("Old unread totals could not be deleted; they are tried again in the next round")
		}
		after = next
	}
}

// pruneSome prunes the next rooms and returns where to go on.
func (s *Service) pruneSome(ctx context.Context, m Members, after int64) (next int64, err error) {
	ends := map[int64]int64{}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		rooms, err := sqldb.Collect(tx, nextRooms, scanInt, after, pruneRooms)
		if err != nil || len(rooms) == 0 {
			return err // and begin again
		}
		for _, room := range rooms {
			if end, err := s.pruneUpTo(tx, m, room); err != nil {
				return err
			} else if end > 0 {
				ends[room] = end
			}
		}
		next = rooms[len(rooms)-1]
		return nil
	})
	for room, end := range ends {
		if err != nil {
			break
		}
		err = s.db.Do(ctx, &sqldb.Op{Name: "pushrules.prune", Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(pruneTotals, room, end)
			return err
		}})
	}
	return next, err
}

// pruneUpTo returns the position up to which a room's totals can go now, 0 for
// none. A member who has never read anything needs them all.
func (s *Service) pruneUpTo(tx *sqldb.Tx, m Members, room int64) (end int64, err error) {
	joined, err := m.Joined(tx, room)
	if err != nil {
		return 0, err
	}
	var lowest sql.NullInt64
	for users := range slices.Chunk(joined, pruneRows) {
		var least sql.NullInt64
		if err := tx.QueryRow(leastRead, users, room, Unthreaded).Scan(&least); err != nil {
			return 0, err
		}
		if least.Valid && (!lowest.Valid || least.Int64 < lowest.Int64) {
			lowest = least
		}
	}
	if !lowest.Valid {
		return 0, nil
	}
	list, err := sqldb.Collect(tx, pruneEnd, scanInt, room, lowest.Int64, pruneRows, 1)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[len(list)-1], nil
}

func scanInt(rows *sqldb.Rows) (n int64, err error) {
	err = rows.Scan(&n)
	return n, err
}
