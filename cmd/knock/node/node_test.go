package node

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"knock/config"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

func testConfig(t *testing.T, url string) *config.Config {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.Database.URL = url
	cfg.Listeners.Client.Address = "127.0.0.1:0"
	cfg.Listeners.Federation.Address = "127.0.0.1:0"
	cfg.Listeners.Metrics.Address = "127.0.0.1:0"
	cfg.Registration.Mode = "open"
	return cfg
}

// start runs a node; stop ends it and returns what Run did.
func start(t *testing.T, cfg *config.Config, log io.Writer) (n *Node, stop func() error) {
	t.Helper()
	n, err := New(context.Background(), cfg, Options{Version: "test", LogTo: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return n, sync.OnceValue(func() error {
		cancel()
		return <-done
	})
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestServeAndStop(t *testing.T) {
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			ignore := goleak.IgnoreCurrent()
			cfg := testConfig(t, url)
			n, stop := start(t, cfg, io.Discard)
			defer stop()
			c := &http.Client{Transport: &http.Transport{}}
			if body := get(t, c, n.ClientURL()+"/_matrix/client/versions"); !strings.Contains(body, `"v1.1"`) {
				t.Error(body)
			}
			for body := ""; !strings.Contains(body, "ready"); {
				body = get(t, c, "http://"+n.OperatorsAddress()+"/_knock/ready")
			}
			if body := get(t, c, "http://"+n.OperatorsAddress()+"/metrics"); !strings.Contains(body, `knock_http_request_seconds_count{code="2xx"`) {
				t.Error("no metric of the request")
			}
			pool := x509.NewCertPool()
			crt, err := os.ReadFile(filepath.Join(cfg.DataDir, "federation.crt"))
			if err != nil || !pool.AppendCertsFromPEM(crt) {
				t.Fatal(err)
			}
			fed := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "localhost"}}}
			if body := get(t, fed, "https://"+n.FederationAddress()+"/_matrix/key/v2/server"); !strings.Contains(body, n.keys.ID) {
				t.Error(body)
			}
			c.CloseIdleConnections()
			fed.CloseIdleConnections()
			if err := stop(); err != nil {
				t.Error(err)
			}
			goleak.VerifyNone(t, ignore)
		})
	}
}

