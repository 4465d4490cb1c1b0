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

// TestPlainHTTPStaysInside has a public gateway: plain HTTP would show the whole way what it is told.
func TestPlainHTTPStaysInside(t *testing.T) {
	c := GuardedClient([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, fixedLookup{addr: netip.MustParseAddr("8.8.8.8")}, nil)
	defer c.CloseIdleConnections()
	refused := func(url string) bool {
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
	for url, want := range map[string]bool{"http://gateway.example/": true, "http://1.1.1.1/": true, "http://10.2.0.1/": true,
		"http://10.1.0.1:1/": false, "https://gateway.example/": false, "https://10.2.0.1/": true} {
		if got := refused(url); got != want {
			t.Errorf("%s refused: %v", url, got)
		}
	}
}
