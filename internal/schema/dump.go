package schema

import (
	"context"
	"strings"

	"knock/internal/sqldb"
)

// Each gives lines of a dump in their order: tables by name, each with its columns in order, then its keys and indexes.
var (
	dumpSQLite = sqldb.RegisterFor(sqldb.SQLite, "schema.dumpSQLite", `
SELECT line FROM (
    SELECT l.name AS tab, 0 AS part, 0 AS n, '' AS name,
        'TABLE ' || l.name || CASE WHEN l.wr = 1 THEN ' WITHOUT ROWID' ELSE '' END
            || CASE WHEN l.strict = 1 THEN ' STRICT' ELSE '' END AS line
    FROM pragma_table_list AS l WHERE l.type = 'table' AND l.schema = 'main' AND l.name NOT LIKE 'sqlite\_%' ESCAPE '\'
    UNION ALL
    SELECT l.name, 1, c.cid, '',
        '    ' || c.name || ' ' || c.type || CASE WHEN c."notnull" THEN ' NOT NULL' ELSE '' END
            || CASE WHEN c.dflt_value IS NULL THEN '' ELSE ' DEFAULT ' || c.dflt_value END
            || CASE WHEN c.pk > 0 THEN ' KEY ' || c.pk ELSE '' END
    FROM pragma_table_list AS l JOIN pragma_table_info(l.name) AS c
    WHERE l.type = 'table' AND l.schema = 'main' AND l.name NOT LIKE 'sqlite\_%' ESCAPE '\'
    UNION ALL
    SELECT m.tbl_name, 2, 0, m.name, '    ' || coalesce(m.sql, 'UNIQUE ' || (
        SELECT group_concat(name, ', ') FROM (SELECT i.name FROM pragma_index_info(m.name) AS i ORDER BY i.seqno)))
    FROM sqlite_master AS m WHERE m.type = 'index'
        AND NOT (m.sql IS NULL AND EXISTS (
            SELECT 1 FROM pragma_index_list(m.tbl_name) AS x WHERE x.name = m.name AND x.origin = 'pk'))
) ORDER BY tab, part, n, name`)

	dumpPostgres = sqldb.RegisterFor(sqldb.Postgres, "schema.dumpPostgres", `
SELECT line FROM (
    SELECT c.relname::text AS tab, 0 AS part, 0 AS n, '' AS name, 'TABLE ' || c.relname AS line
    FROM pg_class AS c WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
    UNION ALL
    SELECT c.relname::text, 1, a.attnum, '',
        '    ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
            || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
            || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT c.relname::text, 2, 0, o.conname::text, '    CONSTRAINT ' || o.conname || ' ' || pg_get_constraintdef(o.oid)
    FROM pg_class AS c JOIN pg_constraint AS o ON o.conrelid = c.oid
    WHERE c.relnamespace = current_schema()::regnamespace AND o.contype <> 'n'
    UNION ALL
    SELECT c.relname::text, 3, 0, i.relname::text,
        '    ' || replace(pg_get_indexdef(i.oid), current_schema() || '.', '')
    FROM pg_class AS c JOIN pg_index AS x ON x.indrelid = c.oid JOIN pg_class AS i ON i.oid = x.indexrelid
    WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
        AND NOT EXISTS (SELECT 1 FROM pg_constraint AS o WHERE o.conindid = i.oid)
) AS lines ORDER BY tab COLLATE "C", part, n, name COLLATE "C"`)
)

// Dump describes the schema of db as text, for comparison with the committed dump of its engine. Its form is the same
// however the schema came about.
func Dump(ctx context.Context, db *sqldb.DB) (string, error) {
	stmt := dumpSQLite
	if db.Dialect() == sqldb.Postgres {
		stmt = dumpPostgres
	}
	var lines []string
	err := db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		lines, err = sqldb.Collect(tx, stmt, func(r *sqldb.Rows) (line string, err error) {
			err = r.Scan(&line)
			return "    " + strings.Join(strings.Fields(line), " "), err
		})
		return err
	})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, line := range lines {
		if table, ok := strings.CutPrefix(line, "    TABLE "); ok {
			line = "TABLE " + table
		}
		b.WriteString(line + "\n")
	}
	return b.String(), nil
}
