package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
)

// Kind classifies what went wrong. The set is closed: it is a metric label.
type Kind string

// The kinds of Error.
const (
	KindStatus   Kind = "status"    // the server answered with an HTTP error: see Code and Matrix
	KindBadName  Kind = "bad_name"  // not a server name, or our own
	KindBackoff  Kind = "backoff"   // not tried: the server failed lately, see RetryAfter
	KindResolve  Kind = "resolve"   // no address found
	KindRefused  Kind = "refused"   // the address is in a network that we do not connect to
	KindConnect  Kind = "connect"   // no connection
	KindTLS      Kind = "tls"       // no trusted certificate for the name
	KindTimeout  Kind = "timeout"   // no answer in time
	KindBroken   Kind = "broken"    // the connection broke
	KindTooLarge Kind = "too_large" // the answer is larger than allowed
	KindBadBody  Kind = "bad_body"  // the answer is not what the specification says
	KindCanceled Kind = "canceled"  // the caller gave up
	KindDenied   Kind = "denied"    // the server is not spoken to
	KindUnsent   Kind = "unsent"    // what was to be sent has no canonical JSON
)

// Error is the failure of one call to one server.
type Error struct {
	Server     string
	Kind       Kind
	Code       int              // HTTP status, 0 when there was no answer
	Matrix     *matrixerr.Error // the error that the server sent, nil when it sent none
	RetryAfter time.Duration    // when the server, or its back-off here, says when to come again
	Cause      error            // nil for KindStatus

	call string // the name of the endpoint
}

// Error says what failed; it holds the other server's text, never a body.
func (e *Error) Error() string {
	switch {
	case e.Matrix != nil:
		return fmt.Sprintf("%s answered %d %s: %.200q", e.Server, e.Code, e.Matrix.Code, e.Matrix.Msg)
	case e.Kind == KindStatus:
		return fmt.Sprintf("%s answered %d", e.Server, e.Code)
	case e.Kind == KindBackoff:
		return fmt.Sprintf("%s failed lately and is tried again in %s", e.Server, e.RetryAfter.Round(time.Second))
	}
	return fmt.Sprintf("%s: %s: %v", e.Server, e.Kind, e.Cause)
}

func (e *Error) Unwrap() error { return e.Cause }

// Network tells whether the server gave no usable answer at all, so that another server may be asked instead.
func (e *Error) Network() bool { return e.Kind != KindStatus && e.Kind != KindCanceled }

// passedOn are the other server's errors that mean the same to our own clients: where the call's object is missing,
// forbidden or unsuitable. Everything else, about tokens or limits for instance, would be misunderstood.
var passedOn = map[string]bool{
	"M_FORBIDDEN": true, "M_NOT_FOUND": true, "M_BAD_STATE": true, "M_INVALID_PARAM": true, "M_TOO_LARGE": true, "M_NOT_YET_UPLOADED": true,
	"M_INCOMPATIBLE_ROOM_VERSION": true, "M_UNSUPPORTED_ROOM_VERSION": true, "M_UNABLE_TO_AUTHORISE_JOIN": true,
	"M_UNABLE_TO_GRANT_JOIN": true, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM": true, "M_INVITE_BLOCKED": true,
}

// passedOnOfMembership are those of a server that takes a membership into a room. The rest speaks of a request that we made in
// the user's name: nothing that the user could set right.
var passedOnOfMembership = map[string]bool{
	"M_FORBIDDEN": true, "M_NOT_FOUND": true, "M_INCOMPATIBLE_ROOM_VERSION": true, "M_UNSUPPORTED_ROOM_VERSION": true,
	"M_UNABLE_TO_AUTHORISE_JOIN": true, "M_UNABLE_TO_GRANT_JOIN": true,
}

// meant tells whether the other server's error is meant for our clients.
func (e *Error) meant() bool {
	if e.Matrix == nil || e.Code < 400 || e.Code == http.StatusUnauthorized {
		return false
	}
	if strings.HasPrefix(e.call, "make_") || strings.HasPrefix(e.call, "send_") {
		return passedOnOfMembership[e.Matrix.Code] && e.Code < 500
	}
	return passedOn[e.Matrix.Code]
}

// As makes an *Error a *matrixerr.Error that our own clients may see: what the other server said where that is meant
// for them, otherwise 502, or 504 where the time ran out.
func (e *Error) As(target any) bool {
	p, ok := target.(**matrixerr.Error)
	if !ok {
		return false
	}
	switch {
	case e.meant():
		*p = e.Matrix
	case e.Kind == KindDenied:
		*p = matrixerr.Forbidden("This server does not talk to " + e.Server)
	case e.Kind == KindTooLarge:
		*p = matrixerr.New(http.StatusBadGateway, "M_TOO_LARGE", "The answer of "+e.Server+" is too large")
	case e.Kind == KindBadName:
		*p = matrixerr.InvalidParam("There is no other server of that name; check its spelling")
	case e.Kind == KindTimeout:
		*p = matrixerr.Unknown(http.StatusGatewayTimeout, e.Server+" did not answer in time; try again later")
	default:
		*p = matrixerr.Unknown(http.StatusBadGateway, e.Server+" could not be asked; try again later")
	}
	return true
}

