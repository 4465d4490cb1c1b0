package sso

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"knock/internal/matrixerr"
)

const (
	kindFlow   = "flow"
	maxCode    = 8192 // bytes; some providers put a whole token into it
	maxSubject = 255  // OpenID Connect Core, "ID Token"
	clockSkew  = 2 * time.Minute
)

// Flow is what a person signs in for.
type Flow struct {
	Provider string `json:"provider"`
	Client   string `json:"client,omitempty"`  // address to which the user is sent back
	Session  string `json:"session,omitempty"` // of User-Interactive Authentication, in place of a client
	Began    int64  `json:"began"`             // milliseconds
}

// Person is who signed in.
type Person struct {
	Issuer, Subject string
	Session         string // the provider's name for the person's session there; "" when it has none

	at    *remote
	known *known
	token *oauth2.Token
	id    *oidc.IDToken
}

// Begin returns where at the provider a browser is to be sent. With register a provider that can do so begins with the
// making of an account. Errors are for people: M_NOT_FOUND for an unknown provider, 502 for one that does not answer.
func (s *Service) Begin(ctx context.Context, providerID, browser string, f Flow, register bool) (location string, err error) {
	r := s.provider(providerID)
	if r == nil {
		return "", errProvider()
	}
	k, err := r.discover(ctx)
	if err != nil {
		s.o.Log.WithError(err).WithField("provider", r.ID).Warn("An identity provider cannot be asked")
		return "", err
	}
	f.Provider, f.Began = r.ID, s.o.Now().UnixMilli()
	state, err := s.Hold(ctx, browser, kindFlow, f)
	if err != nil {
		return "", err
	}
	options := []oauth2.AuthCodeOption{oidc.Nonce(derive(browser, state, "nonce")), oauth2.S256ChallengeOption(derive(browser, state, "verifier"))}
	switch {
	case f.Session != "" && !r.SkipReauthenticate:
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"))
	case register && slices.Contains(k.prompts, "create"):
		options = append(options, oauth2.SetAuthURLParam("prompt", "create"))
	}
	return k.oauth.AuthCodeURL(state, options...), nil
}

func errProvider() error {
	return matrixerr.NotFound("This server does not know this way to sign in; go back to your app and choose another")
}

// Finish reads what a provider sent a browser back with, and asks the provider who it is. Errors are for people.
func (s *Service) Finish(ctx context.Context, providerID, browser string, q url.Values) (f Flow, p *Person, err error) {
	r := s.provider(providerID)
	if r == nil {
		return f, nil, errProvider()
	}
	if err := s.Take(ctx, browser, kindFlow, q.Get("state"), &f); err != nil {
		return f, nil, err
	}
	if p, err = s.finish(ctx, r, browser, f, q); err != nil {
		s.o.Log.WithError(err).WithField("provider", r.ID).Warn("Somebody could not sign in through an identity provider")
	}
	return f, p, err
}

func (s *Service) finish(ctx context.Context, r *remote, browser string, f Flow, q url.Values) (*Person, error) {
	iss, code := q.Get("iss"), q.Get("code")
	switch {
	case f.Provider != r.ID: // the answer of one provider to what another was asked
		return nil, errEnded()
	case iss != "" && iss != r.Issuer: // RFC 9207
		return nil, errEnded()
	case q.Get("error") != "":
		return nil, r.refused(q)
	case code == "" || len(code) > maxCode:
		return nil, r.wrong(errors.New("no code"))
	}
	k, err := r.discover(ctx)
	if err != nil {
		return nil, err
	}
	state := q.Get("state")
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, r.web), 2*callTimeout)
	defer cancel()
	token, err := k.oauth.Exchange(ctx, code, oauth2.VerifierOption(derive(browser, state, "verifier")))
	if err != nil {
		return nil, r.exchangeFailed(err)
	}
	id, err := r.verify(ctx, k, token, derive(browser, state, "nonce"))
	if err != nil {
		return nil, err
	}
	if f.Session != "" {
		if err := r.signedInAgain(id, f); err != nil {
			return nil, err
		}
	}
	var more struct {
		Session string `json:"sid"`
	}
	if err := id.Claims(&more); err != nil || len(more.Session) > maxSubject {
		return nil, r.wrong(errors.Join(err, errors.New("the name of the session cannot be read")))
	}
	return &Person{Issuer: r.Issuer, Subject: id.Subject, Session: more.Session, at: r, known: k, token: token, id: id}, nil
}

// refused is what a provider said in place of a code.
func (r *remote) refused(q url.Values) error {
	said := q.Get("error")
	cause := errors.New("the provider says " + said + " " + q.Get("error_description"))
	if said == "access_denied" {
		return matrixerr.Forbidden("You were not signed in: you cancelled it, or " + r.Name + " does not let you in here").With(short(cause))
	}
	return r.wrong(cause)
}

// wrong tells a person of an answer that cannot be used.
func (r *remote) wrong(cause error) error {
	return matrixerr.Forbidden("The answer of " + r.Name + " cannot be used. Go back to your app and sign in again; if it stays so, " +
		"tell the administrator of this server").With(short(cause))
}

// exchangeFailed tells codes that are not good from providers that cannot be reached.
func (r *remote) exchangeFailed(err error) error {
	var said *oauth2.RetrieveError
	if errors.As(err, &said) && said.Response != nil && said.Response.StatusCode < 500 {
		return r.wrong(err)
	}
	return r.unreachable(err)
}

// verify checks an ID token (OpenID Connect Core, "ID Token Validation").
func (r *remote) verify(ctx context.Context, k *known, token *oauth2.Token, nonce string) (*oidc.IDToken, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, r.wrong(errors.New("no ID token"))
	}
	id, err := k.verifier.Verify(ctx, raw)
	if err != nil {
		return nil, r.wrong(err)
	}
	var more struct {
		Party string `json:"azp"`
	}
	if err := id.Claims(&more); err != nil {
		return nil, r.wrong(err)
	}
	switch {
	case subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1:
		return nil, r.wrong(errors.New("another nonce"))
	case more.Party != "" && more.Party != r.ClientID, more.Party == "" && len(id.Audience) > 1:
		return nil, r.wrong(errors.New("the token is for another party"))
	case id.Subject == "" || len(id.Subject) > maxSubject || strings.ContainsRune(id.Subject, 0):
		return nil, r.wrong(errors.New("no subject, or a long one"))
	}
	return id, nil
}

// signedInAgain looks whether a person who confirms something has just signed in, where the provider tells the time.
func (r *remote) signedInAgain(id *oidc.IDToken, f Flow) error {
	var more struct {
		At float64 `json:"auth_time"`
	}
	if err := id.Claims(&more); err != nil {
		return r.wrong(err)
	}
	if at := int64(more.At * 1000); more.At != 0 && !r.SkipReauthenticate && at < f.Began-clockSkew.Milliseconds() {
		return matrixerr.New(http.StatusForbidden, "M_FORBIDDEN", r.Name+" knew you without asking. Sign out there, go back to your app and try again").
			With(errors.New("auth_time is before the beginning"))
	}
	return nil
}
