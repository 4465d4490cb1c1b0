package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"knock/roomserver/event"
)

const (
	errorLimit   = 64 << 10 // of the body of an error
	defaultLimit = 1 << 20  // of an ordinary answer
	eventsLimit  = 64 << 20 // of an answer with events
)

// call is one request.
type call struct {
	name     string // of the endpoint, for metrics
	method   string // "" is GET
	path     string // escaped, with the query
	content  any    // JSON body: nil, raw JSON or what json.Marshal takes
	limit    int64  // of the answer, after decompression; 0 is defaultLimit
	timeout  time.Duration
	total    time.Duration // of the whole answer; 0 is twice the timeout
	hurry    bool          // a person waits: tried even shortly after a failure
	unsigned bool
	keys     bool // asks for keys: made to servers, too, that are not spoken to
	strict   bool // any 5xx counts as the server's failure, not only one without a Matrix error
}

// path builds an escaped path from segments; those at odd positions come from outside.
func path(segments ...string) string {
	for i := 1; i < len(segments); i += 2 {
		segments[i] = url.PathEscape(segments[i])
	}
	return strings.Join(segments, "")
}

// get makes the call and decodes its answer into out.
func (c *Client) get(ctx context.Context, server string, k call, out any) error {
	body, err := c.bytes(ctx, server, k)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Error{Server: server, Kind: KindBadBody, Cause: err}
	}
	return nil
}

// bytes makes the call and returns its whole answer.
func (c *Client) bytes(ctx context.Context, server string, k call) ([]byte, error) {
	resp, err := c.do(ctx, server, k)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fail(ctx, server, err)
	}
	return b, nil
}

// do makes the call. The body of the answer is bounded in size and time and must be closed.
func (c *Client) do(ctx context.Context, server string, k call) (*http.Response, error) {
	began := time.Now()
	resp, err := c.attempt(ctx, server, k)
	if err == nil {
		c.metrics.done(k.name, "ok", began)
		return resp, nil
	}
	e := fail(ctx, server, err)
	c.metrics.done(k.name, string(e.Kind), began)
	c.o.Log.WithError(e).WithFields(logrus.Fields{"server": server, "call": k.name}).Debug("A call to another server failed")
	return nil, e
}

func (c *Client) attempt(ctx context.Context, server string, k call) (*http.Response, error) {
	if !k.keys && !c.o.Speaks(server) {
		return nil, errDenied
	}
	d, err := c.dests.get(server)
	if err != nil {
		return nil, err
	}
	if wait := d.health.wait(k.hurry); wait > 0 {
		return nil, &Error{Server: server, Kind: KindBackoff, RetryAfter: wait}
	}
	content, err := encode(k.content)
	if err != nil {
		return nil, &Error{Server: server, Kind: KindUnsent, Cause: err}
	}
	if err := d.acquire(ctx); err != nil {
		return nil, err
	}
	x := newExchange(ctx, d, k, c.o.Timeout)
	resp, err := x.run(content)
	if err != nil {
		x.close()
		return nil, err
	}
	return resp, nil
}

