package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"
)

// GuardedClient makes HTTP requests to addresses that users can choose, such as push gateways: it connects to no
// private, local or reserved address outside allow, uses plain HTTP inside allow only, and follows no redirects. lookup
// and roots may be nil: the machine's resolver and root certificates.
func GuardedClient(allow []netip.Prefix, lookup Lookup, roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport: byScheme{
			secure: guardedTransport(guard{allow: allow}, lookup, roots),
			plain:  guardedTransport(guard{allow: allow, only: true}, lookup, nil),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// WebTransport makes requests to pages of the web: as GuardedClient's, but over plain HTTP to all public addresses too,
// since nothing of ours is told there.
func WebTransport(allow []netip.Prefix, lookup Lookup, roots *x509.CertPool) http.RoundTripper {
	return guardedTransport(guard{allow: allow}, lookup, roots)
}

func guardedTransport(g guard, lookup Lookup, roots *x509.CertPool) *http.Transport {
	o := Options{Lookup: lookup}
	setDefaults(&o)
	d := &dialer{lookup: o.Lookup, guard: g, timeout: dialTimeout, dial: dialAddress}
	return &http.Transport{
		DialContext:            d.dialHost,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        time.Minute,
		MaxResponseHeaderBytes: maxHeader,
	}
}

// byScheme has one guard for https and another for http.
type byScheme struct{ secure, plain *http.Transport }

func (b byScheme) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "https" {
		return b.secure.RoundTrip(r)
	}
	return b.plain.RoundTrip(r)
}

// CloseIdleConnections is what http.Client calls.
func (b byScheme) CloseIdleConnections() {
	b.secure.CloseIdleConnections()
	b.plain.CloseIdleConnections()
}
