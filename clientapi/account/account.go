// Package account owns the endpoints of accounts in the Client-Server API: login, single sign-on, registration, tokens, devices,
// passwords, e-mail addresses,
// profiles, account data, tags, OpenID, and what administrators do to accounts. The handlers are thin; internal/account does the work.
package account

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/account"
	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/identity"
	"knock/internal/matrixerr"
	"knock/internal/sso"
)

// Options are what the endpoints need. Accounts is required.
type Options struct {
	Accounts *account.Service
	// Registration says who may register through /register.
	Registration Registration
	// SharedSecret opens /_synapse/admin/v1/register to those who know it; "" leaves it out.
	SharedSecret string
	// BaseURL is what clients should use as homeserver URL, sent with a login; "" sends none.
	BaseURL string
	// Services are the application services, which make accounts of their own; nil: there are none.
	Services *appservice.Services
	// Remote fetches profiles of other servers' users; nil: they are not found.
	Remote RemoteProfiles
	// Mail sends e-mails; nil: none are sent, and addresses cannot be confirmed. It needs BaseURL, for links.
	Mail Mailer
	// Identity calls identity servers; nil: none may be used.
	Identity *identity.Client
	// SSO signs people in through identity providers; nil: there are none. It needs BaseURL.
	SSO *sso.Service
	// Limit returns an error when key did too much of class, beyond the limits of routes; nil: there are no limits.
	Limit func(class, key string) *matrixerr.Error
	// PushRules is the content of a user's m.push_rules, which is not kept as account data; nil: not readable.
	PushRules func(ctx context.Context, userID string) (json.RawMessage, error)

	Now func() time.Time // nil: time.Now
	Log *logrus.Entry    // nil: silent
}

// Registration is the policy for new accounts.
type Registration struct {
	Enabled      bool
	RequireToken bool     // a registration token is needed
	RequireEmail bool     // a confirmed e-mail address is needed
	Terms        []Policy // documents that have to be accepted
	Captcha      *Captcha // nil: none is asked for
	Guests       bool     // guest accounts may be made
}

// Policy is one language of a document that people have to accept.
type Policy struct{ Policy, Version, Language, Name, URL string }

// RemoteProfiles asks another server for a profile, or for one field of it when field is not empty.
type RemoteProfiles interface {
	Profile(ctx context.Context, server, userID, field string) (map[string]json.RawMessage, error)
}

// API is the account part of the client door.
type API struct {
	o        Options
	accounts *account.Service
	uia      *account.UIA
	nonces   *nonces
	remote   *remoteCache
}

// New makes the endpoints.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Limit == nil {
		o.Limit = func(string, string) *matrixerr.Error { return nil }
	}
	return &API{o: o, accounts: o.Accounts, uia: account.NewUIA(o.Now), nonces: newNonces(o.Now),
		remote: newRemoteCache(o.Remote, o.Now)}
}

const (
	v3 = "/_matrix/client/v3"
	v1 = "/_matrix/client/v1"

	maxGuessed     = 255      // bytes of a user's name
	maxAccountData = 1 << 20  // some clients keep large maps there
	maxProfileBody = 80 << 10 // a little over the profile's limit, so that the error is the profile's
)

// Rate-limit classes.
const (
	limitLogin    = "login"
	limitRegister = "register"
	limitProfile  = "profile"
	limitLookup   = "directory"
	limitSSO      = "sso"
	limitPassword = "password" // by name or address with which a password is tried
	limitEmail    = "email"    // by address that asks, and by address that gets the e-mail
)

// Routes are the rows of this part of the door.
func (a *API) Routes() []httpx.Route {
	routes := slices.Concat(a.sessionRoutes(), a.registerRoutes(), a.accountRoutes(), a.deviceRoutes(),
		a.profileRoutes(), a.dataRoutes(), a.tagRoutes(), a.moderationRoutes(), a.emailRoutes(), a.threepidRoutes(), a.fallbackRoutes(), a.ssoRoutes())
	for i := range routes {
		if routes[i].Spec == "" {
			routes[i].Spec = "Client Authentication"
		}
	}
	return routes
}

