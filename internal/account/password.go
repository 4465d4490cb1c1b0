package account

import (
	"context"
	"fmt"
	"unicode/utf8"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// hashNew hashes a password that is to be stored; "" is NULL.
func (s *Service) hashNew(ctx context.Context, password string) ([]byte, error) {
	if password == "" {
		return nil, nil
	}
	if len(password) > maxPassword {
		return nil, matrixerr.InvalidParam(fmt.Sprintf("A password may have at most %d bytes", maxPassword))
	}
	hash, err := s.hasher.hash(ctx, password)
	return []byte(hash), err
}

// CheckNewPassword refuses passwords that people should not choose, with M_WEAK_PASSWORD.
func (s *Service) CheckNewPassword(password string) error {
	if utf8.RuneCountInString(password) < s.o.MinPasswordLength {
		return matrixerr.WeakPassword(fmt.Sprintf("A password needs at least %d characters", s.o.MinPasswordLength))
	}
	return nil
}

func errWrongPassword() error { return matrixerr.Forbidden("Wrong user name or password") }

// VerifyPassword checks a user's password and returns the localpart. user is a user id or a localpart. Errors:
// M_FORBIDDEN, M_USER_DEACTIVATED (only for those who know the password, as that it is not taken).
func (s *Service) VerifyPassword(ctx context.Context, user, password string) (string, error) {
	local, u, err := s.findUser(ctx, user)
	if err != nil {
		return "", err
	}
	ok, stale, err := s.hasher.verify(ctx, u.password, password)
	switch {
	case err != nil:
		return "", err
	case !ok:
		return "", errWrongPassword()
	case u.Deactivated:
		return "", matrixerr.UserDeactivated()
	case stale:
		s.rehash(ctx, local, u.password, password)
	}
	return local, s.MayUsePassword(ctx, s.userID(local))
}

// findUser looks a typed name up, as it is and in lower case. Nobody is a User without a password.
func (s *Service) findUser(ctx context.Context, user string) (local string, u User, err error) {
	local = user
	if user != "" && user[0] == '@' {
		var ok bool
		if local, ok = s.Localpart(user); !ok {
			return "", User{}, nil
		}
	}
	u, err = s.user(ctx, local)
	if small := lowerASCII(local); err != nil && small != local && onlyUnknown(err) == nil {
		local = small
		u, err = s.user(ctx, local)
	}
	return local, u, onlyUnknown(err)
}

// rehash stores a password under today's parameters. It may fail: the old hash stays good.
func (s *Service) rehash(ctx context.Context, local, was, password string) {
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return
	}
	s.housekeep("password hash", s.db.Do(ctx, &sqldb.Op{Name: "account.rehash",
		Write: func(tx *sqldb.Tx, _ int64) error {
			var u User
			if err := readUser(tx, local, &u); err != nil || u.password != was {
				return err // changed meanwhile
			}
			_, err := tx.Exec(userPassword, local, hash)
			return err
		}}))
}

// SetPassword changes a user's password. With logoutOthers all devices but that of session keep (0: none) end.
// Errors: M_NOT_FOUND, M_USER_DEACTIVATED, M_INVALID_PARAM.
func (s *Service) SetPassword(ctx context.Context, userID, password string, logoutOthers bool, keep int64) error {
	hash, err := s.hashNew(ctx, password)
	if err != nil {
		return err
	}
	return s.change(ctx, userID, "account.setPassword", func(tx *sqldb.Tx, local string, r *removal) error {
		return s.writePassword(tx, local, hash, logoutOthers, keep, r)
	})
}

func (s *Service) writePassword(tx *sqldb.Tx, local string, hash []byte, logoutOthers bool, keep int64, r *removal) error {
	if _, err := tx.Exec(userPassword, local, hash); err != nil || !logoutOthers {
		return err
	}
	if _, err := tx.Exec(loginTokenDelete, local); err != nil {
		return err
	}
	devices, err := otherDevices(tx, local, keep)
	if err != nil {
		return err
	}
	return r.write(tx, local, devices)
}
