package federationapi

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"knock/internal/httpx"
	"knock/internal/limits"
	"knock/internal/matrixerr"
)

// Limits bound what one server may ask for. Zero values are the defaults; PerSecond below 0 is no limit.
type Limits struct {
	PerSecond float64 // requests, on average; 100
	Burst     int     // requests at once; 500
	InFlight  int     // requests that are worked on; 64
	Bytes     int64   // bodies of requests that are worked on; 64 MiB
}

func (l Limits) orDefault() Limits {
	if l.PerSecond == 0 {
		l.PerSecond = 100
	}
	if l.Burst <= 0 {
		l.Burst = 500
	}
	if l.InFlight <= 0 {
		l.InFlight = 64
	}
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	return l
}

// Bounds of bodies whose signature is not checked yet.
const (
	allBytes       = 512 << 20 // of all
	addressBytes   = 64 << 20  // of one address
	addressWaiting = 256       // of one address
)

// Why a request was refused, as a metric's label.
const (
	tooFast    = "rate"
	tooMany    = "in_flight"
	tooLarge   = "bytes"
	tooMuch    = "unverified_bytes"
	tooWaiting = "transactions"
)

// again is when a server that has too much under way should come again.
const again = time.Second

func newRates(l Limits) *limits.Limiter {
	return limits.New(limits.Options{Classes: map[string]limits.Class{tooFast: {PerSecond: l.PerSecond, Burst: l.Burst}}})
}

// budget counts what is under way, by who asked for it.
type budget struct {
	count int   // of each
	bytes int64 // of each
	all   int64 // bytes of all; 0 is no bound

	mu    sync.Mutex
	loads map[string]load
	sum   int64
}

type load struct {
	count int
	bytes int64
}

func newBudget(count int, bytes, all int64) *budget {
	return &budget{count: count, bytes: bytes, all: all, loads: map[string]load{}}
}

// enter takes n bytes; call leave after. Who has nothing under way may go over its own bytes, and who has no name is
// bounded with all only. full tells what is used up.
func (b *budget) enter(who string, n int64) (leave func(), full string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.loads[who]
	switch named := who != ""; {
	case named && l.count >= b.count:
		return nil, tooMany
	case named && l.count > 0 && l.bytes+n > b.bytes, b.all > 0 && b.sum+n > b.all:
		return nil, tooLarge
	}
	b.loads[who] = load{l.count + 1, l.bytes + n}
	b.sum += n
	return func() { b.leave(who, n) }, ""
}

func (b *budget) leave(who string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.loads[who]
	if l.count--; l.count == 0 {
		delete(b.loads, who)
	} else {
		b.loads[who] = load{l.count, l.bytes - n}
	}
	b.sum -= n
}

// refuse counts a refusal and makes its answer.
func (a *API) refuse(reason string, after time.Duration) *matrixerr.Error {
	a.metrics.refused.WithLabelValues(reason).Inc()
	return matrixerr.LimitExceeded(after)
}

// readBody reads a request's body before anybody knows who sent it: of one address, and of all, only so much at once.
func (a *API) readBody(r *httpx.Request) ([]byte, error) {
	if r.ContentLength == 0 {
		return r.Bytes()
	}
	n := r.ContentLength
	if most := r.MaxBody(); n < 0 || n > most {
		n = most
	}
	leave, full := a.unverified.enter(network(r.ClientIP()), n)
	if full != "" {
		return nil, a.refuse(tooMuch, again)
	}
	defer leave()
	return r.Bytes()
}

// network is an address as it is counted. A private one has no name: it is a proxy's, behind which everybody is.
func network(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ""
	}
	if addr = addr.Unmap().WithZone(""); addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
		return ""
	}
	return limits.Source(ip)
}

// bounded lets a handler work on only so many requests of one server.
func (a *API) bounded(h httpx.Handler) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		body, err := r.Bytes()
		if err != nil {
			return nil, err
		}
		leave, full := a.working.enter(r.Caller.Origin, int64(len(body)))
		if full != "" {
			return nil, a.refuse(full, again)
		}
		defer leave()
		return h(ctx, r)
	}
}
