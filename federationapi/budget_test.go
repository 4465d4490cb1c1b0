package federationapi

import (
	"context"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func TestBudget(t *testing.T) {
	b := newBudget(2, 100, 250)
	enter := func(who string, n int64, want string) (leave func()) {
		t.Helper()
		leave, full := b.enter(who, n)
		if full != want {
			t.Fatalf("%s with %d: %q, want %q", who, n, full, want)
		}
		return leave
	}
	first := enter("a", 60, "")
	enter("a", 50, tooLarge)
	second := enter("a", 40, "")
	enter("a", 0, tooMany)
	large := enter("b", 120, "") // alone, over its own bound
	enter("c", 40, tooLarge)     // over everybody's
	enter("", 30, "")()
	large()
	enter("c", 40, "")()
	first()
	enter("a", 60, "")()
	second()
	if len(b.loads) != 0 || b.sum != 0 {
		t.Errorf("left: %v, %d", b.loads, b.sum)
	}
}

func TestNetworks(t *testing.T) {
	for ip, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
		"127.0.0.1": "", "10.1.2.3": "", "fd00::1": "", "": "", "x": "",
	} {
		if got := network(ip); got != want {
			t.Errorf("%q counts as %q, want %q", ip, got, want)
		}
	}
}

// signedBy takes every request for one of a server.
type signedBy string

func (s signedBy) VerifyRequest(context.Context, string, string, []string, []byte, []string) (string, error) {
	return string(s), nil
}

// TestRequestsAreBounded refuses what one server asks too much, and lets others in.
func TestRequestsAreBounded(t *testing.T) {
	code := func(err error) string {
		var e *matrixerr.Error
		errors.As(err, &e)
		if e == nil {
			return ""
		}
		return e.Code
	}
	request := func(origin string) *httpx.Request {
		return httpx.NewRequest(httptest.NewRequest("PUT", "/", strings.NewReader("{}")), nil, httpx.Caller{Origin: origin})
	}
	a := New(Options{Limits: Limits{PerSecond: 0.001, Burst: 2, InFlight: 1}})
	for i, want := range []string{"", "", "M_LIMIT_EXCEEDED"} {
		a.o.Verifier = signedBy("bad.test")
		if _, err := a.AuthenticateServer(t.Context(), request("")); code(err) != want {
			t.Errorf("request %d: %v", i, err)
		}
	}
	a.o.Verifier = signedBy("good.test")
	if _, err := a.AuthenticateServer(t.Context(), request("")); err != nil {
		t.Errorf("another server: %v", err)
	}

	h := a.bounded(func(ctx context.Context, r *httpx.Request) (any, error) {
		if _, err := a.bounded(func(context.Context, *httpx.Request) (any, error) { return nil, nil })(ctx, request("bad.test")); code(err) != "M_LIMIT_EXCEEDED" {
			t.Errorf("a second at once: %v", err)
		}
		_, err := a.bounded(func(context.Context, *httpx.Request) (any, error) { return nil, nil })(ctx, request("good.test"))
		return nil, err
	})
	for range 2 {
		if _, err := h(t.Context(), request("bad.test")); err != nil {
			t.Error(err)
		}
	}

	a.unverified = newBudget(1, 10, 10)
	leave, _ := a.unverified.enter("", 9)
	if _, err := a.AuthenticateServer(t.Context(), request("")); code(err) != "M_LIMIT_EXCEEDED" {
		t.Errorf("a body too much: %v", err)
	}
	leave()
	if _, err := a.AuthenticateServer(t.Context(), request("")); err != nil {
		t.Error(err)
	}
}
