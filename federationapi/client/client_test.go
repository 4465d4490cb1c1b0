package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knock/internal/clock"
	"knock/roomserver/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert, key, pool}
}

func (a *authority) issue(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: a.key}
}

// serve starts a TLS server for names and returns its address.
func (a *authority) serve(t testing.TB, h http.Handler, names ...string) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{a.issue(t, names...)}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// net routes the addresses that a test names to real listeners.
type testNet struct {
	mu     sync.Mutex
	routes map[string]netip.AddrPort // "address:port" as dialled
	dialed []string
}

func (n *testNet) dial(ctx context.Context, d *net.Dialer, addr netip.AddrPort) (net.Conn, error) {
	if err := d.Control("tcp", addr.String(), nil); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.dialed = append(n.dialed, addr.String())
	to, ok := n.routes[addr.String()]
	n.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
}

func (n *testNet) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dialed)
}

// rig is a client in a network of its own. Public addresses are from 8.8.8.0/24.
type rig struct {
	*Client
	ca    *authority
	net   *testNet
	names Names
	clock *clock.Manual
	key   ed25519.PublicKey
}

func newRig(t testing.TB) *rig {
	t.Helper()
	pub, priv, _ := ed25519.GenerateKey(nil)
	r := &rig{
		ca:    newAuthority(t),
		net:   &testNet{routes: map[string]netip.AddrPort{}},
		names: Names{Addrs: map[string][]netip.Addr{}, Services: map[string][]*net.SRV{}},
		clock: clock.NewManual(time.UnixMilli(1_700_000_000_000)),
		key:   pub,
	}
	r.Client = New(Options{
		ServerName: "us.example", Signer: event.Signer{Server: "us.example", KeyID: "ed25519:us", Key: priv},
		RootCAs: r.ca.pool, Lookup: r.names, Clock: r.clock.Now, Timeout: 5 * time.Second,
		Partners: func(s string) bool { return s == "partner.example" },
	})
	r.dialer.dial = r.net.dial
	t.Cleanup(r.Close)
	return r
}

// host gives a name an address.
func (r *rig) host(name string, addrs ...string) {
	for _, a := range addrs {
		r.names.Addrs[name] = append(r.names.Addrs[name], netip.MustParseAddr(a))
	}
}

// route makes an address and port reach a handler with a certificate for names.
func (r *rig) route(t testing.TB, addr string, h http.HandlerFunc, names ...string) {
	t.Helper()
	r.net.routes[addr] = r.ca.serve(t, h, names...)
}

func (r *rig) service(name string, records ...*net.SRV) { r.names.Services[name] = records }

func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }
}

func hostOf(w http.ResponseWriter, r *http.Request) {
	fmt.Fprintf(w, `{"server":{"name":%q,"version":%q}}`, r.Host, r.TLS.ServerName)
}

