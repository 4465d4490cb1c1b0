package account

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"

	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// External is a person at an identity provider: iss and sub of OpenID Connect Core, "ID Token".
type External struct{ Issuer, Subject string }

// lastNumber is the highest number behind a user name that is taken without one.
const lastNumber = 99

func errExternalTaken() error {
	return matrixerr.Forbidden("This account is another person's at the identity provider, or that person has another account; ask the administrator of this server")
}

// UserByExternal is the user id of the account that a person at an identity provider has here, ended ones included; ""
// when there is none.
func (s *Service) UserByExternal(ctx context.Context, e External) (userID string, err error) {
	var local string
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		local, err = externalOwner(tx, e)
		return err
	})
	if local == "" || err != nil {
		return "", err
	}
	return s.userID(local), nil
}

// externalOwner is the localpart of the account of a person; "" when there is none.
func externalOwner(tx *sqldb.Tx, e External) (string, error) {
	var local []byte
	err := tx.QueryRow(externalRow, e.Issuer, e.Subject).Scan(&local)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return string(local), err
}

// Proofs are how a user can show who they are.
type Proofs struct {
	Password bool     // one that is taken
	Issuers  []string // of the identity providers where the user is known
}

// Proofs are those that a user has.
func (s *Service) Proofs(ctx context.Context, userID string) (p Proofs, err error) {
	local, err := s.ours(userID)
	if err != nil {
		return p, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		var u User
		if err := readUser(tx, local, &u); err != nil {
			return err
		}
		var sole bool
		p.Issuers, sole, err = s.issuers(tx, local)
		p.Password = u.password != "" && !sole
		return err
	})
	return p, err
}

// issuers are those of the providers where a user is known. sole says that passwords of the account are not taken.
func (s *Service) issuers(tx *sqldb.Tx, local string) (list []string, sole bool, err error) {
	list, err = sqldb.Collect(tx, externalIssuers, func(r *sqldb.Rows) (string, error) {
		b, err := scanBytes(r)
		return string(b), err
	}, local)
	sole = slices.ContainsFunc(list, func(issuer string) bool { return slices.Contains(s.o.NoPasswords, issuer) })
	return list, sole, err
}

// MayUsePassword is M_FORBIDDEN for a user who signs in through an identity provider and in no other way.
func (s *Service) MayUsePassword(ctx context.Context, userID string) error {
	local, err := s.ours(userID)
	if err != nil || len(s.o.NoPasswords) == 0 {
		return err
	}
	return s.db.Read(ctx, func(tx *sqldb.Tx) error { return s.mayUsePassword(tx, local) })
}

func (s *Service) mayUsePassword(tx *sqldb.Tx, local string) error {
	if _, sole, err := s.issuers(tx, local); err != nil || !sole {
		return err
	}
	return matrixerr.Forbidden("This account signs in through single sign-on, and has no password")
}

// MayLogin says why a user could not log in now. Errors: M_NOT_FOUND, M_USER_DEACTIVATED, M_USER_LOCKED, and that of
// an account that has ended.
func (s *Service) MayLogin(ctx context.Context, userID string) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	return s.db.Read(ctx, func(tx *sqldb.Tx) error { return s.mayLogin(tx, local) })
}

// LinkExternal says that an account is a person's at an identity provider. It is no error that it is already. Errors:
// M_NOT_FOUND, M_USER_DEACTIVATED, M_FORBIDDEN (another person's, a guest's or an application service's).
func (s *Service) LinkExternal(ctx context.Context, userID string, e External) error {
	return s.change(ctx, userID, "account.linkExternal", func(tx *sqldb.Tx, local string, _ *removal) error {
		var u User
		if err := readUser(tx, local, &u); err != nil {
			return err
		}
		if u.Guest || s.serviced(userID) {
			return matrixerr.Forbidden("This account is not a person's of this server")
		}
		owner, err := externalOwner(tx, e)
		if err != nil || owner == local {
			return err
		}
		issuers, _, err := s.issuers(tx, local)
		switch {
		case err != nil:
			return err
		case owner != "" || slices.Contains(issuers, e.Issuer):
			return errExternalTaken()
		}
		return s.writeExternal(tx, local, e)
	})
}

// Externals are the persons at identity providers whose account a user is.
func (s *Service) Externals(ctx context.Context, userID string) (list []External, err error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		var u User
		if err := readUser(tx, local, &u); err != nil {
			return err
		}
		list, err = sqldb.Collect(tx, externalList, func(r *sqldb.Rows) (e External, err error) {
			var issuer, subject []byte
			err = r.Scan(&issuer, &subject)
			return External{string(issuer), string(subject)}, err
		}, local)
		return err
	})
	return list, err
}

// UnlinkExternal undoes LinkExternal, for accounts that have ended too. Sessions stay. M_NOT_FOUND when there is nothing to undo.
func (s *Service) UnlinkExternal(ctx context.Context, userID, issuer string) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	var gone int64
	err = s.db.Do(ctx, &sqldb.Op{Name: "account.unlinkExternal", Write: func(tx *sqldb.Tx, _ int64) (err error) {
		gone, err = tx.Exec(externalDelete, local, issuer)
		return err
	}})
	if err == nil && gone == 0 {
		err = matrixerr.NotFound("This account is not connected to that identity provider")
	}
	return err
}

func (s *Service) writeExternal(tx *sqldb.Tx, local string, e External) error {
	_, err := tx.Exec(externalInsert, e.Issuer, e.Subject, local, s.now())
	return err
}

// CreateExternal is CreateUser for a person at an identity provider: whose wanted name is taken gets it with a number
// behind it. Errors: those of CreateUser, and M_FORBIDDEN when the person has an account by now.
func (s *Service) CreateExternal(ctx context.Context, n NewUser) (userID string, err error) {
	err = numbered(n.Username, func(name string) error {
		n.Username = name
		l, err := s.CreateUser(ctx, n)
		if err == nil {
			userID = l.UserID
		}
		return err
	})
	return userID, err
}

// numbered tries a name, and then with numbers behind it, until one is free.
func numbered(wanted string, try func(name string) error) (err error) {
	for number := 1; number <= lastNumber; number++ {
		name := wanted
		if number > 1 {
			name += strconv.Itoa(number)
		}
		if err = try(name); err == nil {
			return nil
		}
		if code := matrixerr.From(err).Code; code != "M_USER_IN_USE" && code != "M_EXCLUSIVE" {
			return err
		}
	}
	return err
}

// NameOf is the user id that CreateExternal would make now. Errors: M_INVALID_USERNAME, M_USER_IN_USE.
func (s *Service) NameOf(ctx context.Context, wanted string) (userID string, err error) {
	err = numbered(wanted, func(name string) error {
		local, err := s.Available(ctx, name)
		if err == nil {
			userID = s.userID(local)
		}
		return err
	})
	return userID, err
}

// vouched is an address that an identity provider has confirmed, if a new account can have it: one that is no address
// or another account's is left out.
func vouched(tx *sqldb.Tx, address string) (string, error) {
	canonical, err := mail.Canonical(address)
	if address == "" || err != nil {
		return "", nil
	}
	owner, err := threepidOwner(tx, MediumEmail, canonical)
	if owner != "" {
		return "", err
	}
	return canonical, err
}
