package sqldbtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"knock/internal/schema"
	"knock/internal/sqldb"
)

// schemaHash names a set of migrations.
func schemaHash() (string, error) {
	names, err := fs.Glob(schema.Files, "*.sql")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, name := range names {
		text, err := fs.ReadFile(schema.Files, name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// createPostgres copies a template into a new database, dropped at the end of the test.
func createPostgres(t testing.TB, server, tmpl string) string {
	t.Helper()
	ctx := context.Background()
	name := "knock_test_" + strings.ToLower(rand.Text()[:16])
	c, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatalf("PostgreSQL for tests: %v", err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+tmpl); err != nil {
		t.Fatalf("a fresh PostgreSQL database: %v", err)
	}
	t.Cleanup(func() { dropDatabase(server, name) })
	return withDatabase(server, name)
}

func dropDatabase(server, name string) {
	ctx := context.Background()
	c, err := pgx.Connect(ctx, server)
	if err != nil {
		return
	}
	defer c.Close(ctx)
	_, _ = c.Exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
}

// ensureTemplate makes the migrated template database unless it is there, and returns its name. The lock keeps other
// test processes waiting meanwhile.
func ensureTemplate(ctx context.Context, server string) (string, error) {
	hash, err := schemaHash()
	if err != nil {
		return "", err
	}
	name := "knock_template_" + hash
	c, err := pgx.Connect(ctx, server)
	if err != nil {
		return "", err
	}
	defer c.Close(ctx)
	if ok, err := databaseExists(ctx, c, name); err != nil || ok {
		return name, err
	}
	h := fnv.New64a()
	h.Write([]byte(name))
	key := int64(h.Sum64() >> 1)
	if _, err := c.Exec(ctx, "SELECT pg_advisory_lock($1)", key); err != nil {
		return "", err
	}
	defer c.Exec(ctx, "SELECT pg_advisory_unlock($1)", key)
	if ok, err := databaseExists(ctx, c, name); err != nil || ok {
		return name, err
	}
	return name, buildTemplate(ctx, c, server, name)
}

func databaseExists(ctx context.Context, c *pgx.Conn, name string) (ok bool, err error) {
	err = c.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)", name).Scan(&ok)
	return ok, err
}

// buildTemplate migrates a database under another name first, so that a half-made one is never taken.
func buildTemplate(ctx context.Context, c *pgx.Conn, server, name string) error {
	building := name + "_new"
	for _, sql := range []string{"DROP DATABASE IF EXISTS " + building, "CREATE DATABASE " + building + " TEMPLATE template0"} {
		if _, err := c.Exec(ctx, sql); err != nil {
			return err
		}
	}
	if err := migrate(ctx, withDatabase(server, building)); err != nil {
		return err
	}
	_, err := c.Exec(ctx, "ALTER DATABASE "+building+" RENAME TO "+name)
	return err
}

func migrate(ctx context.Context, dbURL string) error {
	db, err := sqldb.Open(ctx, sqldb.Options{URL: dbURL})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Migrate(ctx, schema.Files)
}

func withDatabase(server, name string) string {
	u, err := url.Parse(server)
	if err != nil {
		return server
	}
	u.Path = "/" + name
	return u.String()
}
