package e2ee_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"knock/internal/e2ee"
)

func backupKey(first, forwarded int64, verified bool) e2ee.BackupKey {
	return e2ee.BackupKey{FirstIndex: first, Forwarded: forwarded, Verified: verified,
		Data: json.RawMessage(fmt.Sprintf(`{"ciphertext":"%d %d %v"}`, first, forwarded, verified))}
}

func TestBackup(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx, a := t.Context(), r.user("a")
		const algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"
		create := func() string {
			v, err := r.CreateBackup(ctx, a, algorithm, json.RawMessage(`{"public_key":"x"}`))
			r.must(err)
			return v
		}
		_, err := r.Backup(ctx, a, "")
		r.refused(err, "M_NOT_FOUND")
		_, err = r.PutBackupKeys(ctx, a, "1", e2ee.BackupKeys{"!r": {"s": backupKey(1, 1, false)}})
		r.refused(err, "M_NOT_FOUND")
		_, err = r.CreateBackup(ctx, a, "", nil)
		r.refused(err, "M_MISSING_PARAM")
		v := create()
		got, err := r.PutBackupKeys(ctx, a, v, e2ee.BackupKeys{"!r": {"s1": backupKey(5, 5, false), "s2": backupKey(1, 0, true)}, "!q": {"s1": backupKey(0, 0, false)}})
		if err != nil || got != (e2ee.Stored{ETag: "1", Count: 3}) {
			t.Error(got, err)
		}
		for _, c := range []struct {
			name string
			key  e2ee.BackupKey
			etag string
		}{
			{"worse index", backupKey(6, 0, false), "1"},
			{"better index", backupKey(4, 9, false), "2"},
			{"more forwarded", backupKey(4, 10, false), "2"},
			{"less forwarded", backupKey(4, 8, false), "3"},
			{"the same", backupKey(4, 8, false), "3"},
			{"verified", backupKey(9, 9, true), "4"},
			{"not verified", backupKey(0, 0, false), "4"},
		} {
			got, err := r.PutBackupKeys(ctx, a, v, e2ee.BackupKeys{"!r": {"s1": c.key}})
			if err != nil || got.ETag != c.etag || got.Count != 3 {
				t.Error(c.name, got, err)
			}
		}
		k, err := r.BackupKey(ctx, a, v, "!r", "s1")
		if err != nil || k.FirstIndex != 9 || string(k.Data) != `{"ciphertext":"9 9 true"}` {
			t.Error(k, err)
		}
		_, err = r.BackupKey(ctx, a, v, "!r", "none")
		r.refused(err, "M_NOT_FOUND")

		got, err = r.DeleteBackupKeys(ctx, a, v, "!r", "s2")
		if err != nil || got.Count != 2 {
			t.Error(got, err)
		}
		got, err = r.DeleteBackupKeys(ctx, a, v, "!r", "s2")
		if err != nil || got != (e2ee.Stored{ETag: "5", Count: 2}) {
			t.Error(got, err)
		}
		r.refused(r.UpdateBackup(ctx, a, v, "other", json.RawMessage(`{}`)), "M_INVALID_PARAM")
		r.must(r.UpdateBackup(ctx, a, v, algorithm, json.RawMessage(`{"public_key":"y"}`)))

		next := create()
		_, err = r.PutBackupKeys(ctx, a, v, e2ee.BackupKeys{"!r": {"s1": backupKey(0, 0, true)}})
		r.refused(err, "M_WRONG_ROOM_KEYS_VERSION")
		b, err := r.Backup(ctx, a, v)
		if err != nil || string(b.AuthData) != `{"public_key":"y"}` || b.Count != 2 {
			t.Error(b, err)
		}
		r.must(r.DeleteBackup(ctx, a, next))
		r.must(r.DeleteBackup(ctx, a, next))
		r.refused(r.DeleteBackup(ctx, a, "77"), "M_NOT_FOUND")
		if b, err := r.Backup(ctx, a, ""); err != nil || b.Version != v {
			t.Error("the current one is the newest that is left:", b, err)
		}
		if again := create(); again == next {
			t.Error("a version was used twice")
		}
		got, err = r.DeleteBackupKeys(ctx, a, v, "", "")
		if err != nil || got.Count != 0 {
			t.Error(got, err)
		}
	})
}

func TestManyBackupKeys(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		a := r.user("a")
		v, err := r.CreateBackup(t.Context(), a, "x", json.RawMessage(`{}`))
		r.must(err)
		keys := e2ee.BackupKeys{}
		for room := range 3 {
			sessions := map[string]e2ee.BackupKey{}
			for s := range 400 {
				sessions[fmt.Sprint("s", s)] = backupKey(0, 0, true)
			}
			keys[fmt.Sprint("!", room)] = sessions
		}
		_, err = r.PutBackupKeys(t.Context(), a, v, keys)
		r.must(err)
		for room, want := range map[string]int{"": 1200, "!1": 400, "!none": 0} {
			n := 0
			r.must(r.EachBackupKey(t.Context(), a, v, room, func(e2ee.BackedUp) error { n++; return nil }))
			if n != want {
				t.Errorf("%q: %d keys", room, n)
			}
		}
		r.refused(r.EachBackupKey(t.Context(), a, "9", "", nil), "M_NOT_FOUND")
	})
}
