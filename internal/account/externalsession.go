package account

import (
	"context"
	"slices"

	"knock/internal/sqldb"
)

// ExternalSession is a session at an identity provider. ID is the sid of OpenID Connect Back-Channel Logout, "" when the
// provider gives it no name.
type ExternalSession struct{ Issuer, ID string }

// write remembers that a device logged in out of the session.
func (e ExternalSession) write(tx *sqldb.Tx, device int64) error {
	if e.Issuer == "" {
		return nil
	}
	_, err := tx.Exec(sessionInsert, device, e.Issuer, []byte(e.ID))
	return err
}

// EndExternalSession removes the devices that logged in out of a session, with their tokens. The session must have a name.
func (s *Service) EndExternalSession(ctx context.Context, e ExternalSession) error {
	if e.ID == "" {
		return nil
	}
	var users []string
	for _, stmt := range []*sqldb.Stmt{sessionUsers, sessionTokenUsers} {
		list, err := s.localparts(ctx, stmt, e.Issuer, []byte(e.ID))
		if err != nil {
			return err
		}
		users = append(users, list...)
	}
	slices.Sort(users)
	for _, local := range slices.Compact(users) {
		if err := s.endSessions(ctx, local, e); err != nil {
			return err
		}
	}
	return nil
}

// EndExternalSessions removes all devices with which a person logged in out of sessions at the provider.
func (s *Service) EndExternalSessions(ctx context.Context, e External) error {
	userID, err := s.UserByExternal(ctx, e)
	if userID == "" || err != nil {
		return err
	}
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	return s.endSessions(ctx, local, ExternalSession{Issuer: e.Issuer})
}

// endSessions removes a user's devices of one session, or of all when it has no name.
func (s *Service) endSessions(ctx context.Context, local string, e ExternalSession) error {
	return s.removeDevices(ctx, local, func(tx *sqldb.Tx) ([]int64, error) {
		if _, err := tx.Exec(sessionTokens, local, e.Issuer, optional(e.ID)); err != nil {
			return nil, err
		}
		return sqldb.Collect(tx, sessionDevices, scanInt, local, e.Issuer, optional(e.ID))
	})
}
