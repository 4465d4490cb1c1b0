package store

import (
	"context"
	"database/sql"
	"strings"

	"knock/internal/sqldb"
)

// PartialJoin is a time in which not all members of a room were known here: it was joined through a server that left
// them out of its answer.
type PartialJoin struct {
	Room, Event int64    // Event is the join
	From, To    int64    // positions of the join and of the end; To is 0 while it lasts
	Whole       bool     // all is known since
	Through     string   // the server that answered
	Servers     []string // that were in the room, as that one said
}

const partialColumns = `room, event, from_pos, to_pos, whole, through, servers`

var (
	partialJoins      = sqldb.Register("partial_joins.all", `SELECT `+partialColumns+` FROM partial_joins ORDER BY from_pos`)
	partialJoinsOf    = sqldb.Register("partial_joins.ofRoom", `SELECT `+partialColumns+` FROM partial_joins WHERE room = $1 ORDER BY from_pos`)
	insertPartialJoin = sqldb.Register("partial_joins.insert", `INSERT INTO partial_joins (room, event, from_pos, to_pos, whole, through, servers) VALUES ($1, $2, $3, NULL, $4, $5, $6)`)
	endPartialJoin    = sqldb.Register("partial_joins.end", `UPDATE partial_joins SET to_pos = $3, whole = $4 WHERE room = $1 AND event = $2`)
	mendPartialJoins  = sqldb.Register("partial_joins.mend", `UPDATE partial_joins SET whole = $2 WHERE room = $1`)

	insertPartialEvent = sqldb.Register("partial_events.insert", `INSERT INTO partial_events (room, seq, event) VALUES ($1, $2, $3)`)
	partialEvents      = sqldb.Register("partial_events.ofRoom", `SELECT event FROM partial_events WHERE room = $1 ORDER BY seq`)
	deletePartial      = sqldb.Register("partial_events.delete", `DELETE FROM partial_events WHERE room = $1`)

	insertTold = sqldb.Register("partial_told.insert", `INSERT INTO partial_told (room, prev, state) VALUES ($1, $2, $3) ON CONFLICT (room, prev) DO UPDATE SET state = excluded.state`)
	toldOf     = sqldb.Register("partial_told.ofRoom", `SELECT prev, state FROM partial_told WHERE room = $1`)
	deleteTold = sqldb.Register("partial_told.delete", `DELETE FROM partial_told WHERE room = $1`)
)

func scanPartialJoin(rows *sqldb.Rows) (p PartialJoin, err error) {
	var to sql.NullInt64
	var whole int64
	var through, servers []byte
	err = rows.Scan(&p.Room, &p.Event, &p.From, &to, &whole, &through, &servers)
	p.To, p.Whole, p.Through = to.Int64, whole != 0, string(through)
	if len(servers) > 0 {
		p.Servers = strings.Split(string(servers), "\n")
	}
	return p, err
}

// PartialJoins returns all partial joins, oldest first.
func (s *Store) PartialJoins(ctx context.Context) (list []PartialJoin, err error) {
	err = s.DB.Read(ctx, func(tx *sqldb.Tx) error {
		list, err = sqldb.Collect(tx, partialJoins, scanPartialJoin)
		return err
	})
	return list, err
}

// PartialJoinsOf returns the partial joins of a room, oldest first.
func (s *Store) PartialJoinsOf(tx *sqldb.Tx, room int64) ([]PartialJoin, error) {
	return sqldb.Collect(tx, partialJoinsOf, scanPartialJoin, room)
}

// AddPartialJoin writes that a room was joined without its members.
func (s *Store) AddPartialJoin(tx *sqldb.Tx, p PartialJoin) error {
	_, err := tx.Exec(insertPartialJoin, p.Room, p.Event, p.From, flag(false), []byte(p.Through), []byte(strings.Join(p.Servers, "\n")))
	return err
}

// EndPartialJoin writes that a partial join ended at pos, and drops what was kept for its completion. whole says that
// all members are known.
func (s *Store) EndPartialJoin(tx *sqldb.Tx, room, event, pos int64, whole bool) error {
	if _, err := tx.Exec(endPartialJoin, room, event, pos, flag(whole)); err != nil {
		return err
	}
	if whole {
		if err := s.MendPartialJoins(tx, room); err != nil {
			return err
		}
	}
	for _, stmt := range []*sqldb.Stmt{deletePartial, deleteTold} {
		if _, err := tx.Exec(stmt, room); err != nil {
			return err
		}
	}
	return nil
}

// MendPartialJoins writes that all members of a room are known, whatever became of earlier partial joins.
func (s *Store) MendPartialJoins(tx *sqldb.Tx, room int64) error {
	_, err := tx.Exec(mendPartialJoins, room, flag(true))
	return err
}

// AddPartialEvent notes an event that a room took while not all its members were known.
func (s *Store) AddPartialEvent(tx *sqldb.Tx, room, seq, event int64) error {
	_, err := tx.Exec(insertPartialEvent, room, seq, event)
	return err
}

// PartialEvents returns the events that AddPartialEvent noted, in that order.
func (s *Store) PartialEvents(tx *sqldb.Tx, room int64) ([]int64, error) {
	return sqldb.Collect(tx, partialEvents, scanNID, room)
}

// AddTold notes the state after an event that is not here, as another server told it.
func (s *Store) AddTold(tx *sqldb.Tx, room int64, prev string, state int64) error {
	_, err := tx.Exec(insertTold, room, []byte(prev), state)
	return err
}

// Told returns the states that AddTold noted, by event id.
func (s *Store) Told(tx *sqldb.Tx, room int64) (map[string]int64, error) {
	rows, err := tx.Query(toldOf, room)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	told := map[string]int64{}
	for rows.Next() {
		var prev []byte
		var set int64
		if err := rows.Scan(&prev, &set); err != nil {
			return nil, err
		}
		told[string(prev)] = set
	}
	return told, rows.Err()
}
