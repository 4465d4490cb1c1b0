package account

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"strings"
	"sync"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// maxRegistrationToken is the length of a registration token (Client-Server API, "Token-authenticated
// registration").
const maxRegistrationToken = 64

// RegistrationToken lets those register who were given it.
type RegistrationToken struct {
	Token       string
	UsesAllowed *int64 // nil: any number
	Pending     int64  // registrations that have shown it and are not complete
	Completed   int64
	Expires     time.Time // zero: never
}

func validOpaque(s string, longest int) bool {
	ok := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._~", r)
	}
	return s != "" && len(s) <= longest && strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0
}

// CreateRegistrationToken stores a new token and returns it; an empty Token is made up. Errors: M_INVALID_PARAM for
// one that exists or does not follow the grammar.
func (s *Service) CreateRegistrationToken(ctx context.Context, t RegistrationToken) (string, error) {
	if t.Token == "" {
		t.Token = rand.Text()
	}
	if !validOpaque(t.Token, maxRegistrationToken) {
		return "", matrixerr.InvalidParam("A registration token has 1 to 64 of the characters a-z, A-Z, 0-9 and - . _ ~")
	}
	if t.UsesAllowed != nil && *t.UsesAllowed < 0 {
		return "", matrixerr.InvalidParam("A registration token cannot have fewer than 0 uses")
	}
	var expires, made int64
	if !t.Expires.IsZero() {
		expires = t.Expires.UnixMilli()
	}
	err := s.db.Do(ctx, &sqldb.Op{Name: "account.newRegistrationToken", Write: func(tx *sqldb.Tx, _ int64) (err error) {
		made, err = tx.Exec(regInsert, t.Token, t.UsesAllowed, 0, expires, s.now())
		return err
	}})
	if err == nil && made == 0 {
		err = matrixerr.InvalidParam("This registration token exists already")
	}
	return t.Token, err
}

// RegistrationTokens lists all tokens, oldest first.
func (s *Service) RegistrationTokens(ctx context.Context) (out []RegistrationToken, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		out, err = sqldb.Collect(tx, regList, func(r *sqldb.Rows) (t RegistrationToken, err error) {
			return t, scanRegistrationToken(r, &t)
		})
		return err
	})
	for i := range out {
		out[i].Pending = s.pending.count(out[i].Token)
	}
	return out, err
}

// DeleteRegistrationToken removes a token; M_NOT_FOUND when there is none.
func (s *Service) DeleteRegistrationToken(ctx context.Context, token string) error {
	var gone int64
	err := s.db.Do(ctx, &sqldb.Op{Name: "account.deleteRegistrationToken", Write: func(tx *sqldb.Tx, _ int64) (err error) {
		gone, err = tx.Exec(regDelete, token)
		return err
	}})
	if err == nil && gone == 0 {
		err = matrixerr.NotFound("There is no such registration token")
	}
	return err
}

func scanRegistrationToken(r scanner, t *RegistrationToken) error {
	var expires int64
	err := r.Scan(&t.Token, &t.UsesAllowed, &t.Completed, &expires)
	if expires != 0 {
		t.Expires = time.UnixMilli(expires)
	}
	return err
}

// usable says whether one more registration may begin with pending others under way.
func (t *RegistrationToken) usable(now time.Time, pending int64) bool {
	return (t.Expires.IsZero() || now.Before(t.Expires)) &&
		(t.UsesAllowed == nil || t.Completed+pending < *t.UsesAllowed)
}

// RegistrationTokenValid says whether a registration could begin with this token now.
func (s *Service) RegistrationTokenValid(ctx context.Context, token string) (bool, error) {
	t, err := s.registrationToken(ctx, token)
	return err == nil && t.Token != "" && t.usable(s.o.Now(), s.pending.count(token)), err
}

// registrationToken is the zero value for a token that does not exist.
func (s *Service) registrationToken(ctx context.Context, token string) (t RegistrationToken, err error) {
	if !validOpaque(token, maxRegistrationToken) {
		return t, nil
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return scanRegistrationToken(tx.QueryRow(regRow, token), &t) })
	if errors.Is(err, sql.ErrNoRows) {
		return RegistrationToken{}, nil
	}
	return t, err
}

// ReserveRegistrationToken holds one use of a token for a registration under way; release gives it back, and must
// be called when the registration has ended either way. ok is false for a token that is not valid.
func (s *Service) ReserveRegistrationToken(ctx context.Context, token string) (release func(), ok bool, err error) {
	t, err := s.registrationToken(ctx, token)
	if err != nil || t.Token == "" {
		return nil, false, err
	}
	if !s.pending.reserve(token, func(pending int64) bool { return t.usable(s.o.Now(), pending) }) {
		return nil, false, nil
	}
	return sync.OnceFunc(func() { s.pending.release(token) }), true, nil
}

// useRegistrationToken counts a completed registration inside its transaction.
func (s *Service) useRegistrationToken(tx *sqldb.Tx, token string) (verdict, err error) {
	var t RegistrationToken
	err = scanRegistrationToken(tx.QueryRow(regRow, token), &t)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if err != nil || !t.usable(s.o.Now(), 0) {
		return matrixerr.Forbidden("This registration token is used up or has expired; ask for a new one"), nil
	}
	_, err = tx.Exec(regUse, token, t.Completed+1)
	return nil, err
}

// reservations count registrations under way by token. They live as long as the UIA sessions: in memory.
type reservations struct {
	mu sync.Mutex
	m  map[string]int64
}

func newReservations() *reservations { return &reservations{m: map[string]int64{}} }

func (r *reservations) count(token string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.m[token]
}

func (r *reservations) reserve(token string, usable func(pending int64) bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !usable(r.m[token]) {
		return false
	}
	r.m[token]++
	return true
}

func (r *reservations) release(token string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m[token]--; r.m[token] <= 0 {
		delete(r.m, token)
	}
}