// errors that classify knows by identity
var (
	errTimeout  = errors.New("no answer in time")
	errTooLarge = errors.New("the answer is too large")
	errDenied   = errors.New("this server is not spoken to")
	errOwnName  = errors.New("this is our own server name")
	errBadName  = errors.New("not a valid server name")
	errNoAddr   = errors.New("the name has no address")
)

// refusedError is an address that the guard does not let us connect to.
type refusedError struct{ addr string }

func (e *refusedError) Error() string {
	return "address " + e.addr + " is private or reserved; list its network as allowed if it is meant"
}

// resolveError is a failure to find a server's address.
type resolveError struct{ err error }

func (e *resolveError) Error() string { return e.err.Error() }
func (e *resolveError) Unwrap() error { return e.err }

// bodyError is an answer that is not what the specification says.
type bodyError struct{ msg string }

func (e *bodyError) Error() string { return e.msg }

func badBody(format string, args ...any) error { return &bodyError{fmt.Sprintf(format, args...)} }

// fail wraps whatever ended a call into an *Error.
func fail(ctx context.Context, server string, err error) *Error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	return &Error{Server: server, Kind: classify(ctx, err), Cause: err}
}

func classify(ctx context.Context, err error) Kind {
	var (
		refused *refusedError
		resolve *resolveError
		body    *bodyError
		op      *net.OpError
		timeout net.Error
	)
	switch {
	case errors.Is(err, errTooLarge):
		return KindTooLarge
	case errors.As(err, &body):
		return KindBadBody
	case errors.Is(err, errDenied):
		return KindDenied
	case errors.Is(err, errOwnName), errors.Is(err, errBadName):
		return KindBadName
	case errors.As(err, &refused):
		return KindRefused
	case errors.Is(err, errTimeout), errors.Is(err, context.DeadlineExceeded):
		return KindTimeout
	case ctx.Err() != nil, errors.Is(err, context.Canceled):
		return KindCanceled
	case errors.As(err, &resolve):
		return KindResolve
	case isTLS(err):
		return KindTLS
	case errors.As(err, &timeout) && timeout.Timeout():
		return KindTimeout
	case errors.As(err, &op) && op.Op == "dial":
		return KindConnect
	}
	return KindBroken
}

func isTLS(err error) bool {
	var (
		cert   *tls.CertificateVerificationError
		host   x509.HostnameError
		signer x509.UnknownAuthorityError
		record tls.RecordHeaderError
		alert  tls.AlertError
	)
	return errors.As(err, &cert) || errors.As(err, &host) || errors.As(err, &signer) || errors.As(err, &record) || errors.As(err, &alert)
}

// statusError reads the error that a server sent along with a status.
func statusError(server string, resp *http.Response, body []byte) *Error {
	e := &Error{Server: server, Kind: KindStatus, Code: resp.StatusCode, RetryAfter: retryAfter(resp.Header)}
	if !gjson.ValidBytes(body) {
		return e
	}
	doc := gjson.ParseBytes(body)
	code := doc.Get("errcode")
	if code.Type != gjson.String || len(code.Str) > 255 || code.Str == "" {
		return e
	}
	e.Matrix = matrixerr.New(resp.StatusCode, code.Str, clip(doc.Get("error").String(), 1000))
	if v := doc.Get("room_version"); v.Type == gjson.String {
		e.Matrix = e.Matrix.WithField("room_version", clip(v.Str, 255))
	}
	if ms := doc.Get("retry_after_ms").Int(); ms > 0 && e.RetryAfter == 0 {
		e.RetryAfter = min(time.Duration(ms)*time.Millisecond, maxRetryAfter)
	}
	return e
}

const maxRetryAfter = time.Hour

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.ParseUint(strings.TrimSpace(h.Get("Retry-After")), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(s)*time.Second, maxRetryAfter)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// unsupported tells whether a server does not know the endpoint that was called. A plain 400 counts, too: some say that
// in place of a Matrix error.
func unsupported(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Kind != KindStatus {
		return false
	}
	if e.Matrix != nil {
		return e.Matrix.Code == "M_UNRECOGNIZED"
	}
	return e.Code == http.StatusNotFound || e.Code == http.StatusMethodNotAllowed || e.Code == http.StatusBadRequest
}
