package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"knock/internal/matrixerr"
)

const (
	maxPassword = 512 // bytes; more is refused before it costs anything
	maxWaiting  = 256 // callers who wait for a hash
)

// argon are the parameters and result of one argon2id hash.
type argon struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
	salt    []byte
	key     []byte
}

// current are the parameters of new hashes: the second choice of RFC 9106 would take 64 MiB; these are OWASP's for a
// server that many sign in to at once.
var current = argon{memory: 19 << 10, time: 2, threads: 1}

const saltLength, keyLength = 16, 32

func (a argon) derive(password string) []byte {
	return argon2.IDKey([]byte(password), a.salt, a.time, a.memory, a.threads, uint32(len(a.key)))
}

// String is the PHC string.
func (a argon) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, a.memory, a.time, a.threads,
		b64.EncodeToString(a.salt), b64.EncodeToString(a.key))
}

var errHashFormat = errors.New("account: a stored password hash has an unknown format")

// parseArgon reads a PHC string. Its costs are bounded: a hash from an import must not stop the node.
func parseArgon(s string) (argon, error) {
	parts := strings.Split(s, "$")
	var a argon
	var version int
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return a, errHashFormat
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return a, errHashFormat
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &a.memory, &a.time, &a.threads); err != nil {
		return a, errHashFormat
	}
	if a.memory < 8 || a.memory > 256<<10 || a.time < 1 || a.time > 16 || a.threads < 1 || a.threads > 16 {
		return a, errHashFormat
	}
	var saltErr, keyErr error
	a.salt, saltErr = base64.RawStdEncoding.DecodeString(parts[4])
	a.key, keyErr = base64.RawStdEncoding.DecodeString(parts[5])
	if saltErr != nil || keyErr != nil || len(a.salt) < 8 || len(a.salt) > 64 || len(a.key) < 16 || len(a.key) > 64 {
		return a, errHashFormat
	}
	return a, nil
}

// hasher hashes passwords, a few at a time: each takes 19 MiB and some 30 ms of a core.
type hasher struct {
	slots   chan struct{}
	waiting atomic.Int64
	decoy   string // what is checked for users who do not exist
}

func newHasher(workers int) *hasher {
	decoy := current
	decoy.salt, decoy.key = make([]byte, saltLength), make([]byte, keyLength)
	_, _ = rand.Read(decoy.key)
	return &hasher{slots: make(chan struct{}, workers), decoy: decoy.String()}
}

// enter waits for a slot. The caller leaves it by calling leave.
func (h *hasher) enter(ctx context.Context) error {
	if h.waiting.Add(1) > maxWaiting {
		h.waiting.Add(-1)
		return matrixerr.LimitExceeded(2 * time.Second)
	}
	defer h.waiting.Add(-1)
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *hasher) leave() { <-h.slots }

// hash makes the PHC string of a new password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.enter(ctx); err != nil {
		return "", err
	}
	defer h.leave()
	a := current
	a.salt, a.key = make([]byte, saltLength), make([]byte, keyLength)
	_, _ = rand.Read(a.salt)
	a.key = a.derive(password)
	return a.String(), nil
}

// verify compares a password with a stored hash; "" stands for a user without one and costs the same. stale says
// that the hash is right and should be made again with the current parameters.
func (h *hasher) verify(ctx context.Context, stored, password string) (ok, stale bool, err error) {
	if len(password) > maxPassword {
		return false, false, nil
	}
	if err := h.enter(ctx); err != nil {
		return false, false, err
	}
	defer h.leave()
	none := stored == ""
	if none {
		stored = h.decoy
	}
	if strings.HasPrefix(stored, "$2") {
		return verifyBcrypt(stored, password)
	}
	a, err := parseArgon(stored)
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(a.derive(password), a.key) == 1 && !none
	stale = a.memory != current.memory || a.time != current.time || a.threads != current.threads
	return ok, ok && stale, nil
}

// verifyBcrypt is for accounts that come from elsewhere.
func verifyBcrypt(stored, password string) (ok, stale bool, err error) {
	err = bcrypt.CompareHashAndPassword([]byte(stored), []byte(password))
	switch {
	case err == nil:
		return true, true, nil
	case errors.Is(err, bcrypt.ErrMismatchedHashAndPassword), errors.Is(err, bcrypt.ErrPasswordTooLong):
		return false, false, nil
	}
	return false, false, errHashFormat
}
