package mediaapi

import (
	"context"
	"time"
)

// How old things must be before they are cleared away.
const (
	orphanAge = 24 * time.Hour // files that nothing names
	tempAge   = 24 * time.Hour // temporary files of this process that nobody wrote to
)

// batch is how many rows one operation of the collector touches.
const batch = 200

// expire removes created URIs whose content did not come, and cached media of other servers that are too old or too
// many.
func (m *Media) expire(ctx context.Context) error {
	for {
		list, err := m.store.expired(ctx, m.now(), batch)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return m.evict(ctx)
		}
		if err := m.store.delete(ctx, deletePending, list); err != nil {
			return err
		}
	}
}

// evict removes cached media of other servers. Their files go with the next sweep.
func (m *Media) evict(ctx context.Context) error {
	if m.o.RemoteRetention > 0 {
		before := m.now() - m.o.RemoteRetention.Milliseconds()
		if err := m.evictUntil(ctx, before, func(int64) bool { return false }); err != nil {
			return err
		}
	}
	if m.o.RemoteCache <= 0 {
		return nil
	}
	size, err := m.store.cached(ctx, m.o.ServerName)
	if err != nil || size <= m.o.RemoteCache {
		return err
	}
	return m.evictUntil(ctx, m.now(), func(gone int64) bool { return size-gone <= m.o.RemoteCache })
}

// evictUntil removes media last used before a time, longest ago first, until enough bytes are gone.
func (m *Media) evictUntil(ctx context.Context, before int64, enough func(gone int64) bool) error {
	gone := int64(0)
	for {
		list, err := m.store.stale(ctx, m.o.ServerName, before, batch)
		if err != nil || len(list) == 0 {
			return err
		}
		n := 0
		for ; n < len(list) && !enough(gone); n++ {
			gone += list[n].size
		}
		if n == 0 {
			return nil
		}
		if err := m.store.delete(ctx, deleteMedium, list[:n]); err != nil {
			return err
		}
	}
}

// collect sweeps one shard of the files.
func (m *Media) collect(ctx context.Context, shard int) error {
	removed, freed, err := m.o.Files.Sweep(ctx, shard, orphanAge, m.store)
	m.metrics.collected(removed, freed)
	if removed > 0 {
		m.o.Log.WithField("files", removed).WithField("bytes", freed).Info("Collected media that nothing names")
	}
	return err
}
