package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

const (
	maxDeviceID   = 255 // bytes
	maxDeviceName = 256 // bytes
)

// NewDevice is what a client says of itself when it logs in.
type NewDevice struct {
	ID          string // "" lets the server choose
	DisplayName string // ignored when the device exists; cut to 256 bytes
	Refresh     bool   // the client can use refresh tokens
	IP          string
}

// Login is a new session of a client. RefreshToken and ExpiresIn are empty for clients that do not refresh.
type Login struct {
	UserID       string
	DeviceID     string
	AccessToken  string
	RefreshToken string
	ExpiresIn    time.Duration
}

// grant is a login on its way into the database.
type grant struct {
	Login
	device, nid     int64
	parent          int64
	access, refresh [sha256.Size]byte
	expires, until  int64
	dropped         [][]byte
}

// newGrant makes the tokens of a login. It takes numbers, so it must not be called from an Op.
func (s *Service) newGrant(refresh bool) *grant {
	first := s.db.NextIDs(2)
	g := &grant{device: first, nid: first + 1}
	g.AccessToken, g.access = newToken(accessPrefix)
	if !refresh {
		return g
	}
	g.RefreshToken, g.refresh = newToken(refreshPrefix)
	g.ExpiresIn = s.o.AccessTokenLifetime
	g.expires, g.until = s.after(s.o.AccessTokenLifetime), s.after(s.o.RefreshTokenLifetime)
	return g
}

// after is the time when something of this lifetime expires; 0 is never for both.
func (s *Service) after(lifetime time.Duration) int64 {
	if lifetime == 0 {
		return 0
	}
	return s.now() + lifetime.Milliseconds()
}

func (g *grant) writeToken(tx *sqldb.Tx) error {
	var refresh []byte
	if g.RefreshToken != "" {
		refresh = g.refresh[:]
	}
	_, err := tx.Exec(tokenInsert, g.nid, g.device, g.access[:], refresh, g.expires, g.until, g.parent)
	return err
}

// checkDevice validates what a client says of itself and fills in what it left to us.
func checkDevice(d *NewDevice) error {
	if len(d.ID) > maxDeviceID || strings.ContainsRune(d.ID, 0) {
		return matrixerr.InvalidParam("device_id may have at most 255 bytes")
	}
	if d.ID == "" {
		d.ID = rand.Text()[:10]
	}
	for len(d.DisplayName) > maxDeviceName {
		_, size := utf8.DecodeLastRuneInString(d.DisplayName)
		d.DisplayName = d.DisplayName[:len(d.DisplayName)-size]
	}
	return nil
}

// writeLogin creates the device or takes over the one of this id, whose tokens end.
func (s *Service) writeLogin(tx *sqldb.Tx, local string, d NewDevice, g *grant) (err error) {
	g.dropped = nil
	now := s.now()
	var device Device
	err = scanDevice(tx.QueryRow(deviceRow, local, d.ID), &device)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		_, err = tx.Exec(deviceInsert, g.device, local, d.ID, optional(d.DisplayName), now, now, optional(d.IP))
	case err == nil:
		g.device = device.number
		if g.dropped, err = sqldb.Collect(tx, tokensOf, scanBytes, []int64{g.device}); err == nil {
			_, err = tx.Exec(sessionsDelete, []int64{g.device})
		}
	}
	if err != nil {
		return err
	}
	return g.writeToken(tx)
}

// optional is NULL for an empty string.
func optional(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// Login signs a user in by password. user is a user id or a localpart. Errors: M_FORBIDDEN for a wrong name or
// password, which look and cost the same; M_USER_DEACTIVATED, M_USER_LOCKED.
func (s *Service) Login(ctx context.Context, user, password string, d NewDevice) (*Login, error) {
	if err := checkDevice(&d); err != nil {
		return nil, err
	}
	local, err := s.VerifyPassword(ctx, user, password)
	s.metrics.logins.WithLabelValues(loginResult(err)).Inc()
	if err != nil {
		return nil, err
	}
	return s.LoginTrusted(ctx, local, d)
}

func loginResult(err error) string {
	var known *matrixerr.Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &known) && known.HTTP == 403:
		return "refused"
	}
	return "failed"
}