func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// The table of the specification: which address, Host header and certificate name each kind of name leads to.
func TestResolve(t *testing.T) {
	wellKnown := func(body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/.well-known/matrix/server" {
				t.Errorf("asked for %s", r.URL.Path)
			}
			_, _ = io.WriteString(w, body)
		}
	}
	tests := []struct {
		name      string
		server    string
		setup     func(t *testing.T, r *rig)
		host, sni string
	}{
		{"1 IPv4 literal", "8.8.8.1", func(t *testing.T, r *rig) { r.route(t, "8.8.8.1:8448", hostOf, "8.8.8.1") }, "8.8.8.1", ""},
		{"1 IPv6 literal with port", "[2a00::1]:99", func(t *testing.T, r *rig) { r.route(t, "[2a00::1]:99", hostOf, "2a00::1") }, "[2a00::1]:99", ""},
		{"2 explicit port", "a.example:99", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.route(t, "8.8.8.1:99", hostOf, "a.example")
		}, "a.example:99", "a.example"},
		{"3.1 delegated to a literal", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"8.8.8.2"}`), "a.example")
			r.route(t, "8.8.8.2:8448", hostOf, "8.8.8.2")
		}, "8.8.8.2", ""},
		{"3.2 delegated with a port", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.host("b.example", "8.8.8.2")
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"b.example:77"}`), "a.example")
			r.route(t, "8.8.8.2:77", hostOf, "b.example")
		}, "b.example:77", "b.example"},
		{"3.3 delegated, SRV", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.host("c.example", "8.8.8.3")
			r.service("_matrix-fed._tcp.b.example", &net.SRV{Target: "c.example.", Port: 55})
			r.service("_matrix._tcp.b.example", &net.SRV{Target: "wrong.example.", Port: 55})
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"b.example"}`), "a.example")
			r.route(t, "8.8.8.3:55", hostOf, "b.example")
		}, "b.example", "b.example"},
		{"3.4 delegated, old SRV", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.host("c.example", "8.8.8.3")
			r.service("_matrix._tcp.b.example", &net.SRV{Target: "c.example.", Port: 55})
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"b.example"}`), "a.example")
			r.route(t, "8.8.8.3:55", hostOf, "b.example")
		}, "b.example", "b.example"},
		{"3.5 delegated, no SRV", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.host("b.example", "8.8.8.2")
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"b.example"}`), "a.example")
			r.route(t, "8.8.8.2:8448", hostOf, "b.example")
		}, "b.example", "b.example"},
		{"4 SRV", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.host("c.example", "8.8.8.3")
			r.service("_matrix-fed._tcp.a.example", &net.SRV{Target: "c.example.", Port: 55})
			r.route(t, "8.8.8.3:55", hostOf, "a.example")
		}, "a.example", "a.example"},
		{"4 SRV, first target is down", "a.example", func(t *testing.T, r *rig) {
			r.host("c.example", "8.8.8.3")
			r.host("d.example", "8.8.8.4")
			r.service("_matrix-fed._tcp.a.example", &net.SRV{Target: "c.example.", Port: 55, Priority: 2}, &net.SRV{Target: "d.example.", Port: 5, Priority: 1})
			r.route(t, "8.8.8.3:55", hostOf, "a.example")
		}, "a.example", "a.example"},
		{"5 old SRV", "a.example", func(t *testing.T, r *rig) {
			r.host("c.example", "8.8.8.3")
			r.service("_matrix._tcp.a.example", &net.SRV{Target: "c.example.", Port: 55})
			r.route(t, "8.8.8.3:55", hostOf, "a.example")
		}, "a.example", "a.example"},
		{"6 nothing", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.route(t, "8.8.8.1:8448", hostOf, "a.example")
		}, "a.example", "a.example"},
		{"6 bad well-known", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"not a name"}`), "a.example")
			r.route(t, "8.8.8.1:8448", hostOf, "a.example")
		}, "a.example", "a.example"},
		{"6 well-known too large", "a.example", func(t *testing.T, r *rig) {
			r.host("a.example", "8.8.8.1")
			r.route(t, "8.8.8.1:443", wellKnown(`{"m.server":"b.example","x":"`+strings.Repeat("x", wellKnownBody)+`"}`), "a.example")
			r.route(t, "8.8.8.1:8448", hostOf, "a.example")
		}, "a.example", "a.example"},
		{"IPv6 is down", "a.example:99", func(t *testing.T, r *rig) {
			r.host("a.example", "2a00::1", "8.8.8.1")
			r.route(t, "8.8.8.1:99", hostOf, "a.example")
		}, "a.example:99", "a.example"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			tt.setup(t, r)
			host, sni, err := r.Version(context.Background(), tt.server)
			if err != nil || host != tt.host || sni != tt.sni {
				t.Errorf("Host %q, SNI %q, %v", host, sni, err)
			}
		})
	}
}

func TestWrongCertificate(t *testing.T) {
	r := newRig(t)
	r.host("a.example", "8.8.8.1")
	r.route(t, "8.8.8.1:1", hostOf, "b.example")
	if _, _, err := r.Version(context.Background(), "a.example:1"); kindOf(err) != KindTLS {
		t.Error(err)
	}
}

