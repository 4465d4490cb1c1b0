package account

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Validity is how long accounts are good unless they are renewed. Administrators' and application services' are for ever.
type Validity struct {
	Period time.Duration // of a new account, and from each renewal on; 0 is for ever
	Remind time.Duration // how long before its end a user is told; 0: not
}

// Reminder tells a user of the end of their account.
type Reminder struct {
	UserID    string
	Addresses []string // confirmed e-mail addresses
	Token     string   // with which Renew renews the account
	Expires   time.Time
}

// OnExpiry sets who tells users that their accounts are about to end. Call it before Run.
func (s *Service) OnExpiry(remind func(context.Context, Reminder) error) { s.remind = remind }

// portionOfUsers is how many accounts one transaction changes.
const portionOfUsers = 200

// expired says whether an account has ended.
func (s *Service) expired(expires int64, admin bool) bool {
	return s.o.Validity.Period > 0 && expires != 0 && !admin && s.now() >= expires
}

// firstEnd is when a new account ends; 0 is never.
func (s *Service) firstEnd(userID string, n NewUser) int64 {
	if s.o.Validity.Period == 0 || n.Admin || n.Guest || n.Service != "" || s.serviced(userID) {
		return 0
	}
	return s.after(s.o.Validity.Period)
}

func (s *Service) serviced(userID string) bool {
	return s.o.Exclusive != nil && s.o.Exclusive(userID, "")
}

// RemindUsers tells users whose accounts are about to end, each once; Run does it now and then. It stops at the first failure: the mail server is down.
func (s *Service) RemindUsers(ctx context.Context) error {
	if s.o.Validity.Period == 0 || s.remind == nil || s.o.Validity.Remind == 0 {
		return nil
	}
	due, err := s.localparts(ctx, expiryDue, s.now()+s.o.Validity.Remind.Milliseconds())
	for i := 0; err == nil && i < len(due); i++ {
		err = s.remindUser(ctx, due[i])
	}
	return err
}

func (s *Service) localparts(ctx context.Context, stmt *sqldb.Stmt, args ...any) (list []string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		list, err = sqldb.Collect(tx, stmt, func(r *sqldb.Rows) (string, error) {
			b, err := scanBytes(r)
			return string(b), err
		}, args...)
		return err
	})
	return list, err
}

// limitOld gives an end to accounts from before there were any: a whole period from now on.
func (s *Service) limitOld(ctx context.Context) error {
	if s.o.Validity.Period == 0 {
		return nil
	}
	after := ""
	for {
		list, err := s.localparts(ctx, expiryNone, after, portionOfUsers)
		if err != nil || len(list) == 0 {
			return err
		}
		after = list[len(list)-1]
		for _, local := range list {
			if s.serviced(s.userID(local)) {
				continue
			}
			if err := s.setExpiry(ctx, s.userID(local), s.after(s.o.Validity.Period)); err != nil {
				return err
			}
		}
	}
}

func (s *Service) setExpiry(ctx context.Context, userID string, expires int64) error {
	return s.change(ctx, userID, "account.expiry", func(tx *sqldb.Tx, local string, r *removal) (err error) {
		if _, err := tx.Exec(expirySet, local, expires); err != nil {
			return err
		}
		r.dropped, err = sqldb.Collect(tx, tokensSelect, scanBytes, local)
		return err
	})
}

func (s *Service) remindUser(ctx context.Context, local string) error {
	r := Reminder{UserID: s.userID(local)}
	list, err := s.Threepids(ctx, r.UserID)
	if err != nil {
		return err
	}
	for _, t := range list {
		if t.Medium == MediumEmail {
			r.Addresses = append(r.Addresses, t.Address)
		}
	}
	if len(r.Addresses) == 0 {
		return nil // one may be added yet
	}
	var hash [32]byte
	r.Token, hash = newValidationToken()
	var u User
	err = s.change(ctx, r.UserID, "account.renewal", func(tx *sqldb.Tx, local string, _ *removal) error {
		if err := readUser(tx, local, &u); err != nil {
			return err
		}
		_, err := tx.Exec(renewalSet, local, hash[:])
		return err
	})
	if err != nil {
		return err
	}
	r.Expires = time.UnixMilli(u.Expires)
	if err := s.remind(ctx, r); err != nil {
		return err
	}
	return s.db.Do(ctx, &sqldb.Op{Name: "account.reminded", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(remindedSet, local, s.now())
		return err
	}})
}

func errRenewal() error {
	return matrixerr.NotFound("This link is not the newest one, or has been used already")
}

// Renewable is the user whose account a token of a Reminder renews; M_NOT_FOUND for none's.
func (s *Service) Renewable(ctx context.Context, token string) (userID string, err error) {
	if len(token) > maxTokenLength || s.o.Validity.Period == 0 {
		return "", errRenewal()
	}
	hash := hashToken(token)
	var local []byte
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(renewalRow, hash[:]).Scan(&local) })
	if errors.Is(err, sql.ErrNoRows) {
		return "", errRenewal()
	}
	return s.userID(string(local)), err
}

// RenewByToken renews the account of a Reminder, whose token is used up. Errors: M_NOT_FOUND, M_USER_DEACTIVATED.
func (s *Service) RenewByToken(ctx context.Context, token string) error {
	userID, err := s.Renewable(ctx, token)
	if err != nil {
		return err
	}
	return s.Renew(ctx, userID)
}

// Renew lets an account be good for another period, from now on. Errors: M_NOT_FOUND, M_USER_DEACTIVATED,
// M_INVALID_PARAM where accounts do not end.
func (s *Service) Renew(ctx context.Context, userID string) error {
	if s.o.Validity.Period == 0 {
		return matrixerr.InvalidParam("Accounts do not end on this server")
	}
	return s.setExpiry(ctx, userID, s.after(s.o.Validity.Period))
}