// LoginTrusted signs in a user whom the caller has authenticated by other means. Errors: M_NOT_FOUND,
// M_USER_DEACTIVATED, M_USER_LOCKED.
func (s *Service) LoginTrusted(ctx context.Context, localpart string, d NewDevice) (*Login, error) {
	return s.login(ctx, d, func(*sqldb.Tx, *ExternalSession) (string, error) { return localpart, nil })
}

// login signs in the user whom find names inside the transaction; a *matrixerr.Error from it is the answer. find may say at
// which identity provider the user is signed in.
func (s *Service) login(ctx context.Context, d NewDevice, find func(tx *sqldb.Tx, at *ExternalSession) (local string, err error)) (*Login, error) {
	if err := checkDevice(&d); err != nil {
		return nil, err
	}
	g := s.newGrant(d.Refresh)
	fresh := g.device
	var verdict error
	err := s.db.Do(ctx, &sqldb.Op{Name: "account.login",
		Write: func(tx *sqldb.Tx, _ int64) error {
			g.device = fresh
			var at ExternalSession
			local, err := find(tx, &at)
			if err == nil {
				err = s.mayLogin(tx, local)
			}
			if verdict = err; err != nil {
				return onlyUnknown(err)
			}
			g.UserID = s.userID(local)
			if err := s.writeLogin(tx, local, d, g); err != nil {
				return err
			}
			return at.write(tx, g.device)
		},
		Committed: func(int64) {
			s.tokens.drop(g.dropped)
			s.watches.endSessions(g.UserID, []int64{g.device}) // those of the device's former tokens
		},
	})
	if err == nil {
		err = verdict
	}
	if err != nil {
		return nil, err
	}
	g.DeviceID = d.ID
	return &g.Login, nil
}

func (s *Service) mayLogin(tx *sqldb.Tx, local string) error {
	var u User
	if err := activeUser(tx, local, &u); err != nil {
		return err
	}
	if s.standings.of(s.userID(local)).Locked {
		return matrixerr.UserLocked()
	}
	if s.expired(u.Expires, u.Admin) {
		return matrixerr.UserExpired()
	}
	return nil
}

// onlyUnknown passes on what must roll a batch back; an answer to the client does not.
func onlyUnknown(err error) error {
	var known *matrixerr.Error
	if errors.As(err, &known) {
		return nil
	}
	return err
}

// Refresh trades a refresh token for a new pair of tokens. The old pair stays good until the new one is used.
// Errors: M_UNKNOWN_TOKEN, M_USER_LOCKED.
func (s *Service) Refresh(ctx context.Context, token string) (*Login, error) {
	if len(token) > maxTokenLength {
		return nil, errUnknownRefresh()
	}
	old := hashToken(token)
	g := s.newGrant(true)
	var verdict error
	err := s.db.Do(ctx, &sqldb.Op{Name: "account.refresh",
		Write: func(tx *sqldb.Tx, _ int64) (err error) {
			verdict, err = s.writeRefresh(tx, old, g)
			return err
		},
		Committed: func(int64) { s.tokens.drop(g.dropped) },
	})
	if err == nil {
		err = verdict
	}
	if err != nil {
		return nil, err
	}
	return &g.Login, nil
}

// writeRefresh leaves two pairs: the one whose refresh token was used, and its successor. Earlier ones and unused
// earlier successors end.
func (s *Service) writeRefresh(tx *sqldb.Tx, old [sha256.Size]byte, g *grant) (verdict, err error) {
	g.dropped = nil
	var until int64
	var deviceID, local []byte
	err = tx.QueryRow(tokenByRefresh, old[:]).Scan(&g.parent, &g.device, &until, &deviceID, &local)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return errUnknownRefresh(), nil
	case err != nil:
		return nil, err
	case until != 0 && s.now() >= until:
		return matrixerr.UnknownToken("This refresh token has expired; log in again", true), nil
	case s.standings.of(s.userID(string(local))).Locked:
		return matrixerr.UserLocked(), nil
	}
	if g.dropped, err = sqldb.Collect(tx, tokenOthers, scanBytes, g.device, g.parent); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(tokenSettle, g.parent, 0); err != nil {
		return nil, err
	}
	g.UserID, g.DeviceID = s.userID(string(local)), string(deviceID)
	return nil, g.writeToken(tx)
}

func errUnknownRefresh() error {
	return matrixerr.UnknownToken("This refresh token is not known here or has been used; log in again", false)
}
