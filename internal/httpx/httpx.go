// Package httpx owns the way from HTTP to a handler and back: the route table and its router, reading bodies
// within limits, calling the hooks for authentication and rate limits, encoding answers and errors, CORS, one log
// line and one metric per request. It knows paths and tokens, but not what they stand for.
package httpx

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/matrixerr"
)

// Auth says who may call a route.
type Auth uint8

const (
	// AuthNone takes everybody and looks at no token.
	AuthNone Auth = iota
	// AuthOptional takes everybody; a token that is sent must be good and fills the Caller.
	AuthOptional
	// AuthService takes everybody; the token of an application service fills the Caller, others are not looked at.
	AuthService
	// AuthUser needs an access token of an account that is not a guest.
	AuthUser
	// AuthAdmin needs an access token of an administrator of this server.
	AuthAdmin
	// AuthGuestOK needs an access token, a guest's too.
	AuthGuestOK
	// AuthServer needs an X-Matrix signature of another server over the request.
	AuthServer
)

// Caller is who makes a request, as the hooks found out. The zero Caller is nobody.
type Caller struct {
	UserID     string // "@alice:example.org"
	DeviceID   string
	Session    int64 // number of the access token's row, for logout
	Guest      bool
	Admin      bool
	Locked     bool   // the account may only log out
	Expired    bool   // the account has ended until it is renewed
	Suspended  bool   // the account may not do what changes things for others
	AppService string // id of the application service that calls
	Origin     string // federation: name of the calling server
}

// Handler answers one request. The value becomes the body of a 200: anything json.Marshal takes, nil for {}, Raw
// for JSON that is encoded already, *Response for another status or headers, Stream for what is not JSON. An error
// is answered through matrixerr.From.
type Handler func(ctx context.Context, r *Request) (any, error)

// Raw is encoded JSON.
type Raw []byte

// MarshalJSON lets a Raw stand inside another value.
func (r Raw) MarshalJSON() ([]byte, error) { return r, nil }

// Response is an answer with a status (0 is 200) and headers of its own; Body is what a Handler may return.
type Response struct {
	Status int
	Header http.Header
	Body   any
}

// Stream writes an answer itself, headers included. An error before the first byte is answered like a Handler's;
// after it the connection is cut, so that nobody takes half an answer for a whole one.
type Stream func(w http.ResponseWriter) error

// Route is one endpoint.
type Route struct {
	Method       string // "GET" serves HEAD too
	Path         string // gorilla/mux syntax; a state key is {stateKey:.*}
	Handler      Handler
	Auth         Auth
	Limit        string // rate-limit class; "" has none
	MaxBody      int64  // bytes; 0 is DefaultMaxBody, below zero the handler limits what it reads itself
	OptionalBody bool   // an empty body reads as {}
	Spec         string // section of the specification or MSC
	Hot          bool   // matched before the others
	WhileLocked  bool   // also for accounts that are locked or expired
	NotSuspended bool   // not for accounts that are suspended
	Waits        bool   // a long poll: its context ends as soon as the node begins to stop, or Hooks.Watch ends it
}

// DefaultMaxBody is how much of a body is read when the route says nothing else: an event's size.
const DefaultMaxBody = 64 << 10

// Hooks are what the router asks of the parts that it does not know. Nil hooks refuse (authentication) or allow
// (rate limits).
type Hooks struct {
	// Authenticate finds the owner of an access token; its errors are answered as they are.
	Authenticate func(ctx context.Context, token string, r *Request) (Caller, error)
	// AuthenticateService finds the application service of a token; false when it is none.
	AuthenticateService func(token string) (Caller, bool)
	// AuthenticateServer verifies the X-Matrix header over the request and returns the origin.
	AuthenticateServer func(ctx context.Context, r *Request) (origin string, err error)
	// RateLimit returns an error when caller (or ip, for those without an account) did too much of class.
	RateLimit func(class string, caller Caller, ip string) *matrixerr.Error

	// Watch returns a context for a long poll; when it ends with a *matrixerr.Error as its cause, that is answered. done
	// is called after the poll. nil: long polls outlive their sessions.
	Watch func(ctx context.Context, caller Caller) (_ context.Context, done func())

	Closing        context.Context       // ends when the node begins to stop; nil: never
	TrustedProxies []netip.Prefix        // peers whose X-Forwarded-For is believed
	Log            *logrus.Entry         // nil: silent
	Registerer     prometheus.Registerer // nil: no metrics
}
