package client

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"
	"golang.org/x/sync/singleflight"

	"knock/internal/cache"
	"knock/internal/clock"
)

const (
	wellKnownTimeout = 10 * time.Second
	wellKnownBody    = 50 << 10
	wellKnownHops    = 5
	wellKnownDefault = 24 * time.Hour
	wellKnownMin     = 5 * time.Minute
	wellKnownMax     = 48 * time.Hour
	wellKnownRetry   = time.Minute // after the first failure, doubled with each one more
	wellKnownError   = time.Hour   // at most
)

// wellKnown asks hosts where they delegated their Matrix server to, and remembers answers and failures.
type wellKnown struct {
	clock  clock.Clock
	http   *http.Client
	agent  string
	flight singleflight.Group
	cache  *cache.Cache[string, delegation]
}

// delegation is what is known about one host.
type delegation struct {
	to       serverName
	ok       bool      // to is valid
	fetched  time.Time // when to was learnt
	expires  time.Time // when to ask again
	failures int       // since the last success
}

func newWellKnown(o Options, web http.RoundTripper) *wellKnown {
	return &wellKnown{
		clock: o.Clock,
		agent: o.UserAgent,
		http:  &http.Client{Transport: web, Timeout: wellKnownTimeout, CheckRedirect: followHTTPS(wellKnownHops)},
		cache: cache.New(cache.Options[string, delegation]{Name: "federation_well_known", Entries: 4096, Registerer: o.Registerer}),
	}
}

// followHTTPS allows a few redirects that stay on HTTPS. Each hop goes through the guarded dialer again.
func followHTTPS(hops int) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		switch {
		case len(via) > hops:
			return badBody("more than %d redirects", hops)
		case req.URL.Scheme != "https":
			return badBody("a redirect leaves HTTPS")
		}
		req.Header.Del("Referer")
		return nil
	}
}

// get returns the name that host delegated to and for how long that holds.
func (w *wellKnown) get(ctx context.Context, host string) (serverName, time.Duration, bool) {
	d, ok := w.cache.Get(host)
	if !ok || !w.clock().Before(d.expires) {
		d = w.refresh(ctx, host, d)
	}
	return d.to, d.expires.Sub(w.clock()), d.ok
}

// doubt lets the next get ask again, unless the answer is fresh.
func (w *wellKnown) doubt(host string) {
	d, ok := w.cache.Get(host)
	if now := w.clock(); ok && d.ok && now.Sub(d.fetched) > wellKnownMin && now.Before(d.expires) {
		d.expires = now
		w.cache.Put(host, d)
	}
}

// refresh asks the host once for all who wait. A delegation that was valid outlives failures for a while.
func (w *wellKnown) refresh(ctx context.Context, host string, old delegation) delegation {
	result := w.flight.DoChan(host, func() (any, error) {
		d := w.next(host, old)
		w.cache.Put(host, d)
		return d, nil
	})
	select {
	case r := <-result:
		return r.Val.(delegation)
	case <-ctx.Done():
		return old
	}
}

func (w *wellKnown) next(host string, old delegation) delegation {
	to, ttl, err := w.fetch(host)
	now := w.clock()
	if err == nil {
		return delegation{to: to, ok: true, fetched: now, expires: now.Add(ttl)}
	}
	old.failures++
	old.ok = old.ok && now.Sub(old.fetched) < wellKnownMax
	old.expires = now.Add(min(wellKnownRetry<<min(old.failures-1, 10), wellKnownError))
	return old
}

// fetch makes the request. It has its own time: whoever asked first may leave.
func (w *wellKnown) fetch(host string) (to serverName, ttl time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), wellKnownTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/matrix/server", nil)
	if err != nil {
		return to, 0, err
	}
	req.Header.Set("User-Agent", w.agent)
	resp, err := w.http.Do(req)
	if err != nil {
		return to, 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return to, 0, badBody("status %d", resp.StatusCode)
	}
	body, err := readAll(resp.Body, wellKnownBody)
	if err != nil {
		return to, 0, err
	}
	to, err = parseDelegation(body)
	return to, lifetime(resp.Header, w.clock()), err
}

func parseDelegation(body []byte) (serverName, error) {
	if !gjson.ValidBytes(body) {
		return serverName{}, badBody("not JSON")
	}
	v := gjson.GetBytes(body, `m\.server`)
	if v.Type != gjson.String {
		return serverName{}, badBody("m.server is missing")
	}
	return parseServerName(v.Str)
}

// lifetime is how long an answer may be kept by its own headers, within our bounds.
func lifetime(h http.Header, now time.Time) time.Duration {
	ttl := wellKnownDefault
	if expires, err := http.ParseTime(h.Get("Expires")); err == nil {
		ttl = expires.Sub(now)
	}
	for directive := range strings.SplitSeq(h.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(directive)), "=")
		switch name {
		case "no-store", "no-cache":
			return wellKnownMin
		case "max-age":
			if s, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				ttl = time.Duration(s) * time.Second
			}
		}
	}
	return min(max(ttl, wellKnownMin), wellKnownMax)
}

// readAll reads at most limit bytes; more is errTooLarge.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, errTooLarge
	}
	return b, err
}

// tlsConfig is the configuration for one name that a certificate must be valid for.
func (c *Client) tlsConfig(name string) *tls.Config {
	return &tls.Config{
		ServerName:         name,
		RootCAs:            c.o.RootCAs,
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1"},
		ClientSessionCache: c.dests.sessions,
	}
}
