package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// What an address is validated for: a validation is good for nothing else.
const (
	ToRegister = "register"
	ToAdd      = "add"
	ToReset    = "reset"
)

const (
	// ValidationLifetime is how long the link of an e-mail is good, and from when it was followed how long the
	// validation is.
	ValidationLifetime = time.Hour
	maxWrongTokens     = 10
	maxClientSecret    = 255
	maxValidationID    = 64
)

// ValidationRequest is what a client asks for when it wants to prove that somebody has an address.
type ValidationRequest struct {
	Purpose      string
	Address      string // canonical
	ClientSecret string // known to the client alone
	Attempt      int64  // another e-mail is sent only when this is higher than before
	NextLink     string // where people may go on after they followed the link; "" is nowhere
}

// Credentials are what a client shows to use a validation.
type Credentials struct {
	SID          string `json:"sid"`
	ClientSecret string `json:"client_secret"`
}

// Validation is one that a token belongs to.
type Validation struct {
	Purpose  string
	Address  string
	NextLink string
}

type validation struct {
	Validation
	sid                string
	secret, token      []byte
	attempt, wrong     int64
	validated, expires int64
}

func scanValidation(r scanner, v *validation) error {
	var sid, purpose, address, next []byte
	err := r.Scan(&sid, &purpose, &address, &v.secret, &v.token, &v.attempt, &v.wrong, &next, &v.validated, &v.expires)
	v.sid, v.Purpose, v.Address, v.NextLink = string(sid), string(purpose), string(address), string(next)
	return err
}

func errNotValidated() error {
	return matrixerr.New(http.StatusBadRequest, "M_THREEPID_AUTH_FAILED",
		"The address is not confirmed: open the link in the newest e-mail first")
}

// CheckClientSecret refuses what does not follow the grammar of client_secret, with M_INVALID_PARAM.
func CheckClientSecret(secret string) error {
	for _, r := range secret {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '.' && r != '=' && r != '_' && r != '-' {
			secret = ""
			break
		}
	}
	if secret == "" || len(secret) > maxClientSecret {
		return matrixerr.InvalidParam("client_secret has 1 to 255 of the characters 0-9, a-z, A-Z and . = _ -")
	}
	return nil
}

// BeginValidation makes or finds the validation of q and returns its id, and the token that an e-mail is to carry. The
// token is "" when that e-mail has been sent. The caller says so with ValidationSent.
func (s *Service) BeginValidation(ctx context.Context, q ValidationRequest) (sid, token string, err error) {
	if err := CheckClientSecret(q.ClientSecret); err != nil {
		return "", "", err
	}
	secret := hashToken(q.ClientSecret)
	made := rand.Text()
	text, hash := newValidationToken()
	err = s.db.Do(ctx, &sqldb.Op{Name: "account.beginValidation", Write: func(tx *sqldb.Tx, _ int64) error {
		sid, token = made, text
		var old validation
		err := scanValidation(tx.QueryRow(validationFind, q.Purpose, q.Address, secret[:]), &old)
		switch {
		case err == nil && s.now() < old.expires && q.Attempt <= old.attempt:
			sid, token = old.sid, ""
			return nil
		case err == nil && s.now() < old.expires:
			sid = old.sid
			_, err = tx.Exec(validationRenew, sid, hash[:], optional(q.NextLink), s.after(ValidationLifetime))
			return err
		case err == nil:
			_, err = tx.Exec(validationDelete, old.sid)
		case errors.Is(err, sql.ErrNoRows):
			err = nil
		}
		if err == nil {
			_, err = tx.Exec(validationInsert, sid, q.Purpose, q.Address, secret[:], hash[:], q.Attempt-1, 0,
				optional(q.NextLink), 0, s.after(ValidationLifetime))
		}
		return err
	}})
	return sid, token, err
}

func newValidationToken() (text string, hash [sha256.Size]byte) {
	var secret [32]byte
	_, _ = rand.Read(secret[:])
	text = base64.RawURLEncoding.EncodeToString(secret[:])
	return text, hashToken(text)
}

// ValidationSent notes that the e-mail of a client's attempt has been sent.
func (s *Service) ValidationSent(ctx context.Context, sid string, attempt int64) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "account.validationSent", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(validationAttempt, sid, attempt)
		return err
	}})
}

// LookAtValidation is the validation of a link that was sent. Errors: 400 M_SESSION_EXPIRED, 400 M_TOKEN_INCORRECT.
func (s *Service) LookAtValidation(ctx context.Context, sid, token string) (Validation, error) {
	return s.withToken(ctx, sid, token, false)
}

// ConfirmValidation notes that the owner of the address followed the link. Errors: as LookAtValidation.
func (s *Service) ConfirmValidation(ctx context.Context, sid, token string) (Validation, error) {
	return s.withToken(ctx, sid, token, true)
}

func (s *Service) withToken(ctx context.Context, sid, token string, confirm bool) (Validation, error) {
	var v validation
	var verdict error
	if len(sid) > maxValidationID || len(token) > maxTokenLength {
		return v.Validation, errValidationExpired()
	}
	hash := hashToken(token)
	err := s.db.Do(ctx, &sqldb.Op{Name: "account.confirmValidation", Write: func(tx *sqldb.Tx, _ int64) error {
		v, verdict = validation{}, nil
		err := scanValidation(tx.QueryRow(validationRow, sid), &v)
		if errors.Is(err, sql.ErrNoRows) || err == nil && (s.now() >= v.expires || v.wrong >= maxWrongTokens) {
			verdict = errValidationExpired()
			return nil
		}
		if err != nil {
			return err
		}
		if subtle.ConstantTimeCompare(hash[:], v.token) != 1 {
			verdict = matrixerr.New(http.StatusBadRequest, "M_TOKEN_INCORRECT", "This link is not the newest one: open the one in the last e-mail")
			_, err = tx.Exec(validationWrong, sid, v.wrong+1)
			return err
		}
		if confirm && v.validated == 0 {
			_, err = tx.Exec(validationConfirm, sid, s.now(), s.after(ValidationLifetime))
		}
		return err
	}})
	if err == nil {
		err = verdict
	}
	return v.Validation, err
}

func errValidationExpired() error {
	return matrixerr.New(http.StatusBadRequest, "M_SESSION_EXPIRED", "This link has been used or is too old; ask for another e-mail")
}

// Validated is the address of a validation that was confirmed. Errors: M_THREEPID_AUTH_FAILED for one that was not, is
// for something else or unknown.
func (s *Service) Validated(ctx context.Context, purpose, sid, clientSecret string) (address string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		v, err := s.validated(tx, purpose, sid, clientSecret)
		address = v.Address
		return err
	})
	return address, err
}

func (s *Service) validated(tx *sqldb.Tx, purpose, sid, clientSecret string) (v validation, err error) {
	if len(sid) > maxValidationID || len(clientSecret) > maxClientSecret {
		return v, errNotValidated()
	}
	err = scanValidation(tx.QueryRow(validationRow, sid), &v)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return v, err
	}
	secret := hashToken(clientSecret)
	if err != nil || v.Purpose != purpose || v.validated == 0 || s.now() >= v.expires ||
		subtle.ConstantTimeCompare(secret[:], v.secret) != 1 {
		return validation{}, errNotValidated()
	}
	return v, nil
}

func (s *Service) pruneValidations(ctx context.Context) error {
	return s.db.Do(ctx, &sqldb.Op{Name: "account.pruneValidations", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(validationPrune, s.now())
		return err
	}})
}