func TestBadNames(t *testing.T) {
	r := newRig(t)
	for _, name := range []string{"", "a b", "a.example:0", "a.example:99999", "[::1", "us.example", "a/b", "a@b", strings.Repeat("a", 300)} {
		if _, _, err := r.Version(context.Background(), name); kindOf(err) != KindBadName {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestGuard(t *testing.T) {
	allow := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}
	for addr, allowed := range map[string]bool{
		"8.8.8.8": true, "2a00:1450::1": true, "64:ff9b::808:808": true, "10.1.2.3": true, "fd00:1::5": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "10.2.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "169.254.169.254": false,
		"100.100.100.200": false, "0.0.0.0": false, "224.0.0.1": false, "255.255.255.255": false, "::1": false, "::": false,
		"fe80::1": false, "fd00:ec2::254": false, "ff02::1": false, "::ffff:127.0.0.1": false, "64:ff9b::7f00:1": false,
		"2002:7f00:1::": false, "::127.0.0.1": false, "fe80::1%eth0": false, "168.63.129.16": false, "192.0.0.192": false,
	} {
		if err := (guard{allow: allow}).check(netip.MustParseAddr(addr)); (err == nil) != allowed {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if (guard{}).check(netip.Addr{}) == nil {
		t.Error("no address at all is allowed")
	}
}

func TestPrivateNetworksAreRefused(t *testing.T) {
	ctx := context.Background()
	t.Run("direct", func(t *testing.T) {
		r := newRig(t)
		r.host("a.example", "10.0.0.1", "127.0.0.1")
		for _, name := range []string{"127.0.0.1:1", "[::1]:1", "a.example:1", "a.example"} {
			if _, _, err := r.Version(ctx, name); kindOf(err) != KindRefused {
				t.Errorf("%s: %v", name, err)
			}
		}
		if r.net.count() > 0 {
			t.Errorf("dialled %v", r.net.dialed)
		}
	})
	t.Run("delegation and redirect", func(t *testing.T) {
		r := newRig(t)
		r.host("a.example", "8.8.8.1")
		r.host("b.example", "8.8.8.2")
		r.host("inside.example", "192.168.0.1")
		r.route(t, "8.8.8.1:443", answer(`{"m.server":"127.0.0.1:80"}`), "a.example")
		r.route(t, "8.8.8.2:443", func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://inside.example/x", http.StatusFound)
		}, "b.example")
		if _, _, err := r.Version(ctx, "a.example"); kindOf(err) != KindRefused {
			t.Error(err)
		}
		if _, _, err := r.Version(ctx, "b.example"); kindOf(err) != KindConnect {
			t.Error(err) // falls back to b.example:8448, where nobody listens
		}
		for _, a := range r.net.dialed {
			if !strings.HasPrefix(a, "8.8.8.") {
				t.Errorf("dialled %s", a)
			}
		}
	})
	t.Run("rebinding", func(t *testing.T) {
		r := newRig(t)
		flip := &flipping{answers: [][]netip.Addr{{netip.MustParseAddr("8.8.8.1")}, {netip.MustParseAddr("127.0.0.1")}}}
		r.dialer.lookup = flip
		if _, _, err := r.Version(ctx, "a.example:1"); kindOf(err) != KindConnect || flip.asked != 1 {
			t.Errorf("%v, looked up %d times", err, flip.asked)
		}
		if len(r.net.dialed) != 1 || r.net.dialed[0] != "8.8.8.1:1" {
			t.Errorf("dialled %v", r.net.dialed)
		}
		if err := (guard{}).control("tcp", "127.0.0.1:80", nil); err == nil {
			t.Error("the socket itself is not guarded")
		}
	})
	t.Run("allowed", func(t *testing.T) {
		ca := newAuthority(t)
		at := ca.serve(t, http.HandlerFunc(hostOf), "127.0.0.1")
		c := New(Options{ServerName: "us.example", RootCAs: ca.pool, AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		defer c.Close()
		if _, _, err := c.Version(ctx, at.String()); err != nil {
			t.Error(err)
		}
		closed := New(Options{ServerName: "us.example", RootCAs: ca.pool})
		defer closed.Close()
		if _, _, err := closed.Version(ctx, at.String()); kindOf(err) != KindRefused {
			t.Error(err)
		}
	})
}

// flipping answers differently each time.
type flipping struct {
	Names
	answers [][]netip.Addr
	asked   int
}

func (f *flipping) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	f.asked++
	return f.answers[min(f.asked, len(f.answers))-1], nil
}

func TestWellKnownCache(t *testing.T) {
	r := newRig(t)
	asked, status := 0, http.StatusOK
	r.host("a.example", "8.8.8.1")
	r.route(t, "8.8.8.1:443", func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Cache-Control", "public, max-age=36000")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"m.server":"b.example:1"}`)
	}, "a.example")
	get := func() bool {
		_, _, ok := r.resolve.wellKnown.get(context.Background(), "a.example")
		return ok
	}
	for range 3 {
		if !get() || asked != 1 {
			t.Fatalf("asked %d times", asked)
		}
	}
	r.clock.Advance(11 * time.Hour)
	status = http.StatusInternalServerError
	if !get() || asked != 2 {
		t.Errorf("asked %d times; a delegation must outlive a failure", asked)
	}
	for range 300 { // five hours
		get()
		r.clock.Advance(time.Minute)
	}
	if asked > 14 {
		t.Errorf("asked %d times in five hours of failure", asked)
	}
	r.clock.Advance(40 * time.Hour)
	if get() {
		t.Error("the delegation is still believed after two days")
	}
}

func TestWellKnownRedirects(t *testing.T) {
	r := newRig(t)
	r.host("a.example", "8.8.8.1")
	r.host("b.example", "8.8.8.2")
	hops := 0
	r.route(t, "8.8.8.1:443", func(w http.ResponseWriter, req *http.Request) {
		if hops++; req.URL.Path == "/.well-known/matrix/server" {
			http.Redirect(w, req, "https://b.example/moved", http.StatusMovedPermanently)
			return
		}
		http.Redirect(w, req, "/again", http.StatusFound)
	}, "a.example")
	r.route(t, "8.8.8.2:443", answer(`{"m.server":"c.example:1"}`), "b.example")
	if to, _, ok := r.resolve.wellKnown.get(context.Background(), "a.example"); !ok || to.full != "c.example:1" {
		t.Errorf("%+v", to)
	}
	hops = 0
	if _, _, err := r.resolve.wellKnown.fetch("a.example/x"); err == nil || hops > wellKnownHops+1 {
		t.Errorf("a loop of %d hops: %v", hops, err)
	}
	if err := followHTTPS(3)(httptest.NewRequest("GET", "http://a.example/", nil), nil); err == nil {
		t.Error("followed to plain HTTP")
	}
}

func TestLifetime(t *testing.T) {
	now := time.Now()
	for header, want := range map[string]time.Duration{
		"": 24 * time.Hour, "max-age=3600": time.Hour, "max-age=1": wellKnownMin, "max-age=99999999": wellKnownMax,
		"no-store": wellKnownMin, "Public, Max-Age=7200": 2 * time.Hour, "max-age=x": 24 * time.Hour,
	} {
		if got := lifetime(http.Header{"Cache-Control": {header}}, now); got != want {
			t.Errorf("%q: %s", header, got)
		}
	}
}

func TestOrderSRV(t *testing.T) {
	first := map[string]int{}
	for range 400 {
		got := orderSRV([]*net.SRV{
			{Target: "last.", Port: 1, Priority: 9}, {Target: "heavy.", Port: 1, Priority: 1, Weight: 90},
			{Target: "light.", Port: 1, Priority: 1, Weight: 10}, {Target: ".", Port: 1, Priority: 1},
		})
		if len(got) != 3 || got[2].host != "last" {
			t.Fatalf("%v", got)
		}
		first[got[0].host]++
	}
	if first["heavy"] <= first["light"] || first["light"] == 0 {
		t.Errorf("%v", first)
	}
}

func TestSignature(t *testing.T) {
	r := newRig(t)
	r.host("a.example", "8.8.8.1")
	r.route(t, "8.8.8.1:1", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		signed, err := json.Marshal(map[string]any{
			"method": req.Method, "uri": req.RequestURI, "origin": "us.example", "destination": "a.example:1", "content": json.RawMessage(body),
		})
		if err != nil {
			t.Error(err)
		}
		_, sig, _ := strings.Cut(req.Header.Get("Authorization"), `sig="`)
		signed = append(signed[:len(signed)-1], `,"signatures":{"us.example":{"ed25519:us":"`+strings.TrimSuffix(sig, `"`)+`"}}}`...)
		if err := event.VerifyJSON(signed, "us.example", "ed25519:us", r.key); err != nil {
			t.Errorf("%s: %v", signed, err)
		}
		_, _ = io.WriteString(w, `{}`)
	}, "a.example")
	err := r.SendLeave(context.Background(), "a.example:1", "!a/b:a.example", "$x+y/?&", json.RawMessage(`{"b":"<&>","a\"\\":"é\u0001"}`))
	if err != nil {
		t.Error(err)
	}
}
