package client

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"knock/internal/cache"
)

const (
	maxDestinations = 4096
	maxHeader       = 64 << 10
	idleTimeout     = 90 * time.Second
)

// destination is one server: its connections, its slots and its health.
type destination struct {
	c      *Client
	name   string
	http   *http.Transport
	slots  chan struct{}
	health health
	target atomic.Pointer[target] // as resolved for the newest request
}

// destinations are those in use lately.
type destinations struct {
	c        *Client
	mu       sync.Mutex
	cache    *cache.Cache[string, *destination]
	sessions tls.ClientSessionCache
}

func newDestinations(c *Client) *destinations {
	return &destinations{
		c:        c,
		cache:    cache.New(cache.Options[string, *destination]{Name: "federation_destinations", Entries: maxDestinations, Registerer: c.o.Registerer}),
		sessions: tls.NewLRUClientSessionCache(256),
	}
}

// get finds or makes a destination. One that falls out of the cache lets its idle connections time out.
func (ds *destinations) get(server string) (*destination, error) {
	if server == ds.c.o.ServerName {
		return nil, errOwnName
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if d, ok := ds.cache.Get(server); ok {
		return d, nil
	}
	if _, err := parseServerName(server); err != nil {
		return nil, err
	}
	d := ds.c.newDestination(server)
	ds.cache.Put(server, d)
	return d, nil
}

// known returns a destination that was in use lately, or nil.
func (ds *destinations) known(server string) *destination {
	d, _ := ds.cache.Get(server)
	return d
}

func (ds *destinations) closeIdle() {
	ds.cache.DeleteFunc(func(_ string, d *destination) bool {
		d.http.CloseIdleConnections()
		return false
	})
}

func (c *Client) newDestination(server string) *destination {
	d := &destination{c: c, name: server, slots: make(chan struct{}, c.o.PerDestination)}
	d.health = health{clock: c.o.Clock, partner: func() bool { return c.o.Partners(server) }}
	d.http = &http.Transport{
		DialTLSContext:         d.dialTLS,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeader,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: c.o.Silence, PingTimeout: c.o.Silence},
	}
	return d
}

// locate finds the target for a request. Connections to an older target are not used again.
func (d *destination) locate(ctx context.Context) (*target, error) {
	t, err := d.c.resolve.find(ctx, d.name)
	if err != nil {
		return nil, err
	}
	old := d.target.Swap(&t)
	if old != nil && (old.host != t.host || old.tlsName != t.tlsName || !sameEndpoints(old.endpoints, t.endpoints)) {
		d.http.CloseIdleConnections()
	}
	return &t, nil
}

// sameEndpoints leaves the order aside: it is drawn anew each time.
func sameEndpoints(a, b []endpoint) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e endpoint) bool { return !slices.Contains(b, e) })
}

// dialTLS connects to the target, whatever address the transport names.
func (d *destination) dialTLS(ctx context.Context, _, _ string) (net.Conn, error) {
	t := d.target.Load()
	if t == nil {
		return nil, &resolveError{errNoAddr}
	}
	var last error
	for _, ep := range t.endpoints {
		conn, err := d.dialEndpoint(ctx, t, ep)
		if err == nil {
			return conn, nil
		}
		if last = err; ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

func (d *destination) dialEndpoint(ctx context.Context, t *target, ep endpoint) (net.Conn, error) {
	raw, err := d.c.dialer.connect(ctx, ep)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, errTimeout)
	defer cancel()
	conn := tls.Client(raw, d.c.tlsConfig(t.tlsName))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// acquire takes one of the destination's slots.
func (d *destination) acquire(ctx context.Context) error {
	select {
	case d.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *destination) release() { <-d.slots }

// Alive says that a server showed itself alive, by a valid request to us for instance: it is not held back any more.
func (c *Client) Alive(server string) {
	if d := c.dests.known(server); d != nil {
		d.health.alive()
	}
}

// Wait is how long background calls to a server have to hold back; 0 when it may be called.
func (c *Client) Wait(server string) time.Duration {
	if d := c.dests.known(server); d != nil {
		return d.health.wait(false)
	}
	return 0
}
