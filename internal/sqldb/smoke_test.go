package sqldb_test

import (
	"testing"

	"knock/internal/sqldb"
)

func TestSmoke(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.PrepareAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.SetMeta(t.Context(), "a", []byte{0, 1}); err != nil {
			t.Fatal(err)
		}
		v, err := db.Meta(t.Context(), "a")
		if err != nil || string(v) != "\x00\x01" {
			t.Fatal(v, err)
		}
		if id := db.NextID(); id != 1 {
			t.Fatal(id)
		}
		if len(db.Epoch()) != 12 {
			t.Fatal(db.Epoch())
		}
		var first int64
		for i := range 3 {
			err := db.Do(t.Context(), &sqldb.Op{Name: "x", Positions: 2, Write: func(tx *sqldb.Tx, f int64) error { first = f; return nil }})
			if err != nil || first != int64(i*2+1) {
				t.Fatal(err, first)
			}
		}
		if pos, err := db.Position(t.Context()); err != nil || pos != 6 {
			t.Fatal(pos, err)
		}
	})
}
