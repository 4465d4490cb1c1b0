package account

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// LoginTokenLifetime is how long a token for one login is good.
const LoginTokenLifetime = 2 * time.Minute

func errLoginToken() error {
	return matrixerr.Forbidden("This login token is not known here, has been used or has expired; get a new one")
}

// LoginToken makes a token with which one client can log in as the user (Client-Server API, "Token-based login").
// Errors: M_NOT_FOUND, M_USER_DEACTIVATED.
func (s *Service) LoginToken(ctx context.Context, userID string) (token string, err error) {
	return s.LoginTokenFrom(ctx, userID, ExternalSession{})
}

// LoginTokenFrom is LoginToken for a user who signed in at an identity provider: the device that logs in with the token
// ends with that session. The zero session is none.
func (s *Service) LoginTokenFrom(ctx context.Context, userID string, at ExternalSession) (token string, err error) {
	token, hash := newToken(loginPrefix)
	err = s.change(ctx, userID, "account.loginToken", func(tx *sqldb.Tx, local string, _ *removal) error {
		_, err := tx.Exec(loginTokenInsert, hash[:], local, s.after(LoginTokenLifetime), optional(at.Issuer), optional(at.ID))
		return err
	})
	return token, err
}

// LoginByToken signs in the user for whom a login token was made, and uses that up. Errors: M_FORBIDDEN,
// M_USER_DEACTIVATED, M_USER_LOCKED.
func (s *Service) LoginByToken(ctx context.Context, token string, d NewDevice) (*Login, error) {
	if len(token) > maxTokenLength {
		return nil, errLoginToken()
	}
	hash := hashToken(token)
	return s.login(ctx, d, func(tx *sqldb.Tx, at *ExternalSession) (string, error) {
		var local, issuer, id []byte
		var expires int64
		err := tx.QueryRow(loginTokenTake, hash[:]).Scan(&local, &expires, &issuer, &id)
		if errors.Is(err, sql.ErrNoRows) || err == nil && s.now() >= expires {
			return "", errLoginToken()
		}
		at.Issuer, at.ID = string(issuer), string(id)
		return string(local), err
	})
}

func (s *Service) pruneLoginTokens(ctx context.Context) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "account.pruneLoginTokens", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(loginTokenPrune, s.now())
		return err
	}})
}
