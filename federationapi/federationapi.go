// Package federationapi owns the Server-Server door: the endpoints that other servers call, the check of who calls,
// and the intake of their transactions. What it learns it hands to the domain; nothing here is stored.
package federationapi

import (
	"context"
	"encoding/json"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/appservice"
	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/limits"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

// Verifier checks the X-Matrix signature of a request and returns the server that made it; keys.Ring does.
type Verifier interface {
	VerifyRequest(ctx context.Context, method, uri string, headers []string, body []byte, destinations []string) (origin string, err error)
}

// Accounts are the local users, as far as other servers may ask about them.
type Accounts interface {
	Profile(ctx context.Context, userID string) (map[string]json.RawMessage, error)
	OpenIDUser(ctx context.Context, token string) (string, error)
}

// Options configure an API. Typing, Receipts, Presence and Encryption may be nil: their EDUs are then ignored.
type Options struct {
	ServerName string
	Version    string // of this software, for GET /version
	Rooms      *roomserver.Server
	Verifier   Verifier
	Accounts   Accounts
	Listing    *roomserver.Listing  // of published rooms; nil makes one
	Services   *appservice.Services // with directories of their networks; nil: there are none
	Typing     *ephemeral.Typing
	Receipts   *ephemeral.Receipts
	Presence   *ephemeral.Presence
	Encryption Encryption
	// Alive hears of every server that made a valid request; it must not block. nil: nobody.
	Alive func(server string)

	Limits     Limits
	Clock      clock.Clock           // nil is the machine's
	Log        *logrus.Entry         // nil is the standard logger
	Registerer prometheus.Registerer // nil: no metrics
}

// API serves the Server-Server API. It is safe for concurrent use and starts nothing.
type API struct {
	o          Options
	slots      *slots
	rates      *limits.Limiter
	working    *budget // requests that are worked on, by server
	unverified *budget // bodies whose signature is not checked yet, by address
	answers    *cache.Cache[transactionKey, httpx.Raw]
	metrics    *metrics
}

// New makes an API.
func New(o Options) *API {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if o.Alive == nil {
		o.Alive = func(string) {}
	}
	if o.Listing == nil {
		o.Listing = roomserver.NewListing(o.Rooms, nil)
	}
	o.Limits = o.Limits.orDefault()
	return &API{
		o: o, slots: newSlots(), metrics: newMetrics(o.Registerer), rates: newRates(o.Limits),
		working: newBudget(o.Limits.InFlight, o.Limits.Bytes, 0), unverified: newBudget(addressWaiting, addressBytes, allBytes),
		answers: cache.New(cache.Options[transactionKey, httpx.Raw]{
			Name: "federation_transactions", Entries: answersKept, Bytes: 8 << 20, Registerer: o.Registerer,
			Cost: func(k transactionKey, v httpx.Raw) int64 { return int64(len(k.origin) + len(k.id) + len(v)) },
		}),
	}
}

// AuthenticateServer checks the X-Matrix header of a request (Server-Server API, "Request Authentication") and
// returns the server that made it. It is the router's hook.
func (a *API) AuthenticateServer(ctx context.Context, r *httpx.Request) (origin string, err error) {
	body, err := a.readBody(r)
	if err != nil {
		return "", err
	}
	uri := r.RequestURI
	if uri == "" {
		uri = r.URL.RequestURI()
	}
	origin, err = a.o.Verifier.VerifyRequest(ctx, r.Method, uri, r.Header.Values("Authorization"), body, []string{a.o.ServerName})
	if err != nil {
		return "", err
	}
	if e := a.rates.Allow(tooFast, origin); e != nil {
		a.metrics.refused.WithLabelValues(tooFast).Inc()
		return "", e
	}
	a.o.Alive(origin)
	return origin, nil
}

// admitted refuses a server that the ACL of a room denies (Server-Server API, "Server Access Control Lists").
func (a *API) admitted(ctx context.Context, roomID, origin string) error {
	allowed, err := a.o.Rooms.ServerAllowed(ctx, roomID, origin)
	if err == nil && !allowed {
		err = matrixerr.Forbidden("The room's server ACL denies " + origin)
	}
	return err
}