// authorize runs User-Interactive Authentication for an operation of the caller. Without a session resp or err is the
// answer; with one, its Leave must be called.
func (a *API) authorize(ctx context.Context, u account.UIARequest) (s *account.UIASession, resp *httpx.Response, err error) {
	s, err = a.uia.Authorize(ctx, u)
	var more *account.UIAChallenge
	if errors.As(err, &more) {
		return nil, &httpx.Response{Status: http.StatusUnauthorized, Body: more.Body()}, nil
	}
	return s, nil, err
}

// withProof does an operation once the caller has shown again who they are. Application services need not.
func (a *API) withProof(ctx context.Context, r *httpx.Request, operation string, auth json.RawMessage,
	do func() (any, error)) (any, error) {
	if r.Caller.AppService != "" {
		return do()
	}
	flows, err := a.proofs(ctx, r.Caller.UserID)
	if err != nil {
		return nil, err
	}
	s, resp, err := a.authorize(ctx, account.UIARequest{Operation: operation, UserID: r.Caller.UserID, Auth: auth,
		Flows: flows, Verify: a.verifyProof(r.Caller.UserID)})
	if err != nil {
		return nil, err
	}
	if resp != nil {
		return resp, nil
	}
	defer s.Leave()
	v, err := do()
	if err == nil {
		s.Done()
	}
	return v, err
}

// proofs are the ways in which a user can show again who they are.
func (a *API) proofs(ctx context.Context, userID string) (flows [][]string, err error) {
	if a.o.SSO == nil {
		return [][]string{{account.StagePassword}}, nil
	}
	providers, p, err := a.providersOf(ctx, userID)
	if p.Password || len(providers) == 0 {
		flows = append(flows, []string{account.StagePassword})
	}
	if len(providers) > 0 {
		flows = append(flows, []string{account.StageSSO})
	}
	return flows, err
}

// passwordAuth is the dictionary of the m.login.password stage.
type passwordAuth struct {
	Identifier identifier `json:"identifier"`
	User       string     `json:"user"` // deprecated
	Password   string     `json:"password"`
}

func (a *API) verifyProof(userID string) func(context.Context, *account.UIASession, string, json.RawMessage) error {
	return func(ctx context.Context, _ *account.UIASession, stage string, raw json.RawMessage) error {
		if stage == account.StageSSO {
			return matrixerr.Unknown(http.StatusUnauthorized, "This step is completed in a browser: open /_matrix/client/v3/auth/m.login.sso/fallback/web?session=…")
		}
		var auth passwordAuth
		if err := httpx.Unmarshal(raw, &auth); err != nil {
			return err
		}
		user, err := a.identify(ctx, auth.Identifier, auth.User)
		if err != nil {
			return err
		}
		if user == "" {
			user = userID
		}
		if err := a.guess(userID); err != nil {
			return err
		}
		local, err := a.accounts.VerifyPassword(ctx, user, auth.Password)
		var refused *matrixerr.Error
		switch owner, _ := a.accounts.Localpart(userID); {
		case errors.As(err, &refused) && refused.HTTP == http.StatusForbidden:
			return matrixerr.New(http.StatusUnauthorized, refused.Code, refused.Msg).With(err)
		case err == nil && local != owner:
			return matrixerr.Forbidden("This is another user's password; use your own")
		}
		return err
	}
}

// guess takes one of the attempts at a password, which are counted by whose it is said to be. What somebody typed is what counts,
// not the user behind it: limits must not tell who has an address.
func (a *API) guess(typed string) error {
	name := strings.TrimSuffix(strings.TrimPrefix(strings.ToLower(typed), "@"), ":"+a.accounts.ServerName())
	if e := a.o.Limit(limitPassword, name[:min(len(name), maxGuessed)]); e != nil {
		return e
	}
	return nil
}

// typed is what an identifier says, in the form in which it is counted.
func (i identifier) typed(legacy string) string {
	switch i.Type {
	case "":
		return legacy
	case "m.id.thirdparty":
		return i.Medium + " " + canonicalAddress(i.Medium, i.Address)
	}
	return i.User
}
