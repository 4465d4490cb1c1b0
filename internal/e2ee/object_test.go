package e2ee

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
)

// FuzzSigned parses anything as any kind of signed object: what is taken is stable and fits its ids.
func FuzzSigned(f *testing.F) {
	key := base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{7}, ed25519.PublicKeySize))
	for _, seed := range []string{
		`{"user_id":"@a:hs","device_id":"D","algorithms":["x"],"keys":{"ed25519:D":"k"},"signatures":{"@a:hs":{"ed25519:D":"s"}},"unsigned":{}}`,
		fmt.Sprintf(`{"user_id":"@a:hs","usage":["master"],"keys":{"ed25519:%s":"%s"}}`, key, key),
		`{"key":"AAA","signatures":{"@a:hs":{"ed25519:D":"s"}},"fallback":true}`, `"text"`, `{}`, `[]`, `null`, "{\"a\":\"\xff\"}", `{"signatures":null,"a":1e400}`,
		`{"user_id":null,"keys":{"a":null}}`, `{"a":"<>& "}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if o, err := parseSigned(raw, "It"); err == nil {
			again, err := parseSigned(o.encode(), "It")
			if err != nil || !o.same(again) || !bytes.Equal(o.encode(), again.encode()) {
				t.Fatalf("%q became %q: %v", raw, o.encode(), err)
			}
		}
		if o, err := parseDeviceKeys(raw, "@a:hs", "D"); err == nil {
			if d := (device{o.encode(), "name"}).withName(); !json.Valid(d) {
				t.Fatalf("%q", d)
			}
		}
		if k, err := parseCrossKey(raw, "@a:hs", master); err == nil && k.public == "" {
			t.Fatalf("%q", raw)
		}
		_, k, err := parseKey("signed_curve25519:A", raw)
		if err != nil {
			return
		}
		got, err := keyAt(packed(oneTimeKey{id: "first", key: json.RawMessage(`"x"`)}, k), 1, "@a:hs", "D")
		if err != nil || got.id != k.id || !sameJSON(got.key, k.key) {
			t.Fatalf("%q came back as %q: %v", k.key, got.key, err)
		}
	})
}

// packed is an upload of keys by device D of @a:hs.
func packed(keys ...oneTimeKey) []byte {
	for i := range keys {
		keys[i] = keys[i].pack("@a:hs", "D")
	}
	return packKeys(keys)
}

// FuzzBatch reads damaged uploads.
func FuzzBatch(f *testing.F) {
	f.Add(packed(oneTimeKey{id: "a", key: json.RawMessage(`"x"`)}, oneTimeKey{id: "b", key: json.RawMessage(`{"key":"y"}`)}))
	f.Add([]byte{packedKey, 1, 'a', 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		for i := range int64(3) {
			_, _ = keyAt(data, i, "@a:hs", "D")
		}
	})
}

// TestPackedSize holds the room that a one-time key takes.
func TestPackedSize(t *testing.T) {
	text := func(n int) string { return base64.RawStdEncoding.EncodeToString(bytes.Repeat([]byte{9}, n)) }
	key := encode(packable{text(32), signatures{"@alice:example.org": {"ed25519:ABCDEFGHIJ": text(64)}}})
	stored := oneTimeKey{id: "AAAAAQ", key: key}.pack("@alice:example.org", "ABCDEFGHIJ").stored
	if len(stored) > 110 {
		t.Errorf("%d bytes for a key of %d", len(stored), len(key))
	}
}

func TestRecent(t *testing.T) {
	r := newRecent(10)
	for i := range int64(maxRecent + 5) {
		r.add(change{pos: 11 + i, user: fmt.Sprint(i)})
	}
	r.add(change{pos: 20_000, user: "signed", only: "me"})
	if _, ok := r.since("me", 10, 20_000); ok {
		t.Error("what was dropped is not known")
	}
	for user, want := range map[string]int{"me": 2, "you": 1} {
		if users, ok := r.since(user, 10+maxRecent+4, 20_000); !ok || len(users) != want {
			t.Error(user, users, ok)
		}
	}
	if users, ok := r.since("me", 20_000, 30_000); !ok || len(users) != 0 {
		t.Error(users, ok)
	}
}
