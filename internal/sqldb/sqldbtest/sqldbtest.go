// Package sqldbtest gives tests fresh migrated databases on both engines, and a crash harness.
package sqldbtest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"knock/internal/schema"
	"knock/internal/sqldb"
)

// PostgresEnv names the environment variable with the URL of a PostgreSQL server for tests. Its user must be allowed to
// create databases.
const PostgresEnv = "KNOCK_TEST_POSTGRES"

// Each runs fn as subtests "sqlite" and "postgres", each on a fresh, migrated and started database.
func Each(t *testing.T, fn func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) { fn(t, Open(t, d)) })
	}
}

// Open gives a fresh, migrated and started database, closed at the end of the test. It skips the test when there is no
// PostgreSQL to use.
func Open(t testing.TB, d sqldb.Dialect) *sqldb.DB {
	t.Helper()
	db := OpenURL(t, URL(t, d))
	db.Start(t.Context())
	return db
}

// OpenURL opens and migrates the database at url without starting it, so that OnPublish can be set.
func OpenURL(t testing.TB, url string) *sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the database: %v", err)
		}
	})
	if err := db.Migrate(t.Context(), schema.Files); err != nil {
		t.Fatal(err)
	}
	return db
}

// URLs gives the URL of a fresh database for each engine that can be tested, by its name.
func URLs(t testing.TB) map[string]string {
	t.Helper()
	urls := map[string]string{"sqlite": URL(t, sqldb.SQLite)}
	if os.Getenv(PostgresEnv) != "" {
		urls["postgres"] = URL(t, sqldb.Postgres)
	}
	return urls
}

// URL gives the URL of a fresh migrated database, removed at the end of the test. (SQLite's is empty: its migration
// takes less than a copy.) It skips the test when there is no PostgreSQL to use.
func URL(t testing.TB, d sqldb.Dialect) string {
	t.Helper()
	if d == sqldb.SQLite {
		return EmptyURL(t, d)
	}
	server := postgresServer(t)
	tmpl, err := ensureTemplate(context.Background(), server)
	if err != nil {
		t.Fatalf("the PostgreSQL template database: %v", err)
	}
	return createPostgres(t, server, tmpl)
}

// EmptyURL gives the URL of a database without tables, removed at the end of the test.
func EmptyURL(t testing.TB, d sqldb.Dialect) string {
	t.Helper()
	if d == sqldb.SQLite {
		return "sqlite:" + filepath.Join(t.TempDir(), "test.db") + "?sync=off"
	}
	return createPostgres(t, postgresServer(t), "template0")
}

func postgresServer(t testing.TB) string {
	t.Helper()
	server := os.Getenv(PostgresEnv)
	if server == "" {
		t.Skip("PostgreSQL is not tested: set " + PostgresEnv + ", or run the tests with go run ./test/withpg -- go test …")
	}
	return server
}
