package client

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"knock/internal/cache"
	"knock/internal/clock"
	"knock/roomserver/event"
)

const (
	defaultPort = 8448
	resolveTTL  = 30 * time.Minute
	resolveSoon = time.Minute // how long the outcome of a failing name server is kept
	maxSRV      = 16
)

// endpoint is a host (a DNS name or an IP address without brackets) and a port.
type endpoint struct {
	host string
	port uint16
}

// target is how to reach a server (Server-Server API, Resolving server names).
type target struct {
	host      string     // the Host header
	tlsName   string     // the name or address that the certificate must be valid for; SNI when it is a name
	endpoints []endpoint // to be tried in this order
}

// serverName is a parsed server name.
type serverName struct {
	full, host string
	port       uint16 // 0: none given
	literal    bool   // host is an IP address
}

func parseServerName(s string) (serverName, error) {
	if !event.ValidServerName(s) {
		return serverName{}, errBadName
	}
	n := serverName{full: s, host: s}
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		n.host, s = s[1:end], s[end+1:]
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		n.host, s = s[:i], s[i:]
	} else {
		s = ""
	}
	if s != "" {
		port, err := strconv.ParseUint(s[1:], 10, 16)
		if err != nil || port == 0 {
			return serverName{}, errBadName
		}
		n.port = uint16(port)
	}
	_, err := netip.ParseAddr(n.host)
	n.literal = err == nil
	return n, nil
}

// resolver finds targets and remembers them for a while.
type resolver struct {
	clock     clock.Clock
	lookup    Lookup
	wellKnown *wellKnown
	cache     *cache.Cache[string, resolved]
}

type resolved struct {
	target  target
	expires time.Time
}

func newResolver(o Options, web http.RoundTripper) *resolver {
	return &resolver{
		clock:     o.Clock,
		lookup:    o.Lookup,
		wellKnown: newWellKnown(o, web),
		cache:     cache.New(cache.Options[string, resolved]{Name: "federation_targets", Entries: 4096, Registerer: o.Registerer}),
	}
}

// find returns the target of a server.
func (r *resolver) find(ctx context.Context, server string) (target, error) {
	if hit, ok := r.cache.Get(server); ok && r.clock().Before(hit.expires) {
		return hit.target, nil
	}
	name, err := parseServerName(server)
	if err != nil {
		return target{}, err
	}
	t, ttl := r.locate(ctx, name)
	if err := ctx.Err(); err != nil {
		return target{}, context.Cause(ctx)
	}
	r.cache.Put(server, resolved{t, r.clock().Add(ttl)})
	return t, nil
}

// forget drops what is known after a connection failed: the server may have moved.
func (r *resolver) forget(server string) {
	r.cache.Delete(server)
	if name, err := parseServerName(server); err == nil {
		r.wellKnown.doubt(name.host)
	}
}

// locate is the procedure of the specification; the numbers are its steps.
func (r *resolver) locate(ctx context.Context, name serverName) (target, time.Duration) {
	if name.literal || name.port != 0 { // 1, 2
		return direct(name), resolveTTL
	}
	if delegated, ttl, ok := r.wellKnown.get(ctx, name.host); ok { // 3
		ttl = min(ttl, resolveTTL)
		if delegated.literal || delegated.port != 0 { // 3.1, 3.2
			return direct(delegated), ttl
		}
		t, srvTTL := r.services(ctx, delegated) // 3.3 to 3.5
		return t, min(ttl, srvTTL)
	}
	t, ttl := r.services(ctx, name) // 4 to 6
	return t, min(ttl, resolveSoon*5)
}

// direct is the target of a name with an address or a port of its own.
func direct(name serverName) target {
	port := name.port
	if port == 0 {
		port = defaultPort
	}
	return target{host: name.full, tlsName: name.host, endpoints: []endpoint{{name.host, port}}}
}

// services looks for SRV records, the registered service first, and falls back to the name itself.
func (r *resolver) services(ctx context.Context, name serverName) (target, time.Duration) {
	t := direct(name)
	ttl := resolveTTL
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := r.lookup.LookupSRV(ctx, service, "tcp", name.host)
		if found := orderSRV(records); len(found) > 0 {
			t.endpoints = found
			return t, ttl
		}
		if err != nil && !notFound(err) {
			ttl = resolveSoon
		}
	}
	return t, ttl
}

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// orderSRV sorts records by priority, and within one priority draws them by weight (RFC 2782).
func orderSRV(records []*net.SRV) []endpoint {
	left := slices.Clone(records[:min(len(records), maxSRV)])
	slices.SortStableFunc(left, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) })
	var out []endpoint
	for len(left) > 0 {
		same := 0
		for same < len(left) && left[same].Priority == left[0].Priority {
			same++
		}
		i := draw(left[:same])
		host := strings.TrimSuffix(left[i].Target, ".")
		if host != "" && left[i].Port != 0 {
			out = append(out, endpoint{host, left[i].Port})
		}
		left = slices.Delete(left, i, i+1)
	}
	return out
}

// draw picks one of records of equal priority. A weight of 0 stands for a small chance.
func draw(records []*net.SRV) int {
	total := 0
	for _, s := range records {
		total += int(s.Weight)*100 + 1
	}
	n := rand.IntN(total)
	for i, s := range records {
		if n -= int(s.Weight)*100 + 1; n < 0 {
			return i
		}
	}
	return len(records) - 1
}
