package account

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

const openIDLifetime = time.Hour

// OpenIDToken makes a token by which a third party can ask this server who its bearer is (Client-Server API,
// "OpenID").
func (s *Service) OpenIDToken(ctx context.Context, userID string) (token string, lifetime time.Duration, err error) {
	token, hash := newToken(openIDPrefix)
	err = s.change(ctx, userID, "account.openID", func(tx *sqldb.Tx, local string, _ *removal) error {
		_, err := tx.Exec(openIDInsert, hash[:], local, s.after(openIDLifetime))
		return err
	})
	return token, openIDLifetime, err
}

// OpenIDUser is the user who made an OpenID token; 401 M_UNKNOWN_TOKEN when it is unknown or has
// expired, or the account is locked.
func (s *Service) OpenIDUser(ctx context.Context, token string) (string, error) {
	unknown := matrixerr.UnknownToken("This OpenID token is not known here or has expired", false)
	if len(token) > maxTokenLength {
		return "", unknown
	}
	hash := hashToken(token)
	var local []byte
	var expires int64
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(openIDRow, hash[:]).Scan(&local, &expires) })
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && s.now() >= expires:
		return "", unknown
	case err != nil:
		return "", err
	}
	if s.standings.of(s.userID(string(local))).Locked {
		return "", unknown
	}
	return s.userID(string(local)), nil
}

func (s *Service) pruneOpenID(ctx context.Context) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "account.pruneOpenID", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(openIDPrune, s.now())
		return err
	}})
}
