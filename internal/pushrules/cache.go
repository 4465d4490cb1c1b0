package pushrules

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
)

// rulesets are the compiled rules of the users seen last. Users without a row
// are kept too. What was read in a snapshot that may be older than the newest
// change is not kept.
type rulesets struct {
	cache *cache.Cache[string, *ruleset]
	mu    sync.Mutex
	last  int64 // position of the newest change
}

// ruleBytes is about what one compiled rule of a user's own takes in memory.
const ruleBytes = 400

func newRulesets(bytes int64, reg prometheus.Registerer) *rulesets {
	return &rulesets{cache: cache.New(cache.Options[string, *ruleset]{
		Name: "pushrules", Entries: 1 << 20, Bytes: bytes, Registerer: reg,
		Cost: func(user string, rs *ruleset) int64 {
			return int64(128 + len(user) + ruleBytes*max(0, len(rs.rules)-len(unchanged.rules)))
		},
	})}
}

func (c *rulesets) get(user string) (*ruleset, bool) { return c.cache.Get(user) }

// newest returns the position of the newest change; a snapshot that is opened
// after the call holds everything up to there.
func (c *rulesets) newest() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// put keeps rules read in a snapshot that holds every change up to at.
func (c *rulesets) put(user string, rs *ruleset, at int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last <= at {
		c.cache.Put(user, rs)
	}
}

// changed forgets a user's rules, changed at pos.
func (c *rulesets) changed(user string, pos int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, pos)
	c.cache.Delete(user)
}
