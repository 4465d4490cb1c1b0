// Package sso owns signing in through identity providers: the conversation with them (OpenID Connect), what is under
// way, and to which clients a user may be sent back. Whose account a person has is internal/account's matter. It is the
// only reader and writer of the table in 0291_sso_flows.sql.
package sso

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
)

// Provider is an identity provider.
type Provider struct {
	ID    string // opaque, in paths
	Name  string // for people
	Brand string // of the registry of brands; "" is none
	Icon  string // mxc:// URI; "" is none

	Issuer       string // URL, as in the provider's discovery document
	ClientID     string
	ClientSecret string   // "" for a public client
	Scopes       []string // beside openid
	Claims       ClaimNames

	Adopt              Adopt
	ExistingOnly       bool // nobody gets an account by signing in
	SkipReauthenticate bool // people who are signed in there need not do so again to confirm something
	NoPasswords        bool // people who are known there have no other way in
	Backchannel        bool // devices end with the provider's session, when it says so
}

// ClaimNames say where a provider writes what a new account gets; "" is nowhere.
type ClaimNames struct {
	Localpart, DisplayName, Email string
	StripDomain                   bool // of the localpart: what comes behind an @
}

// Adopt says which account a person gets who signs in for the first time.
type Adopt string

// AdoptNone is a new one; the others are an account that exists and has this localpart, or this confirmed e-mail address.
const (
	AdoptNone      Adopt = ""
	AdoptLocalpart Adopt = "localpart"
	AdoptEmail     Adopt = "email"
)

// Options are what a Service needs. DB, HTTP and BaseURL are required.
type Options struct {
	DB *sqldb.DB
	// HTTP calls providers. It must refuse addresses that are not meant to be called and follow no redirects.
	HTTP      *http.Client
	BaseURL   string // of this server, for browsers, without a slash at its end
	Providers []Provider
	// Trusted are clients, by the beginning of their URLs, that users are sent back to without being asked.
	Trusted []string
	// MaxFlows is how many steps may be under way; more are at the cost of the oldest. 0 is 20,000.
	MaxFlows int64

	Now func() time.Time // nil: time.Now
	Log *logrus.Entry    // nil: silent
}

// Service signs people in. It is safe for concurrent use.
type Service struct {
	o         Options
	providers []*remote
	trusted   []*url.URL
}

// CallbackPath is where providers send browsers back to; the provider's ID follows.
const CallbackPath = "/_matrix/client/unstable/sso/callback/"

// New makes a Service. It calls no provider: each is asked when it is first needed.
func New(o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MaxFlows == 0 {
		o.MaxFlows = 20_000
	}
	if o.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		o.Log = logrus.NewEntry(silent)
	}
	s := &Service{o: o}
	web := bounded(o.HTTP)
	for _, p := range o.Providers {
		s.providers = append(s.providers, newRemote(p, web, o.BaseURL+CallbackPath+p.ID, o.Now))
	}
	for _, client := range o.Trusted {
		u, err := ClientURL(client)
		if err != nil {
			return nil, err
		}
		s.trusted = append(s.trusted, u)
	}
	return s, nil
}

// Providers lists them, in the order of the configuration. A nil Service has none.
func (s *Service) Providers() (list []Provider) {
	if s != nil {
		for _, r := range s.providers {
			list = append(list, r.Provider)
		}
	}
	return list
}

// NoPasswords lists the issuers whose people have no other way in.
func (s *Service) NoPasswords() (issuers []string) {
	for _, p := range s.Providers() {
		if p.NoPasswords {
			issuers = append(issuers, p.Issuer)
		}
	}
	return issuers
}

// provider finds one by its ID; nil when there is none.
func (s *Service) provider(id string) *remote {
	for _, r := range s.providers {
		if r.ID == id {
			return r
		}
	}
	return nil
}

// Secure says whether browsers reach this server through TLS alone.
func (s *Service) Secure() bool { return strings.HasPrefix(s.o.BaseURL, "https://") }
