package e2ee

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
	"knock/internal/sqldb"
)

var (
	countKeys = sqldb.Register("e2ee.countKeys",
		`SELECT algorithm, total, used FROM e2ee_batches WHERE user_id = $1 AND device_id = $2`)
	unusedFallback = sqldb.Register("e2ee.unusedFallback",
		`SELECT algorithm FROM e2ee_fallback WHERE user_id = $1 AND device_id = $2 AND used = $3 ORDER BY algorithm`)
)

// deviceKey names a device.
type deviceKey struct{ user, device string }

// counts are the one-time keys that a device has left, by algorithm, and the algorithms of its unused fallback keys.
type counts struct {
	oneTime  map[string]int
	fallback []string
}

// countCache keeps counts so that an idle sync costs no SQL. A change drops its device; what was read meanwhile is
// then not kept.
type countCache struct {
	m      *cache.Cache[deviceKey, counts]
	seed   maphash.Seed
	epochs [64]atomic.Uint64

	dropped func(Device) // nil: nobody wants to know
}

func newCountCache(reg prometheus.Registerer) *countCache {
	return &countCache{seed: maphash.MakeSeed(), m: cache.New(cache.Options[deviceKey, counts]{Name: "e2ee_counts",
		Entries: 50_000, Shards: 8, Registerer: reg})}
}

func (c *countCache) epoch(k deviceKey) *atomic.Uint64 {
	return &c.epochs[maphash.Comparable(c.seed, k)%uint64(len(c.epochs))]
}

func (c *countCache) drop(user, device string) {
	k := deviceKey{user, device}
	c.epoch(k).Add(1)
	c.m.Delete(k)
	if c.dropped != nil {
		c.dropped(Device{user, device})
	}
}

func (c *countCache) put(k deviceKey, v counts, read uint64) {
	c.m.Put(k, v)
	if c.epoch(k).Load() != read {
		c.m.Delete(k)
	}
}

// KeyCounts returns how many one-time keys a local device has left, by algorithm, and the algorithms whose fallback
// key has not been given out. It is read from memory mostly.
func (s *Service) KeyCounts(ctx context.Context, userID, deviceID string) (oneTime map[string]int, unused []string, err error) {
	k := deviceKey{userID, deviceID}
	epoch := s.counts.epoch(k).Load()
	c, ok := s.counts.m.Get(k)
	if !ok {
		if c, err = s.readCounts(ctx, k); err != nil {
			return nil, nil, err
		}
		s.counts.put(k, c, epoch)
	}
	return maps.Clone(c.oneTime), slices.Clone(c.fallback), nil
}

func (s *Service) readCounts(ctx context.Context, k deviceKey) (c counts, err error) {
	c.oneTime = map[string]int{}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := sqldb.Collect(tx, countKeys, func(r *sqldb.Rows) (_ struct{}, err error) {
			var algorithm []byte
			var total, used int
			if err = r.Scan(&algorithm, &total, &used); err == nil && total > used {
				c.oneTime[string(algorithm)] += total - used
			}
			return struct{}{}, err
		}, k.user, k.device)
		if err != nil {
			return err
		}
		c.fallback, err = sqldb.Collect(tx, unusedFallback, scanText, k.user, k.device, 0)
		return err
	})
	if c.fallback == nil {
		c.fallback = []string{}
	}
	return c, err
}
