// Package clientapi owns the Client-Server door as a whole: who a caller is, how often one may call, what the server
// says about itself, and which subpackage serves what. The handlers by noun are in its subpackages.
package clientapi

import (
	"context"
	"net/http"
	"time"

	"knock/clientapi/calls"
	"knock/internal/account"
	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/limits"
	"knock/internal/matrixerr"
)

// Options are what the server says about itself.
type Options struct {
	PublicBaseURL  string // of the client API, for /.well-known/matrix/client; "" serves none
	DelegatedTo    string // host:port of federation, for /.well-known/matrix/server; "" serves none
	SupportEmail   string
	SupportUser    string
	SupportPage    string
	RoomVersions   []string
	DefaultVersion string
	Emails         bool              // people may add e-mail addresses to their accounts
	PolicyKey      string            // of this server as a policy server, base64; "": it is none
	Foci           []calls.Transport // services for calls of many, in /.well-known/matrix/client for clients that do not ask with a token
	Features       []string          // unstable features that are served, such as org.matrix.msc4222

	MaxEventDelay    time.Duration // of delayed events
	MaxDelayedEvents int           // that a user may have waiting
}

// API serves what belongs to no noun.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API { return &API{o} }

// Door is a part that serves endpoints.
type Door interface{ Routes() []httpx.Route }

// Assemble joins the route tables of doors; nil doors are left out.
func Assemble(doors ...Door) []httpx.Route {
	var all []httpx.Route
	for _, d := range doors {
		if d != nil {
			all = append(all, d.Routes()...)
		}
	}
	return all
}

// Authenticate makes the router's hook from the accounts and the application services.
func Authenticate(accounts *account.Service, services *appservice.Services) func(context.Context, string, *httpx.Request) (httpx.Caller, error) {
	return func(ctx context.Context, token string, r *httpx.Request) (httpx.Caller, error) {
		if service := services.Token(token); service != nil {
			return masquerade(ctx, accounts, service, r)
		}
		id, err := accounts.Authenticate(ctx, token, r.ClientIP())
		if err != nil {
			return httpx.Caller{}, err
		}
		return id.Caller(), nil
	}
}

// RateLimit makes the router's hook from a limiter: by user, or by address for callers without an account. Application
// services are exempt, as far as their registrations do not say otherwise.
func RateLimit(l *limits.Limiter, services *appservice.Services) func(class string, caller httpx.Caller, ip string) *matrixerr.Error {
	return func(class string, caller httpx.Caller, ip string) *matrixerr.Error {
		switch {
		case caller.AppService != "" && !services.Limited(caller.AppService, caller.UserID):
			return nil
		case caller.UserID != "":
			return l.Allow(class, caller.UserID)
		case caller.Origin != "":
			return l.Allow(class, caller.Origin)
		}
		return l.Allow(class, limits.Source(ip))
	}
}

// Routes are the rows about the server itself.
func (a *API) Routes() []httpx.Route {
	rows := []httpx.Route{
		{Method: http.MethodGet, Path: "/_matrix/client/versions", Handler: a.versions, Auth: httpx.AuthNone, Spec: "API Versions"},
		{Method: http.MethodGet, Path: "/_matrix/client/v3/capabilities", Handler: a.capabilities, Auth: httpx.AuthGuestOK, Spec: "Capabilities negotiation"},
	}
	wellKnown := func(name string, body any) {
		rows = append(rows, httpx.Route{Method: http.MethodGet, Path: "/.well-known/matrix/" + name, Spec: "Server Discovery",
			Handler: func(context.Context, *httpx.Request) (any, error) { return body, nil }})
	}
	if a.o.PublicBaseURL != "" {
		wellKnown("client", clientDiscovery(a.o))
	}
	if a.o.DelegatedTo != "" {
		wellKnown("server", map[string]any{"m.server": a.o.DelegatedTo})
	}
	if s := support(a.o); s != nil {
		wellKnown("support", s)
	}
	if a.o.PolicyKey != "" {
		wellKnown("policy_server", map[string]any{"public_keys": map[string]string{"ed25519": a.o.PolicyKey}})
	}
	return rows
}
