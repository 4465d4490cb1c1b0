package node

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"

	"knock/internal/schema"
	"knock/internal/sqldb"
)

// migrateFurther adds a migration of the future.
func migrateFurther(t *testing.T, url string) {
	t.Helper()
	files := fstest.MapFS{"9999_future.sql": {Data: []byte("CREATE TABLE future (x BIGINT NOT NULL);\n")}}
	names, err := fs.Glob(schema.Files, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := fs.ReadFile(schema.Files, name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: data}
	}
	db, err := sqldb.Open(context.Background(), sqldb.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Migrate(context.Background(), files); err != nil {
		t.Fatal(err)
	}
}
