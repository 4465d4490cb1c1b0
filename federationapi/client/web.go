package client

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/netip"
	"time"
)

// GuardedClient makes HTTP requests to addresses that users can choose, such as push gateways: it connects to no
// private, local or reserved address outside allow, and follows no redirects. lookup and roots may be nil: the machine's
// resolver and root certificates.
func GuardedClient(allow []netip.Prefix, lookup Lookup, roots *x509.CertPool) *http.Client {
	o := Options{Lookup: lookup}
	setDefaults(&o)
	d := &dialer{lookup: o.Lookup, guard: guard{allow: allow}, timeout: dialTimeout, dial: dialAddress}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            d.dialHost,
			TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:    dialTimeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           256,
			MaxIdleConnsPerHost:    16,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxHeader,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
