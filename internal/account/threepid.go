package account

import (
	"context"
	"database/sql"
	"errors"
	"net/http"

	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// The media of third-party identifiers (Appendices, "3PID Types").
const (
	MediumEmail  = "email"
	MediumMSISDN = "msisdn"
)

// maxThreepids is how many identifiers one account may have.
const maxThreepids = 20

// Threepid is an e-mail address or phone number of an account. Address is in the form that mail.Canonical makes. Times
// are milliseconds.
type Threepid struct {
	Medium      string `json:"medium"`
	Address     string `json:"address"`
	ValidatedAt int64  `json:"validated_at"`
	AddedAt     int64  `json:"added_at"`
}

func errThreepidInUse() error {
	return matrixerr.New(http.StatusBadRequest, "M_THREEPID_IN_USE", "This address belongs to another account here")
}

// Threepids lists a user's identifiers.
func (s *Service) Threepids(ctx context.Context, userID string) (list []Threepid, err error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		list, err = sqldb.Collect(tx, threepidList, func(r *sqldb.Rows) (t Threepid, err error) {
			var medium, address []byte
			err = r.Scan(&medium, &address, &t.ValidatedAt, &t.AddedAt)
			t.Medium, t.Address = string(medium), string(address)
			return t, err
		}, local)
		return err
	})
	return list, err
}

// UserByThreepid is the user id of the account that has an identifier; "" when none has it.
func (s *Service) UserByThreepid(ctx context.Context, medium, address string) (userID string, err error) {
	var local string
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		local, err = threepidOwner(tx, medium, address)
		return err
	})
	if local == "" || err != nil {
		return "", err
	}
	return s.userID(local), nil
}

// OwnsEmail says whether an e-mail address, in any spelling, is a user's.
func (s *Service) OwnsEmail(ctx context.Context, userID, address string) (bool, error) {
	canonical, err := mail.Canonical(address)
	if err != nil {
		return false, nil
	}
	owner, err := s.UserByThreepid(ctx, MediumEmail, canonical)
	return owner == userID, err
}

// threepidOwner is the localpart of the account that has an identifier; "" when none has it.
func threepidOwner(tx *sqldb.Tx, medium, address string) (string, error) {
	var local []byte
	err := tx.QueryRow(threepidRow, medium, address).Scan(&local)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return string(local), err
}

// AddEmail gives a user the address of a validation that was begun for ToAdd, and uses that up. An address that the
// user has already is no error. Errors: M_THREEPID_AUTH_FAILED, M_THREEPID_IN_USE, M_LIMIT_EXCEEDED (too many).
func (s *Service) AddEmail(ctx context.Context, userID, sid, clientSecret string) error {
	return s.change(ctx, userID, "account.addEmail", func(tx *sqldb.Tx, local string, _ *removal) error {
		v, err := s.validated(tx, ToAdd, sid, clientSecret)
		if err != nil {
			return err
		}
		return s.writeEmail(tx, local, v)
	})
}

// writeEmail writes a validated address and uses its validation up. A *matrixerr.Error means that nothing was written.
func (s *Service) writeEmail(tx *sqldb.Tx, local string, v validation) error {
	owner, err := threepidOwner(tx, MediumEmail, v.Address)
	if err != nil {
		return err
	}
	if owner != "" && owner != local {
		return errThreepidInUse()
	}
	var have int64
	if err := tx.QueryRow(threepidCount, local).Scan(&have); err != nil {
		return err
	}
	if have >= maxThreepids && owner == "" {
		return matrixerr.Forbidden("Your account has many addresses already; remove one first")
	}
	if _, err := tx.Exec(validationDelete, v.sid); err != nil || owner != "" {
		return err
	}
	_, err = tx.Exec(threepidInsert, MediumEmail, v.Address, local, v.validated, s.now())
	return err
}

// DeleteThreepid takes an identifier from a user. One that the user does not have is no error.
func (s *Service) DeleteThreepid(ctx context.Context, userID, medium, address string) error {
	return s.change(ctx, userID, "account.deleteThreepid", func(tx *sqldb.Tx, local string, _ *removal) error {
		_, err := tx.Exec(threepidDelete, medium, address, local)
		return err
	})
}

// Binding is an identifier that a user lets an identity server publish.
type Binding struct{ Medium, Address, Server string }

// Bindings lists what a user has bound and not unbound through this server.
func (s *Service) Bindings(ctx context.Context, userID string) (list []Binding, err error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		list, err = sqldb.Collect(tx, bindingList, func(r *sqldb.Rows) (b Binding, err error) {
			var medium, address, server []byte
			err = r.Scan(&medium, &address, &server)
			return Binding{string(medium), string(address), string(server)}, err
		}, local)
		return err
	})
	return list, err
}

// NoteBinding remembers that an identity server publishes an identifier of a user. Errors: M_FORBIDDEN (too many).
func (s *Service) NoteBinding(ctx context.Context, userID string, b Binding) error {
	return s.change(ctx, userID, "account.bind", func(tx *sqldb.Tx, local string, _ *removal) error {
		var have int64
		if err := tx.QueryRow(bindingCount, local).Scan(&have); err != nil {
			return err
		}
		if have >= maxThreepids {
			return matrixerr.Forbidden("Your account has many published addresses already; unbind one first")
		}
		_, err := tx.Exec(bindingInsert, local, b.Medium, b.Address, b.Server)
		return err
	})
}

// ForgetBinding undoes NoteBinding.
func (s *Service) ForgetBinding(ctx context.Context, userID string, b Binding) error {
	return s.change(ctx, userID, "account.unbind", func(tx *sqldb.Tx, local string, _ *removal) error {
		_, err := tx.Exec(bindingDelete, local, b.Medium, b.Address, b.Server)
		return err
	})
}

// ResetPassword changes the password of whoever has the address of a validation that was begun for ToReset, and uses
// that up. With logoutOthers all devices end. Errors: M_THREEPID_AUTH_FAILED, M_USER_LOCKED, M_INVALID_PARAM.
func (s *Service) ResetPassword(ctx context.Context, sid, clientSecret, password string, logoutOthers bool) error {
	address, err := s.Validated(ctx, ToReset, sid, clientSecret)
	if err != nil {
		return err
	}
	userID, err := s.UserByThreepid(ctx, MediumEmail, address)
	switch {
	case err != nil:
		return err
	case userID == "":
		return errNotValidated()
	case s.standings.of(userID).Locked:
		return matrixerr.UserLocked()
	}
	hash, err := s.hashNew(ctx, password)
	if err != nil {
		return err
	}
	return s.change(ctx, userID, "account.resetPassword", func(tx *sqldb.Tx, local string, r *removal) error {
		v, err := s.validated(tx, ToReset, sid, clientSecret)
		if err != nil {
			return err
		}
		if owner, err := threepidOwner(tx, MediumEmail, v.Address); err != nil || owner != local {
			return errors.Join(err, errNotValidated())
		}
		if err := s.mayUsePassword(tx, local); err != nil {
			return err
		}
		// Other confirmations too: somebody else may have begun them, and the owner of the address taken them for their own.
		if _, err := tx.Exec(validationsDelete, ToReset, v.Address); err != nil {
			return err
		}
		return s.writePassword(tx, local, hash, logoutOthers, 0, r)
	})
}
