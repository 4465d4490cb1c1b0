package sso

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"

	"knock/internal/matrixerr"
)

// Bounds of the calls to a provider.
const (
	callTimeout = 10 * time.Second
	maxAnswer   = 1 << 20
	fresh       = time.Hour       // how long a discovery document is believed
	pause       = 5 * time.Second // after a failed discovery
	maxCause    = 500             // of what a provider says to its failure, in the log
)

// bounded is a client whose calls take a while and whose answers are of a size that a provider's can be.
func bounded(web *http.Client) *http.Client {
	c := *web
	c.Timeout = callTimeout
	c.Transport = shortAnswers{web.Transport}
	return &c
}

// shortAnswers cuts answers off with an error, so that nobody takes half of one for the whole.
type shortAnswers struct{ next http.RoundTripper }

func (s shortAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	next := s.next
	if next == nil {
		next = http.DefaultTransport
	}
	resp, err := next.RoundTrip(r)
	if err == nil {
		resp.Body = &shortBody{resp.Body, maxAnswer}
	}
	return resp, err
}

type shortBody struct {
	io.ReadCloser
	left int
}

var errTooLong = errors.New("the answer is longer than 1 MiB")

func (b *shortBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left+1)])
	if b.left -= n; b.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// remote is a provider and what it said of itself.
type remote struct {
	Provider
	web      *http.Client
	callback string
	now      func() time.Time
	asking   singleflight.Group

	mu     sync.Mutex
	known  *known
	failed time.Time // of the last discovery
	why    error
}

// known is what a discovery document says.
type known struct {
	provider *oidc.Provider
	verifier *oidc.IDTokenVerifier
	oauth    oauth2.Config
	prompts  []string
	at       time.Time
}

func newRemote(p Provider, web *http.Client, callback string, now func() time.Time) *remote {
	return &remote{Provider: p, web: web, callback: callback, now: now}
}

// discover is what the provider says of itself, not older than an hour if it can be reached. Several who ask at once share
// one call. Errors are for people.
func (r *remote) discover(ctx context.Context) (*known, error) {
	if k, err := r.remembered(); k != nil || err != nil {
		return k, err
	}
	done := r.asking.DoChan("", func() (any, error) { return r.ask() })
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case got := <-done:
		if got.Err != nil {
			return nil, r.unreachable(got.Err)
		}
		return got.Val.(*known), nil
	}
}

func (r *remote) remembered() (*known, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	switch {
	case r.known != nil && now.Sub(r.known.at) < fresh:
		return r.known, nil
	case r.failed.IsZero() || now.Sub(r.failed) >= pause:
		return nil, nil
	case r.known != nil:
		return r.known, nil
	}
	return nil, r.unreachable(r.why)
}

// ask fetches the discovery document. When that fails, an old one is good enough.
func (r *remote) ask() (*known, error) {
	k, err := r.fetch()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.known, r.failed = k, time.Time{}
		return k, nil
	}
	if r.failed, r.why = r.now(), err; r.known != nil {
		return r.known, nil
	}
	return nil, err
}

func (r *remote) fetch() (*known, error) {
	ctx, cancel := context.WithTimeout(oidc.ClientContext(context.Background(), r.web), callTimeout)
	defer cancel()
	p, err := oidc.NewProvider(ctx, r.Issuer)
	if err != nil {
		return nil, err
	}
	var more struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
		Prompts []string `json:"prompt_values_supported"`
		Keys    string   `json:"jwks_uri"`
	}
	if err := p.Claims(&more); err != nil {
		return nil, err
	}
	end := p.Endpoint()
	for _, address := range []string{end.AuthURL, end.TokenURL, more.Keys} {
		if u, err := url.Parse(address); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("the discovery document has %q for an endpoint", address)
		}
	}
	end.AuthStyle = authStyle(r.ClientSecret, more.Methods)
	return &known{provider: p, prompts: more.Prompts, at: r.now(),
		verifier: p.Verifier(&oidc.Config{ClientID: r.ClientID, Now: r.now}),
		oauth: oauth2.Config{ClientID: r.ClientID, ClientSecret: r.ClientSecret, Endpoint: end, RedirectURL: r.callback,
			Scopes: append([]string{oidc.ScopeOpenID}, r.Scopes...)}}, nil
}

// authStyle is how the provider wants to see the client's secret: in a header, unless it only takes forms.
func authStyle(secret string, methods []string) oauth2.AuthStyle {
	switch {
	case secret == "":
		return oauth2.AuthStyleInParams
	case len(methods) == 0 || slices.Contains(methods, "client_secret_basic") || !slices.Contains(methods, "client_secret_post"):
		return oauth2.AuthStyleInHeader
	}
	return oauth2.AuthStyleInParams
}

// unreachable tells a person that it is the provider's turn.
func (r *remote) unreachable(cause error) error {
	return matrixerr.Unknown(http.StatusBadGateway, r.Name+" cannot be reached or does not answer as it should. Try again in a few minutes; "+
		"if it stays so, tell the administrator of this server").With(short(cause))
}

// short keeps what a provider said to a length that a log can have.
func short(err error) error {
	if text := err.Error(); len(text) > maxCause {
		return errors.New(text[:maxCause] + "…")
	}
	return err
}
