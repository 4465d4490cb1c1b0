// Package schema owns the database schema: the numbered migrations of all packages, embedded, and the dumps of what they
// result in. Each file belongs to one package; no table refers to another package's. What may be written in them is in
// the package comment of internal/sqldb.
//
// After adding a migration, bring the dumps up to date and look at the difference:
//
//	go run ./test/withpg -- go test ./internal/schema -update
package schema

import (
	"embed"
	"io/fs"
)

//go:embed *.sql
var embedded embed.FS

// Files are the migrations, "NNNN_name.sql".
var Files fs.FS = embedded
