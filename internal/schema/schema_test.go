package schema_test

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"knock/internal/schema"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

var update = flag.Bool("update", false, "write the dumps instead of comparing with them")

func TestDump(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		got, err := schema.Dump(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		file := "dump_" + db.Dialect().String() + ".txt"
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("the migrations result in another schema than %s says (bring it up to date with "+
				"go run ./test/withpg -- go test ./internal/schema -update):\n%s", file, diff)
		}
	})
}
