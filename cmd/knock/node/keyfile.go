package node

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"knock/roomserver/event"
)

// Keys is what the signing key file holds: the key that signs, and the public halves of those that did before, so
// that others can still verify old events.
type Keys struct {
	ID  string // "ed25519:a_XyZ123"
	Key ed25519.PrivateKey
	Old []OldKey
}

// OldKey is a key that no longer signs.
type OldKey struct {
	ID      string
	Public  ed25519.PublicKey
	Expired time.Time
}

// Signer signs in the name of a server.
func (k *Keys) Signer(server string) event.Signer {
	return event.Signer{Server: server, KeyID: k.ID, Key: k.Key}
}

// Public is the public half of the key that signs.
func (k *Keys) Public() ed25519.PublicKey { return k.Key.Public().(ed25519.PublicKey) }

// NewKeys makes a key with a random id.
func NewKeys() (*Keys, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return &Keys{ID: "ed25519:a_" + strings.ToLower(rand.Text()[:6]), Key: key}, nil
}

// Rotate makes a new key and keeps the old one's public half.
func (k *Keys) Rotate(now time.Time) (*Keys, error) {
	next, err := NewKeys()
	if err != nil {
		return nil, err
	}
	next.Old = append(next.Old, k.Old...)
	next.Old = append(next.Old, OldKey{ID: k.ID, Public: k.Public(), Expired: now})
	return next, nil
}

// LoadKeys reads a key file: one line "ed25519 <id> <seed in unpadded base64>", which other homeservers write too,
// and lines "old ed25519 <id> <public key> <expired, ms>".
func LoadKeys(path string) (*Keys, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k := &Keys{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if err := k.addLine(words); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err) // never the line: it may hold the key
		}
	}
	if k.Key == nil {
		return nil, fmt.Errorf("%s holds no signing key", path)
	}
	return k, lines.Err()
}

func (k *Keys) addLine(words []string) error {
	switch {
	case len(words) == 3 && words[0] == "ed25519" && k.Key == nil:
		seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(words[2], "="))
		if err != nil || len(seed) != ed25519.SeedSize {
			return errors.New("the key is not 32 bytes in base64")
		}
		k.ID, k.Key = "ed25519:"+words[1], ed25519.NewKeyFromSeed(seed)
		return nil
	case len(words) == 5 && words[0] == "old" && words[1] == "ed25519":
		public, err := base64.RawStdEncoding.DecodeString(words[3])
		ms, msErr := strconv.ParseInt(words[4], 10, 64)
		if err != nil || msErr != nil || len(public) != ed25519.PublicKeySize {
			return errors.New("the old key is damaged")
		}
		k.Old = append(k.Old, OldKey{ID: "ed25519:" + words[2], Public: public, Expired: time.UnixMilli(ms)})
		return nil
	}
	return errors.New(`expected one line "ed25519 <id> <key>" and lines "old ed25519 <id> <public key> <time>"`)
}

// Save writes the key file; only its owner may read it.
func (k *Keys) Save(path string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "ed25519 %s %s\n", strings.TrimPrefix(k.ID, "ed25519:"), base64.RawStdEncoding.EncodeToString(k.Key.Seed()))
	for _, o := range k.Old {
		fmt.Fprintf(&b, "old ed25519 %s %s %d\n", strings.TrimPrefix(o.ID, "ed25519:"), base64.RawStdEncoding.EncodeToString(o.Public), o.Expired.UnixMilli())
	}
	return writeFile(path, b.Bytes())
}

// writeFile replaces a private file so that a power cut leaves the old or the new one.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}
