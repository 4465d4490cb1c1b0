package keys

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"knock/roomserver/event"
)

const (
	maxAnswer = 128 << 10
	maxKeys   = 64 // in one answer; twice as many of one server are kept
	algorithm = "ed25519:"
)

// answer is what a server says about its keys (Server-Server API, Publishing Keys).
type answer struct {
	ServerName string `json:"server_name"`
	ValidUntil int64  `json:"valid_until_ts"`
	VerifyKeys map[string]struct {
		Key string `json:"key"`
	} `json:"verify_keys"`
	OldVerifyKeys map[string]struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts"`
	} `json:"old_verify_keys"`

	raw []byte // canonical
}

// parseAnswer checks an answer about a server (any server when name is ""): its form, and that the server signed it
// with one of the keys in it.
func parseAnswer(raw []byte, name string) (*answer, error) {
	if len(raw) > maxAnswer {
		return nil, errors.New("the answer about keys is too large")
	}
	canonical, err := event.Canonical(nil, raw)
	if err != nil {
		return nil, fmt.Errorf("the answer about keys: %w", err)
	}
	a := &answer{raw: canonical}
	if err := json.Unmarshal(canonical, a); err != nil {
		return nil, fmt.Errorf("the answer about keys: %w", err)
	}
	switch {
	case !event.ValidServerName(a.ServerName), name != "" && a.ServerName != name:
		return nil, errors.New("the answer is about another server's keys")
	case len(a.VerifyKeys)+len(a.OldVerifyKeys) > maxKeys:
		return nil, errors.New("too many keys")
	case a.ValidUntil <= 0:
		return nil, errors.New("valid_until_ts is missing")
	}
	return a, a.verify()
}

// verify looks for a signature of the server by a key that it lists as in use. Each signature that is checked must
// be right.
func (a *answer) verify() error {
	good := false
	for id, k := range a.VerifyKeys {
		key, ok := publicKey(id, k.Key)
		if !ok {
			continue
		}
		err := event.VerifyJSON(a.raw, a.ServerName, id, key)
		if errors.Is(err, event.ErrNoSignature) {
			continue
		}
		if err != nil {
			return err
		}
		good = true
	}
	if !good {
		return errors.New("the answer about keys is not signed with one of them")
	}
	return nil
}

// until is when the answer ceases to hold: not more than a week from now.
func (a *answer) until(now int64) int64 { return min(a.ValidUntil, now+week.Milliseconds()) }

// keys are the usable keys in the answer. A key listed as both in use and old is old.
func (a *answer) keys(now int64) map[string]verifyKey {
	out := make(map[string]verifyKey, len(a.VerifyKeys)+len(a.OldVerifyKeys))
	for id, k := range a.VerifyKeys {
		if key, ok := publicKey(id, k.Key); ok {
			out[id] = verifyKey{key: key, validUntil: a.until(now)}
		}
	}
	for id, k := range a.OldVerifyKeys {
		if key, ok := publicKey(id, k.Key); ok && k.Expired > 0 {
			out[id] = verifyKey{key: key, expired: k.Expired}
		}
	}
	return out
}

func publicKey(id, encoded string) (ed25519.PublicKey, bool) {
	if !strings.HasPrefix(id, algorithm) || len(id) > 255 {
		return nil, false
	}
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(encoded, "="))
	return key, err == nil && len(key) == ed25519.PublicKeySize
}
