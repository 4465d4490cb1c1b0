// Package cache owns the one kind of cache that Knock uses: least recently used, bounded by the number of entries
// and by their cost (bytes, where values vary), safe for concurrent use, with metrics. Values are immutable: what is
// taken out is shared.
package cache

import (
	"container/list"
	"hash/maphash"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Options bound a cache.
type Options[K comparable, V any] struct {
	Name       string                // label of the metrics
	Entries    int                   // at most so many; 0 is 1,024
	Bytes      int64                 // at most so much cost; 0 is no limit
	Cost       func(K, V) int64      // cost of one entry, asked once when it is stored; nil is 1
	Shards     int                   // independent parts with a lock each; 0 is 1. The bounds are divided among them
	Registerer prometheus.Registerer // nil: no metrics
}

// Cache maps K to V.
type Cache[K comparable, V any] struct {
	shards []shard[K, V]
	seed   maphash.Seed
	cost   func(K, V) int64
	hits   prometheus.Counter
	misses prometheus.Counter
}

type shard[K comparable, V any] struct {
	mu         sync.Mutex
	items      map[K]*list.Element
	order      list.List // front: used last
	cost       int64
	maxEntries int
	maxCost    int64
}

type entry[K comparable, V any] struct {
	key  K
	val  V
	cost int64
}

// New makes an empty cache.
func New[K comparable, V any](o Options[K, V]) *Cache[K, V] {
	n := max(o.Shards, 1)
	if o.Entries <= 0 {
		o.Entries = 1024
	}
	c := &Cache[K, V]{shards: make([]shard[K, V], n), seed: maphash.MakeSeed(), cost: o.Cost}
	for i := range c.shards {
		c.shards[i].items = make(map[K]*list.Element)
		c.shards[i].maxEntries = (o.Entries + n - 1) / n
		c.shards[i].maxCost = (o.Bytes + int64(n) - 1) / int64(n)
	}
	c.hits, c.misses = counters(o.Registerer, o.Name)
	return c
}

func (c *Cache[K, V]) shard(k K) *shard[K, V] {
	if len(c.shards) == 1 {
		return &c.shards[0]
	}
	return &c.shards[maphash.Comparable(c.seed, k)%uint64(len(c.shards))]
}

// Get finds a value and marks it as used.
func (c *Cache[K, V]) Get(k K) (V, bool) {
	s := c.shard(k)
	s.mu.Lock()
	el, ok := s.items[k]
	var v V
	if ok {
		s.order.MoveToFront(el)
		v = el.Value.(*entry[K, V]).val
	}
	s.mu.Unlock()
	if ok {
		c.hits.Inc()
	} else {
		c.misses.Inc()
	}
	return v, ok
}

// Put stores a value in place of an older one and evicts what is over the bounds. A value that costs more than a
// whole shard may hold is not kept.
func (c *Cache[K, V]) Put(k K, v V) {
	cost := int64(1)
	if c.cost != nil {
		cost = c.cost(k, v)
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(k)
	s.items[k] = s.order.PushFront(&entry[K, V]{k, v, cost})
	s.cost += cost
	for s.over() {
		s.remove(s.order.Back().Value.(*entry[K, V]).key)
	}
}

// Delete forgets a key.
func (c *Cache[K, V]) Delete(k K) {
	s := c.shard(k)
	s.mu.Lock()
	s.remove(k)
	s.mu.Unlock()
}

// DeleteFunc forgets all entries for which del is true. It looks at every entry; del must not use the cache.
func (c *Cache[K, V]) DeleteFunc(del func(K, V) bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for k, el := range s.items {
			if del(k, el.Value.(*entry[K, V]).val) {
				s.remove(k)
			}
		}
		s.mu.Unlock()
	}
}

// Len is the number of entries.
func (c *Cache[K, V]) Len() int {
	n := 0
	for i := range c.shards {
		c.shards[i].mu.Lock()
		n += len(c.shards[i].items)
		c.shards[i].mu.Unlock()
	}
	return n
}

func (s *shard[K, V]) over() bool {
	return len(s.items) > s.maxEntries || s.maxCost > 0 && s.cost > s.maxCost
}

func (s *shard[K, V]) remove(k K) {
	if el, ok := s.items[k]; ok {
		delete(s.items, k)
		s.cost -= s.order.Remove(el).(*entry[K, V]).cost
	}
}
