package client

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"
)

const dialTimeout = 10 * time.Second

// reserved are the networks that no public server lives in: private, local, shared, multicast, documentation,
// translation and metadata ranges (RFC 6890 and the registries that followed it).
var reserved = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
	"224.0.0.0/4", "240.0.0.0/4",
	"168.63.129.16/32", // the host agent of a large cloud, at a public address
	"::/128", "::1/128", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
	"5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

// nat64 addresses carry an IPv4 address in their last four bytes.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// guard decides which addresses may be connected to.
type guard struct {
	allow []netip.Prefix
	only  bool // nothing but allow
}

func (g guard) check(a netip.Addr) error {
	bare := a.WithZone("").Unmap()
	if contains(g.allow, bare) {
		return nil
	}
	if nat64.Contains(bare) {
		b := bare.As16()
		return g.check(netip.AddrFrom4([4]byte(b[12:])))
	}
	if g.only || !bare.IsValid() || contains(reserved, bare) {
		return &refusedError{a.String()}
	}
	return nil
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// control looks at the address that a socket is really about to connect to.
func (g guard) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusedError{address}
	}
	return g.check(ap.Addr())
}

// dialer resolves names itself and connects only to addresses that its guard allows. The name is looked up once and
// what was checked is what is dialled, so an answer that changes in between gains nothing.
type dialer struct {
	lookup  Lookup
	guard   guard
	timeout time.Duration
	dial    func(ctx context.Context, d *net.Dialer, addr netip.AddrPort) (net.Conn, error)
}

func dialAddress(ctx context.Context, d *net.Dialer, addr netip.AddrPort) (net.Conn, error) {
	return d.DialContext(ctx, "tcp", addr.String())
}

// dialHost connects to "host:port" (the DialContext of a Transport).
func (d *dialer) dialHost(ctx context.Context, _, address string) (net.Conn, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	return d.connect(ctx, endpoint{host, uint16(port)})
}

// connect tries the addresses of one endpoint, IPv6 and IPv4 in turn.
func (d *dialer) connect(ctx context.Context, ep endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.timeout, errTimeout)
	defer cancel()
	addrs, err := d.addresses(ctx, ep.host)
	if err != nil {
		return nil, err
	}
	return d.race(ctx, addrs, ep.port)
}

// maxAddresses bounds the attempts for one name.
const maxAddresses = 8

// addresses returns the allowed addresses of a host in the order in which to try them.
func (d *dialer) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a}, d.guard.check(a)
	}
	found, err := d.lookup.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, &resolveError{err}
	}
	var six, four []netip.Addr
	refused := error(&resolveError{errNoAddr})
	for _, a := range found {
		a = a.Unmap()
		if err := d.guard.check(a); err != nil {
			refused = err
		} else if a.Is4() {
			four = append(four, a)
		} else {
			six = append(six, a)
		}
	}
	if len(six)+len(four) == 0 {
		return nil, refused
	}
	return interleave(six, four), nil
}

func interleave(a, b []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for i := 0; i < max(len(a), len(b)) && len(out) < maxAddresses; i++ {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}

// attemptDelay is how long an attempt goes on alone before the next address is tried beside it (RFC 8305).
const attemptDelay = 250 * time.Millisecond

type attempt struct {
	conn net.Conn
	err  error
}

// race dials the addresses one after the other, each with a head start, and keeps the first connection.
func (d *dialer) race(ctx context.Context, addrs []netip.Addr, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan attempt, len(addrs))
	next, running := 0, 0
	start := func() {
		addr := netip.AddrPortFrom(addrs[next], port)
		next++
		running++
		go func() {
			conn, err := d.dial(ctx, &net.Dialer{Control: d.guard.control}, addr)
			results <- attempt{conn, err}
		}()
	}
	defer func() {
		cancel()
		go closeLate(results, running)
	}()
	var last error
	for start(); running > 0; {
		var timer <-chan time.Time
		if next < len(addrs) {
			timer = time.After(attemptDelay)
		}
		select {
		case <-timer:
			start()
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, nil
			}
			if last = r.err; next < len(addrs) && ctx.Err() == nil {
				start()
			}
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return nil, last
}

// closeLate closes connections that came after another one had won.
func closeLate(results <-chan attempt, n int) {
	for range n {
		if r := <-results; r.conn != nil {
			_ = r.conn.Close()
		}
	}
}
