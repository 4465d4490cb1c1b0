package sqldb_test

import (
	"strings"
	"testing"

	"knock/internal/sqldb"
)

func TestRewrite(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"parameters", "SELECT a FROM t WHERE b = $2 AND c = $1", "SELECT a FROM t WHERE b = ?2 AND c = ?1"},
		{"two digits", "VALUES ($10,$1)", "VALUES (?10,?1)"},
		{"bigint array", "WHERE a = ANY($1::bigint[])", "WHERE a IN (SELECT value FROM json_each(?1))"},
		{"bytea array", "WHERE a = ANY($3::bytea[]) AND b = $1",
			"WHERE a IN (SELECT unhex(value) FROM json_each(?3)) AND b = ?1"},
		{"array, odd spacing", "a=any ( $1 :: BYTEA[] )", "aIN (SELECT unhex(value) FROM json_each(?1))"},
		{"not in array", "a <> ALL($1::bigint[])", "a NOT IN (SELECT value FROM json_each(?1))"},
		{"casts", "SELECT $1::bigint + sum(x)::bigint, y::double precision, z::varchar(10), w::bytea[]",
			"SELECT ?1 + sum(x), y, z, w"},
		{"for update", "SELECT a FROM t WHERE b = $1 FOR UPDATE", "SELECT a FROM t WHERE b = ?1"},
		{"for no key update", "SELECT a FROM t FOR NO KEY UPDATE OF t SKIP LOCKED", "SELECT a FROM t"},
		{"for update inside", "SELECT a FROM (SELECT b FROM t FOR UPDATE) AS x", "SELECT a FROM (SELECT b FROM t ) AS x"},
		{"greatest", "SET pos = GREATEST(t.pos, excluded.pos), n = least (a, b)", "SET pos = MAX(t.pos, excluded.pos), n = MIN (a, b)"},
		{"column named greatest", "SELECT greatest FROM t", "SELECT greatest FROM t"},
		{"string literal", "SELECT '$1::bigint it''s = ANY($1::bigint[])', $1", "SELECT '$1::bigint it''s = ANY($1::bigint[])', ?1"},
		{"identifier", `SELECT "a$1::x" FROM t`, `SELECT "a$1::x" FROM t`},
		{"dollar quoted", "SELECT $x$ $1 $x$, $1", "SELECT $x$ $1 $x$, ?1"},
		{"comments", "SELECT 1 -- $1::x\n, /* $2 FOR UPDATE */ $2", "SELECT 1 -- $1::x\n, /* $2 FOR UPDATE */ ?2"},
		{"unfinished", "SELECT 'abc $1", "SELECT 'abc $1"},
		{"json arrow stays", "SELECT a ->> $1", "SELECT a ->> ?1"},
		{"upsert", "INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET a = excluded.a RETURNING a",
			"INSERT INTO t (a) VALUES (?1) ON CONFLICT (a) DO UPDATE SET a = excluded.a RETURNING a"},
	} {
		if got := sqldb.Rewrite(c.in); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add("SELECT a FROM t WHERE a = ANY($1::bytea[]) AND b <> ALL($2::bigint[]) FOR UPDATE -- x\n/*")
	f.Add("$ $$ $a$ '' \" :: < > = ANY(")
	f.Fuzz(func(t *testing.T, sql string) {
		once := sqldb.Rewrite(sql)
		if plain := !strings.ContainsAny(sql, "$:") && !strings.Contains(strings.ToUpper(sql), "FOR") &&
			!strings.Contains(strings.ToUpper(sql), "ST"); plain && strings.TrimRight(sql, " \t\r\n") != once {
			t.Errorf("%q became %q", sql, once)
		}
	})
}

func TestSchemaText(t *testing.T) {
	const file = `-- bytea in a comment
CREATE TABLE t (
    a BIGINT PRIMARY KEY, -- BYTEA
    b BYTEA NOT NULL
)
-- sqlite: WITHOUT ROWID
-- postgres: WITH (fillfactor = 90)
;
CREATE INDEX x ON t (b); -- only: postgres
    CREATE INDEX y ON t (b);  -- only: sqlite
`
	want := map[sqldb.Dialect]string{
		sqldb.SQLite: `-- bytea in a comment
CREATE TABLE t (
    a INTEGER PRIMARY KEY, -- BYTEA
    b BLOB NOT NULL
)
WITHOUT ROWID
-- postgres: WITH (fillfactor = 90)
;
    CREATE INDEX y ON t (b);  -- only: sqlite
`,
		sqldb.Postgres: `-- bytea in a comment
CREATE TABLE t (
    a BIGINT PRIMARY KEY, -- BYTEA
    b BYTEA NOT NULL
)
-- sqlite: WITHOUT ROWID
WITH (fillfactor = 90)
;
CREATE INDEX x ON t (b); -- only: postgres
`,
	}
	for d, w := range want {
		if got := sqldb.SchemaText(d, file); got != w {
			t.Errorf("%v:\n%s\nwant\n%s", d, got, w)
		}
	}
}
