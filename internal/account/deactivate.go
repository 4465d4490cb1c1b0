package account

import (
	"context"

	"knock/internal/sqldb"
)

// Deactivate ends an account for good: no token and no password works any more, the name stays taken, and
// its addresses are free for other accounts. With erase
// the password hash, profile and account data are deleted too, and the user counts as erased: who comes into
// a room later is not shown what they wrote there.
func (s *Service) Deactivate(ctx context.Context, userID string, erase bool) error {
	pos := int64(0)
	err := s.change(ctx, userID, "account.deactivate", func(tx *sqldb.Tx, local string, r *removal) error {
		devices, err := otherDevices(tx, local, 0)
		if err != nil {
			return err
		}
		if err := r.write(tx, local, devices); err != nil {
			return err
		}
		if s.deactivations != nil {
			if err := s.deactivations.UserDeactivating(tx, userID); err != nil {
				return err
			}
		}
		if erase {
			pos = r.pos
		}
		return s.writeDeactivated(tx, local, erase, pos, r)
	})
	if err != nil {
		return err
	}
	if local, _ := s.Localpart(userID); erase {
		s.erasures.add(userID, pos)
		for _, kind := range append(inviteTypes, typeIgnored) {
			s.heed(local, userID, kind, nil)
		}
	}
	if s.deactivations != nil {
		s.housekeep("deactivation in rooms", s.deactivations.UserDeactivated(context.WithoutCancel(ctx), userID, erase))
	}
	return nil
}

func (s *Service) writeDeactivated(tx *sqldb.Tx, local string, erase bool, pos int64, r *removal) error {
	var u User
	if err := readUser(tx, local, &u); err != nil {
		return err
	}
	if erase {
		u.password = ""
	}
	if _, err := tx.Exec(userDeactivate, local, s.now(), erase, optional(u.password), pos); err != nil {
		return err
	}
	for _, all := range []*sqldb.Stmt{threepidsDelete, bindingsDelete, loginTokenDelete} {
		if _, err := tx.Exec(all, local); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(openIDDelete, local); err != nil || !erase {
		return err
	}
	r.profile = s.userID(local)
	if _, err := tx.Exec(profilesDelete, local, []byte{}, r.pos); err != nil {
		return err
	}
	_, err := tx.Exec(dataDelete, local)
	return err
}
