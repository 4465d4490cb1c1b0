package sqldb_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

func write(t *testing.T, db *sqldb.DB, fn func(tx *sqldb.Tx) error) error {
	t.Helper()
	return db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error { return fn(tx) }})
}

func TestPrepareAll(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.PrepareAll(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestMeta(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		if v, err := db.Meta(t.Context(), "a"); v != nil || err != nil {
			t.Fatal(v, err)
		}
		for _, want := range [][]byte{{0, 1}, {}, {2}} {
			if err := db.SetMeta(t.Context(), "a", want); err != nil {
				t.Fatal(err)
			}
			if got, err := db.Meta(t.Context(), "a"); !bytes.Equal(got, want) || err != nil {
				t.Fatal(got, err)
			}
		}
		if len(db.Epoch()) != 12 {
			t.Error(db.Epoch())
		}
	})
}

// TestValues writes and reads every kind of argument, the same on both engines.
func TestValues(t *testing.T) {
	type kind int64
	type name string
	each(t, func(t *testing.T, db *sqldb.DB) {
		five, null := int64(5), (*int64)(nil)
		for i, c := range []struct {
			pos, name any
			wantPos   int64
			wantName  []byte
		}{
			{int64(math.MinInt64), []byte{0, 0xff}, math.MinInt64, []byte{0, 0xff}},
			{7, "a\x00b", 7, []byte("a\x00b")},
			{true, name("n"), 1, []byte("n")},
			{false, json.RawMessage(`{}`), 0, []byte("{}")},
			{kind(9), [4]byte{1, 2, 3, 4}, 9, []byte{1, 2, 3, 4}},
			{uint32(8), []byte(nil), 8, nil},
			{&five, nil, 5, nil},
			{sql.NullInt64{Int64: 4, Valid: true}, null, 4, nil},
			{1, "", 1, []byte{}},
		} {
			err := write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(addPlay, i, c.pos, c.name); return err })
			if err != nil {
				t.Fatal(i, err)
			}
			err = db.Read(t.Context(), func(tx *sqldb.Tx) error {
				var pos int64
				var name, data []byte
				if err := tx.QueryRow(playByID, i).Scan(&pos, &name, &data); err != nil {
					return err
				}
				if pos != c.wantPos || !bytes.Equal(name, c.wantName) || (name == nil) != (c.wantName == nil) || data != nil {
					t.Errorf("%d: %d %q %v", i, pos, name, data)
				}
				return nil
			})
			if err != nil {
				t.Error(i, err)
			}
		}
		for _, v := range []any{uint64(math.MaxUint64), struct{}{}, []float64{1}, make(chan int)} {
			err := write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(addPlay, 100, v, nil); return err })
			if err == nil {
				t.Errorf("%T was bound", v)
			}
		}
	})
}

func TestScan(t *testing.T) {
	type kind uint8
	type name string
	each(t, func(t *testing.T, db *sqldb.DB) {
		err := write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(addPlay, 1, 200, "abcd"); return err })
		if err != nil {
			t.Fatal(err)
		}
		var k kind
		var n name
		var s string
		var b bool
		var u uint64
		var p *int64
		var pb *[]byte
		var arr [4]byte
		var raw json.RawMessage
		var ni sql.NullInt64
		var nb sql.Null[[]byte]
		var f float64
		var i32 int32
		get := func(dest ...any) error {
			return db.Read(t.Context(), func(tx *sqldb.Tx) error { return tx.QueryRow(playByID, 1).Scan(dest...) })
		}
		for i, dest := range [][]any{{&k, &n, &raw}, {&b, &s, &pb}, {&u, &arr, &nb}, {&p, &raw, &nb}, {&ni, &nb, &raw},
			{&f, &raw, &raw}, {&i32, &nb, &nb}} {
			if err := get(dest...); err != nil {
				t.Error(i, err)
			}
		}
		if k != 200 || n != "abcd" || !b || s != "abcd" || pb != nil || u != 200 || string(arr[:]) != "abcd" || *p != 200 ||
			ni.Int64 != 200 || f != 200 || i32 != 200 {
			t.Error(k, n, b, s, pb, u, arr, p, ni, f, i32)
		}
		var i8 int8
		var short [3]byte
		var i64 int64
		for i, dest := range [][]any{{&i8, &s, &raw}, {&u, &short, &raw}, {&u, &i64, &raw}, {&u, &s, &s}, {&u, &s, &i64},
			{&u, &s}, {u, &s, &raw}} {
			if err := get(dest...); err == nil {
				t.Error(i, "was scanned")
			}
		}
	})
}

