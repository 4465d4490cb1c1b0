// Package matrixerr owns the error vocabulary of Knock: the codes of the Matrix specification, the HTTP status
// that goes with each, and the one mapping from any Go error to what a client is told.
package matrixerr

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Error is what a person or program outside gets to read when a request fails. Msg says what to do next; Cause
// is for the log alone and never leaves the node.
type Error struct {
	Code       string         // "M_FORBIDDEN", …
	HTTP       int            // status of the response
	Msg        string         // for people, one sentence
	RetryAfter time.Duration  // above zero: sent as Retry-After and retry_after_ms
	Fields     map[string]any // further members of the JSON object, such as soft_logout
	Cause      error          // what really happened, for the log
}

// New makes an error with a code of the specification.
func New(status int, code, msg string) *Error {
	return &Error{HTTP: status, Code: code, Msg: msg}
}

// Error is the text for the log: code, message and the chain of causes.
func (e *Error) Error() string {
	s := e.Code + ": " + e.Msg
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap gives the cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is this error, its cause left aside, so that errors.Is finds a sentinel in its copies.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.HTTP == e.HTTP && t.Msg == e.Msg
}

// With returns a copy that carries cause for the log.
func (e *Error) With(cause error) *Error {
	c := *e
	c.Cause = cause
	return &c
}

// WithField returns a copy with one more member in its JSON object.
func (e *Error) WithField(name string, value any) *Error {
	c := *e
	c.Fields = make(map[string]any, len(e.Fields)+1)
	for k, v := range e.Fields {
		c.Fields[k] = v
	}
	c.Fields[name] = value
	return &c
}

// MarshalJSON is the standard error response (Client-Server API, "Standard error response").
func (e *Error) MarshalJSON() ([]byte, error) {
	body := make(map[string]any, len(e.Fields)+3)
	for k, v := range e.Fields {
		body[k] = v
	}
	body["errcode"], body["error"] = e.Code, e.Msg
	if e.RetryAfter > 0 {
		body["retry_after_ms"] = e.RetryAfter.Milliseconds()
	}
	return json.Marshal(body)
}

// From turns any error into one that can be answered. A *Error anywhere in the chain is kept (with err as its
// cause when err says more); everything unknown is an internal error.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if error(e) == err {
			return e
		}
		return e.With(err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return New(http.StatusGatewayTimeout, "M_UNKNOWN", "The server took too long; try again").With(err)
	}
	return Internal(err)
}
