// Package limits owns rate limits: token buckets by class and key (a user, an address, a server), in bounded memory.
package limits

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/matrixerr"
)

// Class is how much of one kind of request a key may do: Burst at once, then PerSecond. PerSecond zero or below
// means no limit.
type Class struct {
	PerSecond float64
	Burst     int
}

// Options make a Limiter.
type Options struct {
	Classes map[string]Class
	Keys    int         // buckets kept in memory over all classes; 0 is 100,000
	Clock   clock.Clock // nil is the system's
}

// Limiter counts. It is safe for concurrent use.
type Limiter struct {
	classes map[string]Class
	now     clock.Clock
	mu      sync.Mutex // one key's first two requests must share a bucket
	buckets *cache.Cache[key, *rate.Limiter]
}

type key struct{ class, who string }

// New makes a Limiter. The bucket used longest ago goes first when memory is full; that one has usually refilled.
func New(o Options) *Limiter {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Keys == 0 {
		o.Keys = 100_000
	}
	return &Limiter{classes: o.Classes, now: o.Clock,
		buckets: cache.New(cache.Options[key, *rate.Limiter]{Entries: o.Keys, Shards: 8})}
}

// Allow takes one request of class from who's bucket. When the bucket is empty it returns M_LIMIT_EXCEEDED with the
// time until the next request would pass, and takes nothing. Unknown classes have no limit.
func (l *Limiter) Allow(class, who string) *matrixerr.Error {
	c, ok := l.classes[class]
	if !ok || c.PerSecond <= 0 {
		return nil
	}
	now := l.now()
	bucket := l.bucket(key{class, who}, c)
	if bucket.AllowN(now, 1) {
		return nil
	}
	missing := 1 - bucket.TokensAt(now)
	return matrixerr.LimitExceeded(time.Duration(missing / c.PerSecond * float64(time.Second)))
}

func (l *Limiter) bucket(k key, c Class) *rate.Limiter {
	if b, ok := l.buckets.Get(k); ok {
		return b
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.buckets.Get(k); ok {
		return b
	}
	b := rate.NewLimiter(rate.Limit(c.PerSecond), max(c.Burst, 1))
	l.buckets.Put(k, b)
	return b
}

// Source is an address as it is counted: one host has a /64 of IPv6 addresses at least.
func Source(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	addr = addr.Unmap().WithZone("")
	if prefix, err := addr.Prefix(64); err == nil && addr.Is6() {
		return prefix.String()
	}
	return addr.String()
}
