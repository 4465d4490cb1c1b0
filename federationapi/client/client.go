// Package client owns everything that leaves this node for other Matrix servers: finding a server by its name,
// connections that never reach a private network by accident, signed requests with bounded answers, the typed calls
// of the Server-Server API, and what is known about the health of each destination.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/roomserver/event"
)

// Options configure a Client.
type Options struct {
	ServerName string       // our own name: the origin of every request
	Signer     event.Signer // signs requests

	// AllowNetworks are the exceptions from the refusal of private, local and reserved addresses.
	AllowNetworks []netip.Prefix
	// RootCAs verify the certificates of other servers; nil is the machine's pool.
	RootCAs *x509.CertPool
	// Lookup finds addresses and services; nil is the machine's resolver.
	Lookup Lookup
	// Speaks tells the servers that are spoken to; nil is all. The others are only asked for keys: rooms may have events of theirs.
	Speaks func(server string) bool
	// Partners tells the servers that are never left alone for longer than a few minutes; nil is none.
	Partners func(server string) bool
	// Answered hears of each call that succeeded; it must not block. nil: nobody.
	Answered func(server string)

	UserAgent      string        // "" is "Knock"
	Timeout        time.Duration // of one ordinary call; 0 is 30 s
	PerDestination int           // calls at once to one server; 0 is 16
	// Silence is how long a connection may carry nothing before the other side is asked for a sign of life, and how long
	// that may take before it counts as broken, though nobody ended it; 0 is 15 s. HTTP/2 only.
	Silence time.Duration

	Clock      clock.Clock           // nil is the machine's
	Log        *logrus.Entry         // nil is silent
	Registerer prometheus.Registerer // nil: no metrics
}

// Client talks to other servers. It is safe for concurrent use.
type Client struct {
	o       Options
	dialer  *dialer
	resolve *resolver
	web     *http.Transport // well-known and media redirects: ordinary HTTPS, guarded
	dests   *destinations
	metrics *metrics
}

// New makes a Client. It starts nothing and connects to nothing.
func New(o Options) *Client {
	setDefaults(&o)
	c := &Client{o: o, metrics: newMetrics(o.Registerer)}
	c.dialer = &dialer{lookup: o.Lookup, guard: guard{allow: o.AllowNetworks}, timeout: dialTimeout, dial: dialAddress}
	c.web = &http.Transport{
		DialContext:            c.dialer.dialHost,
		TLSClientConfig:        &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           32,
		IdleConnTimeout:        10 * time.Second,
		MaxResponseHeaderBytes: maxHeader,
	}
	c.resolve = newResolver(o, c.web)
	c.dests = newDestinations(c)
	return c
}

func setDefaults(o *Options) {
	if o.Lookup == nil {
		o.Lookup = net.DefaultResolver
	}
	if o.Speaks == nil {
		o.Speaks = func(string) bool { return true }
	}
	if o.Partners == nil {
		o.Partners = func(string) bool { return false }
	}
	if o.Answered == nil {
		o.Answered = func(string) {}
	}
	if o.UserAgent == "" {
		o.UserAgent = "Knock"
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.PerDestination <= 0 {
		o.PerDestination = 16
	}
	if o.Silence <= 0 {
		o.Silence = 15 * time.Second
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		l := logrus.New()
		l.SetLevel(logrus.PanicLevel)
		o.Log = logrus.NewEntry(l)
	}
}

// Close closes idle connections. Calls under way go on.
func (c *Client) Close() {
	c.web.CloseIdleConnections()
	c.dests.closeIdle()
}

// Lookup is the part of *net.Resolver that finding servers needs. Names replaces it in tests and demonstrations.
type Lookup interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Names is a Lookup with fixed answers. What it does not list is asked of Next, or not found when Next is nil.
type Names struct {
	Addrs    map[string][]netip.Addr // by host name
	Services map[string][]*net.SRV   // by "_service._proto.name"
	Next     Lookup
}

// LookupNetIP implements Lookup.
func (n Names) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if addrs, ok := n.Addrs[host]; ok {
		return addrs, nil
	}
	if n.Next != nil {
		return n.Next.LookupNetIP(ctx, network, host)
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// LookupSRV implements Lookup. A host listed in Addrs has only the services listed here.
func (n Names) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	full := "_" + service + "._" + proto + "." + name
	if records, ok := n.Services[full]; ok {
		return full, records, nil
	}
	if _, fixed := n.Addrs[name]; n.Next != nil && !fixed {
		return n.Next.LookupSRV(ctx, service, proto, name)
	}
	return "", nil, &net.DNSError{Err: "no such service", Name: full, IsNotFound: true}
}
