package account

import (
	"context"
	"encoding/json"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// NewUser is an account to be made.
type NewUser struct {
	Username    string // as typed; "" lets the server choose
	Password    string // "" makes an account that cannot log in by password
	DisplayName string // "" is the localpart, for all but guests
	Admin       bool
	Guest       bool
	Service     string // id of the application service that makes the account
	// RegistrationToken, when not empty, is used up by one with the account.
	RegistrationToken string
	// Email, when not nil, is a confirmed validation begun for ToRegister, which is used up: the account gets its address.
	Email *Credentials
	// External, when not nil, is whose the account is at an identity provider, and Vouched an e-mail address that the
	// provider has confirmed: the account gets it unless another has it.
	External *External
	Vouched  string
	// Terms are the documents that the user accepted.
	Terms []Terms
	// Device, when not nil, is logged in at once.
	Device *NewDevice
}

// Terms are one version of a document that people accept.
type Terms struct{ Policy, Version string }

// CreateUser makes an account. Without a Device only the UserID of the answer is set. Errors: M_INVALID_USERNAME,
// M_EXCLUSIVE, M_USER_IN_USE, M_INVALID_PARAM (password), M_FORBIDDEN (registration token, External), M_THREEPID_AUTH_FAILED and
// M_THREEPID_IN_USE (e-mail).
func (s *Service) CreateUser(ctx context.Context, n NewUser) (*Login, error) {
	if n.Username == "" {
		n.Username = randomLocalpart()
	}
	local, err := s.available(ctx, n.Username, n.Service)
	if err != nil {
		return nil, err
	}
	return s.createUser(ctx, local, n)
}

func (s *Service) createUser(ctx context.Context, local string, n NewUser) (*Login, error) {
	if n.DisplayName == "" && !n.Guest {
		n.DisplayName = local
	}
	password, err := s.hashNew(ctx, n.Password)
	if err != nil {
		return nil, err
	}
	var device NewDevice
	g := &grant{}
	if n.Device != nil {
		device = *n.Device
		if err := checkDevice(&device); err != nil {
			return nil, err
		}
		g = s.newGrant(device.Refresh)
		g.DeviceID = device.ID
	}
	g.UserID = s.userID(local)
	var verdict error
	err = s.db.Do(ctx, &sqldb.Op{Name: "account.create", Write: func(tx *sqldb.Tx, _ int64) (err error) {
		if verdict, err = s.writeUser(tx, local, password, n); verdict != nil || err != nil || n.Device == nil {
			return err
		}
		return s.writeLogin(tx, local, device, g)
	}})
	if err == nil {
		err = verdict
	}
	if err != nil {
		return nil, err
	}
	s.known.add(local)
	return &g.Login, nil
}

// writeUser decides inside the transaction whether the name is free and the registration token good. A refusal is
// the verdict: nothing has been written then.
func (s *Service) writeUser(tx *sqldb.Tx, local string, password []byte, n NewUser) (verdict, err error) {
	taken, err := userIsThere(tx, local)
	if err != nil {
		return nil, err
	}
	if taken {
		return matrixerr.UserInUse(), nil
	}
	if n.External != nil {
		if owner, err := externalOwner(tx, *n.External); err != nil || owner != "" {
			return errExternalTaken(), err
		}
	}
	var email validation
	if n.Email != nil {
		email, verdict = s.newEmail(tx, n.Email)
		if verdict != nil {
			return verdict, onlyUnknown(verdict)
		}
	}
	if n.RegistrationToken != "" {
		if verdict, err = s.useRegistrationToken(tx, n.RegistrationToken); verdict != nil || err != nil {
			return verdict, err
		}
	}
	_, err = tx.Exec(userInsert, local, password, s.now(), n.Admin, n.Guest, 0, 0, s.firstEnd(s.userID(local), n))
	if err == nil && n.Email != nil {
		err = s.writeEmail(tx, local, email)
	}
	if err == nil && n.External != nil {
		err = s.writeVouched(tx, local, n)
	}
	for i := 0; err == nil && i < len(n.Terms); i++ {
		_, err = tx.Exec(termsInsert, local, n.Terms[i].Policy, n.Terms[i].Version, s.now())
	}
	if err != nil || n.DisplayName == "" {
		return nil, err
	}
	name, err := json.Marshal(n.DisplayName)
	if err != nil {
		return nil, err
	}
	_, err = tx.Exec(profileUpsert, local, FieldDisplayName, name, int64(0))
	return nil, err
}

// writeVouched writes what an identity provider says of a new account.
func (s *Service) writeVouched(tx *sqldb.Tx, local string, n NewUser) error {
	address, err := vouched(tx, n.Vouched)
	if err != nil {
		return err
	}
	if address != "" {
		if _, err := tx.Exec(threepidInsert, MediumEmail, address, local, s.now(), s.now()); err != nil {
			return err
		}
	}
	return s.writeExternal(tx, local, *n.External)
}

// newEmail is the validated address for a new account. It writes nothing.
func (s *Service) newEmail(tx *sqldb.Tx, c *Credentials) (validation, error) {
	v, err := s.validated(tx, ToRegister, c.SID, c.ClientSecret)
	if err != nil {
		return v, err
	}
	owner, err := threepidOwner(tx, MediumEmail, v.Address)
	if err == nil && owner != "" {
		err = errThreepidInUse()
	}
	return v, err
}
