package pushrules

import (
	"database/sql"
	"errors"

	"knock/internal/sqldb"
)

var (
	selectRules = sqldb.Register("pushrules.rules",
		`SELECT data, pos FROM push_rules WHERE user_id = $1`)
	selectRulesOf = sqldb.Register("pushrules.rulesOf",
		`SELECT user_id, data FROM push_rules WHERE user_id = ANY($1::bytea[])`)
	selectIndexed = sqldb.Register("pushrules.indexed",
		`SELECT user_id, data FROM push_rules WHERE indexed = $1`)
	upsertRules = sqldb.Register("pushrules.upsert",
		`INSERT INTO push_rules (user_id, data, indexed, pos) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id) DO UPDATE SET data = excluded.data, indexed = excluded.indexed, pos = excluded.pos`)
	deleteRules = sqldb.Register("pushrules.delete",
		`DELETE FROM push_rules WHERE user_id = $1`)
)

// row is a user's row; pos is 0 when there is none.
type row struct {
	data []byte
	pos  int64
}

func readRow(tx *sqldb.Tx, user string) (row, error) {
	var r row
	err := tx.QueryRow(selectRules, user).Scan(&r.data, &r.pos)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return r, err
}

// userRow is a row of a set of users.
type userRow struct {
	user string
	data []byte
}

func scanUserRow(rows *sqldb.Rows) (userRow, error) {
	var r userRow
	err := rows.Scan(&r.user, &r.data)
	return r, err
}
