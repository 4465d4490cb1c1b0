package limits

import (
	"fmt"
	"testing"
	"time"

	"knock/internal/clock"
)

func TestAllow(t *testing.T) {
	now := clock.NewManual(time.UnixMilli(0))
	l := New(Options{Classes: map[string]Class{"login": {PerSecond: 0.5, Burst: 2}, "free": {}}, Clock: now.Now})
	for i, c := range []struct {
		after      time.Duration
		class, who string
		wait       time.Duration
	}{
		{0, "login", "a", 0},
		{0, "login", "a", 0},
		{0, "login", "a", 2 * time.Second},
		{0, "login", "b", 0},
		{0, "free", "a", 0},
		{0, "unheard of", "a", 0},
		{time.Second, "login", "a", time.Second},
		{time.Second, "login", "a", 0},
	} {
		now.Advance(c.after)
		var wait time.Duration
		if e := l.Allow(c.class, c.who); e != nil {
			wait = e.RetryAfter
		}
		if wait != c.wait {
			t.Errorf("step %d: wait %v, want %v", i, wait, c.wait)
		}
	}
}

func TestBounded(t *testing.T) {
	l := New(Options{Classes: map[string]Class{"x": {PerSecond: 1, Burst: 1}}, Keys: 80})
	for i := range 1000 {
		l.Allow("x", fmt.Sprint(i))
	}
	if n := l.buckets.Len(); n > 80 {
		t.Errorf("%d buckets", n)
	}
}

func TestSource(t *testing.T) {
	for ip, want := range map[string]string{"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
		"fe80::1%eth0": "fe80::/64", "nonsense": "nonsense", "": ""} {
		if got := Source(ip); got != want {
			t.Errorf("%q: %q, want %q", ip, got, want)
		}
	}
}
