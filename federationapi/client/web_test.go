package client

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

type fixedLookup struct {
	Lookup
	addr netip.Addr
}

func (f fixedLookup) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{f.addr}, nil
}

// refused reports whether a client does not even connect to a URL.
func refused(t *testing.T, c *http.Client, url string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	var r *refusedError
	return errors.As(err, &r)
}

// TestPlainHTTPStaysInside has a public gateway: plain HTTP would show the whole way what it is told.
func TestPlainHTTPStaysInside(t *testing.T) {
	c := GuardedClient([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, fixedLookup{addr: netip.MustParseAddr("8.8.8.8")}, nil)
	defer c.CloseIdleConnections()
	for url, want := range map[string]bool{"http://gateway.example/": true, "http://1.1.1.1/": true, "http://10.2.0.1/": true,
		"http://10.1.0.1:1/": false, "https://gateway.example/": false, "https://10.2.0.1/": true} {
		if got := refused(t, c, url); got != want {
			t.Errorf("%s refused: %v", url, got)
		}
	}
}

// TestWebTransport keeps pages to public addresses, whatever names lead to others.
func TestWebTransport(t *testing.T) {
	inside := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	for addr, urls := range map[string]map[string]bool{
		"8.8.8.8":   {"http://page.example/": false, "https://page.example/": false, "http://10.2.0.1/": true, "http://[::1]:8008/": true, "http://10.1.0.1:1/": false},
		"127.0.0.1": {"http://page.example/": true, "https://page.example/": true, "http://169.254.169.254/": true, "http://[::ffff:127.0.0.1]/": true},
	} {
		c := &http.Client{Transport: WebTransport(inside, fixedLookup{addr: netip.MustParseAddr(addr)}, nil)}
		for url, want := range urls {
			if got := refused(t, c, url); got != want {
				t.Errorf("%s at %s refused: %v", url, addr, got)
			}
		}
		c.CloseIdleConnections()
	}
}
