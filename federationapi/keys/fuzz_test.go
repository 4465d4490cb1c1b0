package keys

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"knock/roomserver/event"
)

// FuzzAnswer reads what servers say about their keys: whatever is accepted is bounded, about the server that was asked,
// and signed.
func FuzzAnswer(f *testing.F) {
	key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("k", 32)))
	public := base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	good, err := event.SignJSON([]byte(`{"server_name":"a.test","valid_until_ts":1700000000000,"old_verify_keys":{"ed25519:0":{"key":"`+public+
		`","expired_ts":1}},"verify_keys":{"ed25519:1":{"key":"`+public+`"}}}`), event.Signer{Server: "a.test", KeyID: "ed25519:1", Key: key})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseAnswer(good, "a.test"); err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{string(good), `{}`, `null`, `{"server_name":"a.test","valid_until_ts":1}`, strings.Repeat("[", 2000),
		strings.Replace(string(good), "1700000000000", "1e99", 1), strings.Replace(string(good), `"ed25519:1":{`, `"ed25519:1":{"a":1,`, 1)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := parseAnswer(raw, "a.test")
		if err != nil {
			return
		}
		now := int64(1_600_000_000_000)
		if a.ServerName != "a.test" || len(event.SignatureKeyIDs(a.raw, "a.test")) == 0 || a.until(now) > now+week.Milliseconds() {
			t.Errorf("accepted: %q", raw)
		}
		for id, k := range a.keys(now) {
			if !strings.HasPrefix(id, algorithm) || len(k.key) != ed25519.PublicKeySize {
				t.Errorf("key %q of %q", id, raw)
			}
		}
	})
}
