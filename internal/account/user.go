package account

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// User is an account of this server.
type User struct {
	UserID      string
	Created     int64 // milliseconds
	Admin       bool
	Guest       bool
	Deactivated bool
	Erased      bool
	Expires     int64 // milliseconds, 0 for never

	password string
}

// readUser reads a row; M_NOT_FOUND when there is none.
func readUser(tx *sqldb.Tx, local string, u *User) error {
	var password []byte
	var deactivated int64
	err := tx.QueryRow(userRow, local).Scan(&password, &u.Created, &u.Admin, &u.Guest, &deactivated, &u.Erased, &u.Expires)
	if errors.Is(err, sql.ErrNoRows) {
		return matrixerr.NotFound("There is no user of this name here")
	}
	u.password, u.Deactivated = string(password), deactivated != 0
	return err
}

// activeUser is readUser with M_USER_DEACTIVATED for an account that has ended.
func activeUser(tx *sqldb.Tx, local string, u *User) error {
	if err := readUser(tx, local, u); err != nil {
		return err
	}
	if u.Deactivated {
		return matrixerr.UserDeactivated()
	}
	return nil
}

func (s *Service) user(ctx context.Context, local string) (User, error) {
	u := User{UserID: s.userID(local)}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error { return readUser(tx, local, &u) })
	return u, err
}

// User is the account of a user id; M_NOT_FOUND when there is none.
func (s *Service) User(ctx context.Context, userID string) (User, error) {
	local, err := s.ours(userID)
	if err != nil {
		return User{}, err
	}
	return s.user(ctx, local)
}

// Acting is a local user who acts without a session, as when something is due that they scheduled. Errors: M_NOT_FOUND,
// M_USER_DEACTIVATED, M_USER_LOCKED, and that of an account that has ended.
func (s *Service) Acting(ctx context.Context, userID string) (httpx.Caller, error) {
	u, err := s.User(ctx, userID)
	if err != nil {
		return httpx.Caller{}, err
	}
	id := Identity{UserID: userID, Admin: u.Admin, Guest: u.Guest, Standing: s.standings.of(userID), Expired: s.expired(u.Expires, u.Admin)}
	switch {
	case u.Deactivated:
		return httpx.Caller{}, matrixerr.UserDeactivated()
	case id.Locked:
		return httpx.Caller{}, matrixerr.UserLocked()
	case id.Expired:
		return httpx.Caller{}, matrixerr.UserExpired()
	}
	return id.Caller(), nil
}

// knownUsers remembers users who exist: they never go away.
type knownUsers struct {
	mu sync.Mutex
	m  generations[string, struct{}]
}

func newKnownUsers() *knownUsers { return &knownUsers{m: newGenerations[string, struct{}](50_000)} }

func (k *knownUsers) has(local string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, aged, ok := k.m.get(local)
	if aged {
		k.m.put(local, struct{}{})
	}
	return ok
}

func (k *knownUsers) add(local string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m.put(local, struct{}{})
}

// Exists says whether a user id is an account of this server, deactivated ones included.
func (s *Service) Exists(ctx context.Context, userID string) (bool, error) {
	local, ok := s.Localpart(userID)
	if !ok {
		return false, nil
	}
	return s.exists(ctx, local)
}

func (s *Service) exists(ctx context.Context, local string) (bool, error) {
	if s.known.has(local) {
		return true, nil
	}
	found := false
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = userIsThere(tx, local)
		return err
	})
	if found {
		s.known.add(local)
	}
	return found, err
}

func userIsThere(tx *sqldb.Tx, local string) (bool, error) {
	var created int64
	err := tx.QueryRow(userExists, local).Scan(&created)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// People lists localparts of accounts in use, guests' left out, that come after one in their order; "" begins.
func (s *Service) People(ctx context.Context, after string, limit int) ([]string, error) {
	return s.localparts(ctx, people, after, limit)
}

// SetAdmin gives or takes the rights of a server administrator.
func (s *Service) SetAdmin(ctx context.Context, userID string, admin bool) error {
	return s.change(ctx, userID, "account.setAdmin", func(tx *sqldb.Tx, local string, r *removal) (err error) {
		if _, err := tx.Exec(userAdmin, local, admin); err != nil {
			return err
		}
		r.dropped, err = sqldb.Collect(tx, tokensSelect, scanBytes, local)
		return err
	})
}

// changer writes a change of an active account and notes in r which tokens leave the memory. A *matrixerr.Error from
// it refuses the change: it must not have written anything then.
type changer func(tx *sqldb.Tx, local string, r *removal) error

// change runs a changer in one Op. Errors: M_NOT_FOUND, M_USER_DEACTIVATED. It waits for the commit even if the client
// is gone: somebody may have to be told of the change.
func (s *Service) change(ctx context.Context, userID, name string, write changer) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	r := removal{s: s}
	var verdict error
	err = s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{Name: name, Positions: 1, Committed: r.committed,
		Write: func(tx *sqldb.Tx, pos int64) error {
			var u User
			r.begin(pos)
			if verdict = activeUser(tx, local, &u); verdict != nil {
				return onlyUnknown(verdict)
			}
			verdict = write(tx, local, &r)
			return onlyUnknown(verdict)
		}})
	if err == nil {
		err = verdict
	}
	return err
}
