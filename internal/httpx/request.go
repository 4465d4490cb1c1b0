package httpx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"unicode/utf8"

	"knock/internal/matrixerr"
)

// Request is a request on its way through one handler, on one goroutine.
type Request struct {
	*http.Request
	// Vars are the variables of the route's path, unescaped. They are valid UTF-8.
	Vars   map[string]string
	Caller Caller

	route    *Route
	clientIP string
	query    url.Values
	body     []byte
	bodyErr  error
	bodyRead bool
}

// NewRequest wraps r for tests of handlers and hooks that run without a router.
func NewRequest(r *http.Request, vars map[string]string, caller Caller) *Request {
	return &Request{Request: r, Vars: vars, Caller: caller, route: &Route{}, clientIP: peerIP(r)}
}

// Route is the row of the route table that matched.
func (r *Request) Route() Route { return *r.route }

// ClientIP is the caller's address: the peer's, or the one that a listed proxy named.
func (r *Request) ClientIP() string { return r.clientIP }

// MaxBody is the most bytes that Bytes reads.
func (r *Request) MaxBody() int64 {
	if limit := r.route.maxBody(); limit >= 0 {
		return limit
	}
	return DefaultMaxBody
}

// Query is the first value of a query parameter, "" when absent.
func (r *Request) Query(name string) string { return r.QueryAll().Get(name) }

// QueryAll is the parsed query.
func (r *Request) QueryAll() url.Values {
	if r.query == nil {
		r.query = r.URL.Query()
	}
	return r.query
}

// Int is a query parameter as a number from 0 to max (larger ones are cut to max), def when absent.
func (r *Request) Int(name string, def, max int) (int, error) {
	s := r.Query(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0, matrixerr.InvalidParam(fmt.Sprintf("Query parameter %s must be a whole number of at least 0", name))
	}
	return min(n, max), nil
}

// Bytes reads the whole body once, within the route's limit; later calls return the same bytes.
func (r *Request) Bytes() ([]byte, error) {
	if !r.bodyRead {
		r.bodyRead = true
		r.body, r.bodyErr = r.readBody()
	}
	return r.body, r.bodyErr
}

func (r *Request) readBody() ([]byte, error) {
	if r.Request.Body == nil {
		return nil, nil
	}
	limit := r.MaxBody()
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(r.Request.Body, limit+1))
	if n > limit {
		return nil, tooLarge(limit)
	}
	if err != nil {
		return nil, readError(err)
	}
	return buf.Bytes(), nil
}

func tooLarge(limit int64) *matrixerr.Error {
	return matrixerr.TooLarge(fmt.Sprintf("The request body may have at most %d bytes", limit))
}

func readError(err error) error {
	var big *http.MaxBytesError
	if errors.As(err, &big) {
		return tooLarge(big.Limit).With(err)
	}
	return matrixerr.Unknown(http.StatusBadRequest, "The request body could not be read to its end").With(err)
}

// JSON decodes the body, a JSON object, into v. Errors: NotJSON, BadJSON (not an object, a member of the wrong
// type), TooLarge.
func (r *Request) JSON(v any) error {
	body, err := r.ObjectBytes()
	if err != nil {
		return err
	}
	return Unmarshal(body, v)
}

// ObjectBytes is the body, checked to be one JSON object in UTF-8, for handlers that keep it as it is.
func (r *Request) ObjectBytes() (json.RawMessage, error) {
	body, err := r.Bytes()
	if err != nil {
		return nil, err
	}
	body = bytes.TrimLeft(body, " \t\r\n")
	switch {
	case len(body) == 0 && r.route.OptionalBody:
		return json.RawMessage("{}"), nil
	case len(body) == 0:
		return nil, matrixerr.NotJSON("The request needs a JSON object as its body")
	case !utf8.Valid(body):
		return nil, matrixerr.NotJSON("The request body is not UTF-8")
	case !json.Valid(body):
		return nil, matrixerr.NotJSON("The request body is not valid JSON")
	case body[0] != '{':
		return nil, matrixerr.BadJSON("The request body must be a JSON object")
	}
	return json.RawMessage(body), nil
}

// Unmarshal is json.Unmarshal with the errors of the specification.
func Unmarshal(data []byte, v any) error {
	err := json.Unmarshal(data, v)
	var wrongType *json.UnmarshalTypeError
	var known *matrixerr.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return matrixerr.BadJSON(fmt.Sprintf("%q must not be a %s", wrongType.Field, wrongType.Value)).With(err)
	}
	return matrixerr.BadJSON("The request body does not have the expected shape").With(err)
}
