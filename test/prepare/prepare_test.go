// Package prepare owns the test that both engines accept every SQL statement of the program.
package prepare

import (
	"testing"

	_ "knock/cmd/knock/node" // imports every package that registers statements
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

func TestPrepareEverything(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if n := len(sqldb.All(db.Dialect())); n < 150 {
			t.Errorf("only %d statements are registered: is a package missing?", n)
		}
		if err := db.PrepareAll(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
