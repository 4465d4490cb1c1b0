package client

import (
	"math/rand/v2"
	"sync"
	"time"

	"knock/internal/clock"
)

const (
	backoffFirst   = time.Second
	backoffMax     = time.Hour
	backoffPartner = 5 * time.Minute
	// hurried is how soon after a failure a call that a person waits for may try again.
	hurried = 10 * time.Second
)

// health is how one destination fared lately.
type health struct {
	clock   clock.Clock
	partner func() bool // asked at each failure: servers become partners and cease to be

	mu       sync.Mutex
	failures int
	failed   time.Time // the last failure
	until    time.Time // nothing is tried before
}

// wait is how long a call has to hold back; 0 is none.
func (h *health) wait(hurry bool) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	until := h.until
	if soon := h.failed.Add(hurried); hurry && soon.Before(until) {
		until = soon
	}
	return max(until.Sub(h.clock()), 0)
}

// alive clears the back-off.
func (h *health) alive() {
	h.mu.Lock()
	h.failures, h.until = 0, time.Time{}
	h.mu.Unlock()
}

// fail notes the failure of a call that began at started. Calls that were under way together count once. at least is
// what the server asked for.
func (h *health) fail(started time.Time, least time.Duration) {
	limit := backoffMax
	if h.partner() { // before the lock: whoever answers may ask how long to wait
		limit = backoffPartner
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures > 0 && !started.After(h.failed) {
		return
	}
	now := h.clock()
	h.failures++
	h.failed = now
	h.until = now.Add(max(h.backoff(limit), min(least, limit)))
}

func (h *health) backoff(limit time.Duration) time.Duration {
	d := min(backoffFirst<<min(h.failures-1, 20), limit)
	return d - time.Duration(rand.Int64N(int64(d)/5+1))
}
