package sqldb_test

import (
	"errors"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// TestAfterCommit runs only for what was committed, before the operation's own callback.
func TestAfterCommit(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		var order []string
		var last int64
		op := func(name string, err error) *sqldb.Op {
			return &sqldb.Op{Name: "test", Positions: 2,
				Write: func(tx *sqldb.Tx, _ int64) error {
					tx.AfterCommit(func(pos int64) { order, last = append(order, "after "+name), pos })
					return err
				},
				Committed: func(int64) { order = append(order, name) }}
		}
		if err := db.Do(t.Context(), op("good", nil)); err != nil {
			t.Fatal(err)
		}
		if pos, err := db.Position(t.Context()); err != nil || last != pos {
			t.Errorf("last is %d, the position %d (%v)", last, pos, err)
		}
		if db.Do(t.Context(), op("bad", errors.New("refused"))) == nil {
			t.Error("the operation must fail")
		}
		if len(order) != 2 || order[0] != "after good" || order[1] != "good" {
			t.Error(order)
		}
	})
}
