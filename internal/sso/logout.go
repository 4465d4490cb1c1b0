package sso

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

const (
	// LogoutPath is where providers tell of log-outs; the provider's ID follows.
	LogoutPath     = "/_matrix/client/unstable/sso/logout/"
	kindLogout     = "logout"
	longestLogout  = time.Hour // that a logout token may be good
	maxLogoutToken = 16 << 10
)

// Logout is what a provider tells of: the end of one session, or of all of a person. Either Subject or Session may be "".
type Logout struct{ Issuer, Subject, Session string }

// Logout reads a logout token (OpenID Connect Back-Channel Logout 1.0) and has end do what it asks for. One that did its work
// before is refused. Errors are 404 for a provider that may not tell of log-outs, 400, 502 when the provider's keys cannot be
// had, and end's.
func (s *Service) Logout(ctx context.Context, providerID, raw string, end func(context.Context, Logout) error) error {
	r := s.provider(providerID)
	if r == nil || !r.Backchannel {
		return matrixerr.NotFound("This provider's log-outs are not heard here; see sso.providers.backchannel_logout")
	}
	k, err := r.discover(ctx)
	if err != nil {
		return err
	}
	token, err := r.logoutToken(ctx, k, raw)
	if err != nil {
		s.o.Log.WithError(short(err)).WithField("provider", r.ID).Warn("A logout token is not good")
		return errLogout()
	}
	hash := sha256.Sum256([]byte(kindLogout + "\x00" + r.Issuer + "\x00" + token.TokenID))
	if err := s.unused(ctx, hash[:]); err != nil {
		return err
	}
	if err := end(ctx, Logout{r.Issuer, token.Subject, token.SessionID}); err != nil {
		return err
	}
	return s.put(ctx, "sso.logout", hash[:], nil, kindLogout, []byte("{}"), token.Expiry.Add(time.Second).UnixMilli())
}

func errLogout() error {
	return matrixerr.InvalidParam("This logout token is not good here")
}

func (r *remote) logoutToken(ctx context.Context, k *known, raw string) (*oidc.LogoutToken, error) {
	if len(raw) > maxLogoutToken {
		return nil, errors.New("it is too long")
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, r.web), 2*callTimeout)
	defer cancel()
	token, err := k.verifier.VerifyLogout(ctx, raw)
	if err != nil {
		return nil, err
	}
	if token.Expiry.Sub(r.now()) > longestLogout || len(token.Subject) > maxSubject || len(token.SessionID) > maxSubject {
		return nil, errors.New("it is good for too long, or names somebody with too many bytes")
	}
	return token, nil
}

// unused refuses a token that did its work.
func (s *Service) unused(ctx context.Context, hash []byte) error {
	var expires int64
	err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(flowExpires, hash).Scan(&expires) })
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		err = errLogout()
	}
	return err
}
