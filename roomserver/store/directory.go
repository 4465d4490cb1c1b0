package store

import (
	"knock/internal/sqldb"
)

// Alias is a row of the room directory.
type Alias struct{ Alias, RoomID, Creator string }

var (
	selectAlias   = sqldb.Register("aliases.select", `SELECT alias, room_id, creator FROM aliases WHERE alias = $1`)
	allAliases    = sqldb.Register("aliases.all", `SELECT alias, room_id, creator FROM aliases`)
	aliasesOfRoom = sqldb.Register("aliases.ofRoom", `SELECT alias, room_id, creator FROM aliases WHERE room_id = $1 ORDER BY alias`)
	insertAlias   = sqldb.Register("aliases.insert", `INSERT INTO aliases (alias, room_id, creator) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`)
	deleteAlias   = sqldb.Register("aliases.delete", `DELETE FROM aliases WHERE alias = $1`)
	publish       = sqldb.Register("published.insert", `INSERT INTO published (room) VALUES ($1) ON CONFLICT DO NOTHING`)
	unpublish     = sqldb.Register("published.delete", `DELETE FROM published WHERE room = $1`)
	isPublished   = sqldb.Register("published.is", `SELECT count(*) FROM published WHERE room = $1`)
	allPublished  = sqldb.Register("published.all", `SELECT p.room FROM published p ORDER BY p.room`)
)

func scanAlias(rows *sqldb.Rows) (a Alias, err error) {
	var alias, room, creator []byte
	err = rows.Scan(&alias, &room, &creator)
	return Alias{string(alias), string(room), string(creator)}, err
}

// Alias returns the row of a local alias, or ErrNotFound.
func (s *Store) Alias(tx *sqldb.Tx, alias string) (Alias, error) {
	rows, err := sqldb.Collect(tx, selectAlias, scanAlias, []byte(alias))
	if err != nil {
		return Alias{}, err
	}
	if len(rows) == 0 {
		return Alias{}, ErrNotFound
	}
	return rows[0], nil
}

// AliasesOf returns the local aliases of a room.
func (s *Store) AliasesOf(tx *sqldb.Tx, roomID string) ([]Alias, error) {
	return sqldb.Collect(tx, aliasesOfRoom, scanAlias, []byte(roomID))
}

// EachAlias calls fn with every alias of this server.
func (s *Store) EachAlias(tx *sqldb.Tx, fn func(Alias)) error {
	_, err := sqldb.Collect(tx, allAliases, func(rows *sqldb.Rows) (struct{}, error) {
		a, err := scanAlias(rows)
		fn(a)
		return struct{}{}, err
	})
	return err
}

// InsertAlias adds an alias; it reports false when the alias is taken.
func (s *Store) InsertAlias(tx *sqldb.Tx, a Alias) (bool, error) {
	n, err := tx.Exec(insertAlias, []byte(a.Alias), []byte(a.RoomID), []byte(a.Creator))
	return n == 1, err
}

// DeleteAlias removes an alias.
func (s *Store) DeleteAlias(tx *sqldb.Tx, alias string) error {
	_, err := tx.Exec(deleteAlias, []byte(alias))
	return err
}

// Publish puts a room into the public directory, or takes it out.
func (s *Store) Publish(tx *sqldb.Tx, room int64, public bool) error {
	q := unpublish
	if public {
		q = publish
	}
	_, err := tx.Exec(q, room)
	return err
}

// IsPublished reports whether a room is in the public directory.
func (s *Store) IsPublished(tx *sqldb.Tx, room int64) (bool, error) {
	var n int64
	err := tx.QueryRow(isPublished, room).Scan(&n)
	return n > 0, err
}

// Published returns the rooms of the public directory.
func (s *Store) Published(tx *sqldb.Tx) ([]int64, error) {
	return sqldb.Collect(tx, allPublished, scanNID)
}
