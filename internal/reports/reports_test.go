package reports

import (
	"errors"
	"testing"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

func TestOneUserCannotFillTheStore(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := New(db, nil)
		rows := make([][]any, maxKept)
		for i := range rows {
			rows[i] = []any{db.NextID(), int64(Room), 0, []byte("@a:hs"), []byte("!r:hs"), []byte{}, []byte{}, []byte{}, nil}
		}
		if err := db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error { return tx.Insert(insert, rows...) }}); err != nil {
			t.Fatal(err)
		}
		var limited *matrixerr.Error
		if err := s.Add(t.Context(), Report{Kind: Room, Reporter: "@a:hs", Room: "!r:hs"}); !errors.As(err, &limited) || limited.Code != "M_LIMIT_EXCEEDED" {
			t.Errorf("one too many: %v", err)
		}
		if err := s.Add(t.Context(), Report{Kind: Room, Reporter: "@b:hs", Room: "!r:hs"}); err != nil {
			t.Errorf("somebody else: %v", err)
		}
	})
}
