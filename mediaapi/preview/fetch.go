// Package preview owns reading pages of the web for what they say about themselves: fetching them within bounds, the
// properties of the Open Graph protocol in their HTML, and what stands in for those that a page lacks. It stores
// nothing.
//
// Specification: Client-Server API "Content repository", GET …/media/preview_url; https://ogp.me.
package preview

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

var (
	// ErrURL says that something is not the address of a web page.
	ErrURL = errors.New("not the address of a web page")
	// ErrDenied says that a page, or one that it leads to, may not be fetched.
	ErrDenied = errors.New("pages of this address are not fetched")
)

// StatusError is an answer that is not the page.
type StatusError struct{ Status int }

func (e *StatusError) Error() string { return "answered with status " + strconv.Itoa(e.Status) }

// Options configure a Fetcher.
type Options struct {
	// Transport makes the requests. It must refuse the addresses that users shall not reach through this server.
	Transport http.RoundTripper
	// Allowed says whether a host ("example.org", "[2001:db8::1]:8080": the port where it is not the usual one) may be
	// asked, redirects and images too; nil: all.
	Allowed   func(host string) bool
	UserAgent string
	Languages []string // preferred first, as in Accept-Language; none: the page's own
}

// Fetcher gets pages and images. It is safe for concurrent use.
type Fetcher struct {
	o    Options
	http *http.Client
}

// New makes a Fetcher.
func New(o Options) *Fetcher {
	f := &Fetcher{o: o}
	f.http = &http.Client{Transport: o.Transport, CheckRedirect: f.redirect}
	return f
}

const (
	maxURL       = 2048
	maxRedirects = 5
	lastReserved = 1023 // ports up to this one are other services', but for the web's own two
)

// Parse reads the address of a page: absolute, http or https, at most 2,048 bytes, without a password. It comes back
// in one form for all ways to write it: host in lower-case ASCII, no default port, no fragment. The error is ErrURL.
func Parse(raw string) (*url.URL, error) {
	if len(raw) > maxURL {
		return nil, ErrURL
	}
	u, err := url.Parse(strings.TrimSpace(raw))
	if err != nil {
		return nil, ErrURL
	}
	if u, err = clean(u); err != nil || len(u.String()) > maxURL {
		return nil, ErrURL
	}
	return u, nil
}

// clean is Parse for what is parsed.
func clean(u *url.URL) (*url.URL, error) {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if scheme != "http" && scheme != "https" || u.User != nil || u.Opaque != "" {
		return nil, ErrURL
	}
	host, err := asciiHost(u.Hostname())
	if err != nil || host == "" {
		return nil, ErrURL
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil && port != "" {
		return nil, ErrURL
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port != "" && port != map[string]string{"http": "80", "https": "443"}[scheme] {
		host += ":" + port
	}
	out := *u
	out.Scheme, out.Host, out.Fragment, out.RawFragment = scheme, host, "", ""
	if out.Path == "" {
		out.Path = "/"
	}
	return &out, nil
}

// asciiHost is a host as it is looked up. A dot at the end, which other scripts write otherwise, says nothing here but
// would get past patterns.
func asciiHost(host string) (string, error) {
	host = strings.ToLower(host)
	if strings.ContainsFunc(host, func(r rune) bool { return r >= utf8.RuneSelf }) {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return "", err
		}
		host = ascii
	}
	return strings.TrimRight(host, "."), nil
}

// check says whether an address may be asked. The transport looks at where its host really is.
func (f *Fetcher) check(u *url.URL) error {
	if n, err := strconv.Atoi(u.Port()); err == nil && n <= lastReserved && n != 80 && n != 443 {
		return ErrDenied
	}
	if f.o.Allowed != nil && !f.o.Allowed(u.Host) {
		return ErrDenied
	}
	return nil
}

// redirect looks at each step of the way to a page.
func (f *Fetcher) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	u, err := clean(req.URL)
	if err != nil {
		return err
	}
	req.URL = u
	req.Header.Del("Referer")
	return f.check(u)
}

// Answer is what an address gives. Close it.
type Answer struct {
	URL         *url.URL // where it was found, after redirects
	ContentType string   // as sent, or by its first bytes when nothing was
	Body        io.Reader
	io.Closer
}

// MediaType is the content type without its parameters, "" when it is nonsense.
func (a *Answer) MediaType() string {
	t, _, err := mime.ParseMediaType(a.ContentType)
	if err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return ""
	}
	return t
}

// Get asks for a page or an image, until ctx ends. Errors are ErrURL, ErrDenied, *StatusError, and others when it could
// not be reached. The body is as long as its sender likes.
func (f *Fetcher) Get(ctx context.Context, u *url.URL) (*Answer, error) {
	u, err := clean(u)
	if err != nil {
		return nil, err
	}
	if err := f.check(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, ErrURL
	}
	req.Header.Set("Accept", "text/html,application/xhtml+xml,image/*;q=0.9,*/*;q=0.1")
	req.Header.Set("User-Agent", f.o.UserAgent)
	if len(f.o.Languages) > 0 {
		req.Header.Set("Accept-Language", strings.Join(f.o.Languages, ", "))
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		_ = resp.Body.Close()
		return nil, &StatusError{resp.StatusCode}
	}
	return answer(resp), nil
}

func answer(resp *http.Response) *Answer {
	a := &Answer{URL: resp.Request.URL, ContentType: resp.Header.Get("Content-Type"), Body: resp.Body, Closer: resp.Body}
	if a.ContentType == "" {
		b := bufio.NewReader(resp.Body)
		head, _ := b.Peek(512) // what fails here fails again where it is read
		a.ContentType, a.Body = http.DetectContentType(head), b
	}
	return a
}