// TestStopWhileStarting: who stops a node that is still loading has a node that stopped, not one that failed.
func TestStopWhileStarting(t *testing.T) {
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			n, err := New(context.Background(), testConfig(t, url), Options{Version: "test", LogTo: io.Discard})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := n.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCommands(t *testing.T) {
	cfg := testConfig(t, "")
	send := func(c Command) (string, error) {
		r, err := Send(context.Background(), cfg, Options{LogTo: io.Discard}, c)
		return r.Made, err
	}
	check := func(when string, c Command, want, wantErr string) {
		t.Helper()
		got, err := send(c)
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%s: %+v: %v", when, c, err)
			}
		} else if err != nil || !strings.HasPrefix(got, want) {
			t.Errorf("%s: %+v: %q, %v", when, c, got, err)
		}
	}
	check("offline", Command{Do: "user add", User: "alice", Password: "long enough"}, "@alice:localhost", "")
	_, stop := start(t, cfg, io.Discard)
	defer stop()
	check("running", Command{Do: "user add", User: "bob", Password: "long enough"}, "@bob:localhost", "")
	check("running", Command{Do: "user add", User: "alice", Password: "long enough"}, "", "M_USER_IN_USE")
	check("running", Command{Do: "user passwd", User: "@alice:localhost", Password: "another one"}, "@alice:localhost", "")
	check("running", Command{Do: "user passwd", User: "carol", Password: "another one"}, "", "M_")
	check("running", Command{Do: "user deactivate", User: "bob"}, "@bob:localhost", "")
	check("running", Command{Do: "token create", Token: "welcome"}, "welcome", "")
	check("running", Command{Do: "dance"}, "", "M_UNRECOGNIZED")
	if _, err := New(context.Background(), cfg, Options{LogTo: io.Discard}); !errors.Is(err, ErrInUse) {
		t.Errorf("a second process: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	check("offline again", Command{Do: "user passwd", User: "alice", Password: "yet another"}, "@alice:localhost", "")
}

func TestIdentity(t *testing.T) {
	cfg := testConfig(t, "")
	open := func() error {
		n, err := New(context.Background(), cfg, Options{LogTo: io.Discard, Offline: true})
		if err != nil {
			return err
		}
		return n.Close()
	}
	want := func(what, text string) {
		t.Helper()
		err := open()
		if text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	want("first use", "")
	want("again", "")
	cfg.ServerName = "example.org"
	want("another name", `belongs to server_name "localhost"`)
	cfg.ServerName = "localhost"

	keys, err := LoadKeys(cfg.KeyFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cfg.KeyFile()); err != nil {
		t.Fatal(err)
	}
	want("no key", "is missing")
	if !missing(cfg.KeyFile()) {
		t.Error("the missing key was replaced")
	}
	other, _ := NewKeys()
	save(t, other, cfg)
	want("another key", "put the right key file back")
	next, err := keys.Rotate(time.UnixMilli(1_700_000_000_000))
	if err != nil {
		t.Fatal(err)
	}
	save(t, next, cfg)
	want("a rotated key", "")
	save(t, keys, cfg)
	want("the old key again", "put the right key file back")
	if err := os.WriteFile(cfg.KeyFile(), []byte("ed25519 a_x SECRETSECRET\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil || strings.Contains(err.Error(), "SECRET") || !strings.Contains(err.Error(), "signing.key:1") {
		t.Errorf("a damaged key: %v", err)
	}
}

func save(t *testing.T, k *Keys, cfg *config.Config) {
	t.Helper()
	if err := k.Save(cfg.KeyFile()); err != nil {
		t.Fatal(err)
	}
}

func TestNewerDatabase(t *testing.T) {
	if !errors.Is(openNewer(t), sqldb.ErrNewerSchema) {
		t.Error("a newer database is taken")
	}
}

// openNewer opens a database that has a migration which this program lacks.
func openNewer(t *testing.T) error {
	cfg := testConfig(t, "")
	n, err := New(context.Background(), cfg, Options{LogTo: io.Discard, Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	migrateFurther(t, cfg.DatabaseURL())
	_, err = New(context.Background(), cfg, Options{LogTo: io.Discard, Offline: true})
	return err
}

func TestKeyFileRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "signing.key")
	k, err := NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	if k, err = k.Rotate(time.UnixMilli(42)); err != nil {
		t.Fatal(err)
	}
	if err := k.Save(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	got, err := LoadKeys(path)
	if err != nil || got.ID != k.ID || !bytes.Equal(got.Key, k.Key) || len(got.Old) != 1 || got.Old[0].Expired.UnixMilli() != 42 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestReload(t *testing.T) {
	cfg := testConfig(t, "")
	dir := t.TempDir()
	write := func(host string) {
		crt, key, err := makeCertificate(host, time.Now())
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, "c"), crt, 0o600), os.WriteFile(filepath.Join(dir, "k"), key, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("one.example")
	cfg.Listeners.Client.TLSCert, cfg.Listeners.Client.TLSKey = filepath.Join(dir, "c"), filepath.Join(dir, "k")
	n, stop := start(t, cfg, io.Discard)
	defer stop()
	served := func() string {
		conn, err := tls.Dial("tcp", n.ClientAddress(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].DNSNames[0]
	}
	if got := served(); got != "one.example" {
		t.Error(got)
	}
	write("two.example")
	n.Reload(cfg, nil)
	if got := served(); got != "two.example" {
		t.Error(got)
	}
	if err := os.WriteFile(filepath.Join(dir, "c"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Reload(cfg, nil)
	if got := served(); got != "two.example" {
		t.Error(got)
	}
}

func TestDomains(t *testing.T) {
	for _, c := range []struct {
		allow, deny []string
		server      string
		want        bool
	}{
		{nil, nil, "a.example", true},
		{nil, []string{"a.example"}, "a.example:8448", false},
		{nil, []string{"*.example"}, "a.example", false},
		{nil, []string{"*.example"}, "example", true},
		{[]string{"*.good.example"}, nil, "a.good.example", true},
		{[]string{"*.good.example"}, nil, "good.example.evil", false},
		{[]string{"b.example"}, []string{"b.example"}, "b.example", false},
	} {
		n := &Node{cfg: config.Default()}
		n.cfg.Federation.AllowDomains, n.cfg.Federation.DenyDomains = c.allow, c.deny
		if got := n.federatesWith(c.server); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