// encode makes the body: canonical JSON, so that what is sent is what is signed.
func encode(content any) ([]byte, error) {
	if content == nil {
		return nil, nil
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	return event.CanonicalLoose(nil, raw) // with a key twice, from a client, it must not stay in a queue for ever
}

// exchange is one request under way, until its answer's body is closed.
type exchange struct {
	d      *destination
	k      call
	ctx    context.Context
	cancel context.CancelFunc
	timer  *time.Timer // ends ctx unless something arrives
	step   time.Duration
	body   io.ReadCloser
	left   int64
	closed bool
}

func newExchange(ctx context.Context, d *destination, k call, timeout time.Duration) *exchange {
	x := &exchange{d: d, k: k, step: timeout, left: defaultLimit}
	if k.timeout > 0 {
		x.step = k.timeout
	}
	if k.limit > 0 {
		x.left = k.limit
	}
	total := 2 * x.step
	if k.total > 0 {
		total = k.total
	}
	ctx, stop := context.WithTimeoutCause(ctx, total, errTimeout)
	ctx, cancel := context.WithCancelCause(ctx)
	x.ctx, x.cancel = ctx, func() { cancel(nil); stop() }
	x.timer = time.AfterFunc(x.step, func() { cancel(errTimeout) })
	return x
}

// run sends the request and judges the answer's status.
func (x *exchange) run(content []byte) (*http.Response, error) {
	started := x.d.c.o.Clock()
	resp, err := x.roundTrip(content)
	if err != nil {
		x.failed(started, err)
		return nil, err
	}
	x.body = resp.Body
	if resp.StatusCode/100 == 2 {
		x.d.health.alive()
		x.d.c.o.Answered(x.d.name)
		resp.Body = x
		return resp, nil
	}
	x.left = errorLimit
	body, _ := io.ReadAll(x) // whatever could be read: the status says enough
	e := statusError(x.d.name, resp, body)
	e.call = x.k.name
	x.judge(started, e)
	return nil, e
}

func (x *exchange) roundTrip(content []byte) (*http.Response, error) {
	t, err := x.d.locate(x.ctx)
	if err != nil {
		return nil, x.cause(err)
	}
	req, err := x.request(t, content)
	if err != nil {
		return nil, err
	}
	resp, err := x.d.http.RoundTrip(req)
	if err != nil {
		return nil, x.cause(err)
	}
	return resp, nil
}

// request builds the HTTP request. The transport belongs to the destination, so the URL's host only names it.
func (x *exchange) request(t *target, content []byte) (*http.Request, error) {
	method := x.k.method
	if method == "" {
		method = http.MethodGet
	}
	var body io.Reader
	if content != nil {
		body = bytes.NewReader(content)
	}
	req, err := http.NewRequestWithContext(x.ctx, method, "https://"+x.d.name+x.k.path, body)
	if err != nil {
		return nil, err
	}
	req.Host = t.host
	req.Header.Set("User-Agent", x.d.c.o.UserAgent)
	req.Header.Set("Accept", "application/json, */*")
	req.Header["X-Idempotency-Key"] = []string{} // not sent: lets the transport repeat it on a fresh connection
	if content != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if !x.k.unsigned {
		req.Header.Set("Authorization", x.d.c.authorization(method, req.URL.RequestURI(), x.d.name, content))
	}
	return req, nil
}

// Sign makes a request's body and its Authorization header for others than this client, which cannot reach all that
// understand the signature.
func Sign(signer event.Signer, method, uri, destination string, content any) (body []byte, authorization string, err error) {
	body, err = encode(content)
	return body, sign(signer, method, uri, destination, body), err
}

func (c *Client) authorization(method, uri, destination string, content []byte) string {
	return sign(c.o.Signer, method, uri, destination, content)
}

// sign signs a request (Server-Server API, Request Authentication). content is canonical JSON or nil.
func sign(signer event.Signer, method, uri, destination string, content []byte) string {
	b := []byte{'{'}
	if content != nil {
		b = append(append(append(b, `"content":`...), content...), ',')
	}
	b = event.AppendString(append(b, `"destination":`...), destination)
	b = event.AppendString(append(b, `,"method":`...), method)
	b = event.AppendString(append(b, `,"origin":`...), signer.Server)
	b = event.AppendString(append(b, `,"uri":`...), uri)
	b = append(b, '}')
	sig := base64.RawStdEncoding.EncodeToString(ed25519.Sign(signer.Key, b))
	return `X-Matrix origin="` + signer.Server + `",destination="` + destination + `",key="` + signer.KeyID + `",sig="` + sig + `"`
}

// cause prefers the reason why the context ended to the error that this led to.
func (x *exchange) cause(err error) error {
	if cause := context.Cause(x.ctx); cause != nil {
		return cause
	}
	return err
}

// failed notes that there was no answer, unless that was the caller's doing.
func (x *exchange) failed(started time.Time, err error) {
	if x.ctx.Err() != nil && !errors.Is(err, errTimeout) || errors.Is(err, errBadName) {
		return
	}
	x.d.c.resolve.forget(x.d.name)
	x.d.health.fail(started, 0)
}

// judge says what an HTTP error means for the server's health. A Matrix error comes from a server that works.
func (x *exchange) judge(started time.Time, e *Error) {
	switch {
	case e.Code == http.StatusTooManyRequests:
		if e.RetryAfter > 0 {
			x.d.health.fail(started, e.RetryAfter)
		}
	case e.Code >= 500 && (e.Matrix == nil || x.k.strict):
		x.d.health.fail(started, e.RetryAfter)
	default:
		x.d.health.alive()
	}
}

// Read reads the answer's body; it ends with errTooLarge or errTimeout when the server exceeds its bounds.
func (x *exchange) Read(p []byte) (int, error) {
	if x.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > x.left+1 {
		p = p[:x.left+1]
	}
	n, err := x.body.Read(p)
	if n > 0 {
		x.timer.Reset(x.step)
	}
	if x.left -= int64(n); x.left < 0 {
		return n + int(x.left), errTooLarge
	}
	if err != nil && err != io.EOF {
		err = x.cause(err)
	}
	return n, err
}

// Close ends the exchange and gives its slot back.
func (x *exchange) Close() error {
	x.close()
	return nil
}

func (x *exchange) close() {
	if x.closed {
		return
	}
	x.closed = true
	x.timer.Stop()
	if x.body != nil {
		_ = x.body.Close()
	}
	x.cancel()
	x.d.release()
}