func TestArrays(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		rows := make([][]any, 700)
		for i := range rows {
			rows[i] = []any{i, 0, []byte{0, byte(i >> 8), byte(i)}, nil}
		}
		if err := write(t, db, func(tx *sqldb.Tx) error { return tx.Insert(insertPlay, rows...) }); err != nil {
			t.Fatal(err)
		}
		scan := func(r *sqldb.Rows) (id int64, err error) { return id, r.Scan(&id) }
		for _, c := range []struct {
			stmt *sqldb.Stmt
			arg  any
			want []int64
		}{
			{playByIDs, []int64{3, 699, 700, 5}, []int64{3, 5, 699}},
			{playByIDs, []int64(nil), nil},
			{playByIDs, []int64{}, nil},
			{playByNames, [][]byte{{0, 1, 0}, {0, 0, 7}, {9}, {}}, []int64{7, 256}},
			{playByNames, []string{"\x00\x00\x01", "'; --"}, []int64{1}},
			{playByNames, [][]byte(nil), nil},
		} {
			err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
				got, err := sqldb.Collect(tx, c.stmt, scan, c.arg)
				if !slices.Equal(got, c.want) {
					t.Errorf("%v: %v, want %v", c.arg, got, c.want)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// TestSnapshot reads twice in one snapshot around a commit.
func TestSnapshot(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error {
			count := func() (n int) {
				ids, err := sqldb.Collect(tx, playIDs, func(*sqldb.Rows) (int, error) { return 0, nil })
				if err != nil {
					t.Fatal(err)
				}
				return len(ids)
			}
			if n := count(); n != 0 {
				t.Error(n)
			}
			if err := db.Do(t.Context(), &sqldb.Op{Name: "x", Write: insert(1)}); err != nil {
				t.Error(err)
			}
			if n := count(); n != 0 {
				t.Error("the snapshot sees a later commit")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(plays(t, db)); n != 1 {
			t.Error(n)
		}
	})
}

func TestReadRefuses(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		err := db.Read(t.Context(), func(tx *sqldb.Tx) error { _, err := tx.Exec(addPlay, 1, 1, nil); return err })
		if err == nil {
			t.Error("a read wrote")
		}
		err = db.Read(t.Context(), func(tx *sqldb.Tx) error {
			return tx.QueryRow(playByID, 1).Scan(new(int64), new([]byte), new([]byte))
		})
		if err != sql.ErrNoRows {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Read(ctx, func(tx *sqldb.Tx) error { _, err := tx.Query(playIDs); return err }); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if n := len(plays(t, db)); n != 0 {
			t.Error(n)
		}
	})
}

func TestIsUnique(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		for i, c := range []struct {
			id     int64
			name   string
			unique bool
		}{{1, "a", false}, {1, "b", true}, {2, "a", true}} {
			err := write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(addPlay, c.id, 0, c.name); return err })
			if sqldb.IsUnique(err) != c.unique {
				t.Error(i, err)
			}
		}
		err := write(t, db, func(tx *sqldb.Tx) error { _, err := tx.Exec(addPlay, 1, nil, nil); return err })
		if err == nil || sqldb.IsUnique(err) {
			t.Error(err)
		}
	})
}

func TestMigrate(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		t.Run(d.String(), func(t *testing.T) {
			url := sqldbtest.EmptyURL(t, d)
			migrate := func(files fstest.MapFS) (epoch string, err error) {
				db, err := sqldb.Open(t.Context(), sqldb.Options{URL: url})
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				return db.Epoch(), errors.Join(db.Migrate(t.Context(), files), func() error { epoch = db.Epoch(); return nil }())
			}
			files := baseFiles(t)
			if _, err := migrate(files); err != nil {
				t.Fatal(err)
			}
			files["0003_bad.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE half (a BIGINT);\nCREATE TABEL x (a BIGINT);")}
			if _, err := migrate(files); err == nil || !strings.Contains(err.Error(), "0003_bad.sql") {
				t.Fatal(err)
			}
			files["0003_bad.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE half (a BIGINT);")}
			if _, err := migrate(files); err != nil {
				t.Fatal("the failed migration left something:", err)
			}
			delete(files, "0003_bad.sql")
			if _, err := migrate(files); !errors.Is(err, sqldb.ErrNewerSchema) {
				t.Fatal(err)
			}
			files["3_x.sql"], files["0003_y.sql"] = &fstest.MapFile{}, &fstest.MapFile{}
			if _, err := migrate(files); err == nil || errors.Is(err, sqldb.ErrNewerSchema) {
				t.Fatal("two files with one number:", err)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	for _, url := range []string{"", "mysql://x", "sqlite:", "sqlite:/no/such/directory/x.db", "postgres://127.0.0.1:1/x?connect_timeout=2",
		"postgres://user:secretword@host:port:x/"} {
		db, err := sqldb.Open(t.Context(), sqldb.Options{URL: url})
		if err == nil {
			db.Close()
			t.Errorf("%q was opened", url)
			continue
		}
		if strings.Contains(err.Error(), "secretword") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	url := sqldbtest.EmptyURL(t, sqldb.SQLite)
	db, err := sqldb.Open(t.Context(), sqldb.Options{URL: url, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Migrate(t.Context(), baseFiles(t)); err != nil {
		t.Fatal(err)
	}
	db.Start(t.Context())
	if err := db.Do(t.Context(), &sqldb.Op{Name: "fine", Write: insert(1)}); err != nil {
		t.Fatal(err)
	}
	if err := db.Do(t.Context(), &sqldb.Op{Name: "bad", Write: insert(1)}); err == nil {
		t.Fatal("no error")
	}
	var names []string
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		names = append(names, f.GetName())
	}
	want := []string{"knock_db_batch_ops", "knock_db_batch_reruns_total", "knock_db_commit_seconds",
		"knock_db_op_failures_total", "knock_db_ops_total", "knock_db_queue_ops"}
	if !slices.Equal(names, want) {
		t.Errorf("%v, want %v", names, want)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if families, _ = reg.Gather(); len(families) != 0 {
		t.Error("metrics stay after Close")
	}
	if info, err := os.Stat(strings.TrimSuffix(strings.TrimPrefix(url, "sqlite:"), "?sync=off")); err != nil || info.Mode().Perm() != 0o600 {
		t.Error("the database file is not private", err)
	}
}
