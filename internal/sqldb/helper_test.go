package sqldb_test

import (
	"os"
	"testing"
	"testing/fstest"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// baseFiles is the schema of this package alone and a table to play with.
func baseFiles(t testing.TB) fstest.MapFS {
	t.Helper()
	base, err := os.ReadFile("../schema/0001_base.sql")
	if err != nil {
		t.Fatal(err)
	}
	play := `CREATE TABLE play (
    id   BIGINT NOT NULL PRIMARY KEY,
    pos  BIGINT NOT NULL,
    name BYTEA,
    data BYTEA
);
CREATE UNIQUE INDEX play_name ON play (name);
CREATE TABLE child (id BIGINT NOT NULL, n BIGINT NOT NULL, data BYTEA NOT NULL, PRIMARY KEY (id, n))
-- sqlite: WITHOUT ROWID
;`
	return fstest.MapFS{
		"0001_base.sql": {Data: base},
		"0002_play.sql": {Data: []byte(play)},
	}
}

// open migrates an empty database with baseFiles; it is not started.
func open(t testing.TB, d sqldb.Dialect) *sqldb.DB {
	t.Helper()
	return openWith(t, d, func(url string) string { return url })
}

func openWith(t testing.TB, d sqldb.Dialect, change func(url string) string) *sqldb.DB {
	t.Helper()
	return openURL(t, change(sqldbtest.EmptyURL(t, d)))
}

// openURL opens a database and migrates it with baseFiles; it is not started.
func openURL(t testing.TB, url string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := db.Migrate(t.Context(), baseFiles(t)); err != nil {
		t.Fatal(err)
	}
	return db
}

// each runs fn on a started database of each engine.
func each(t *testing.T, fn func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			db := open(t, d)
			db.Start(t.Context())
			fn(t, db)
		})
	}
}
