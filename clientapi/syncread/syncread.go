// Package syncread owns what /sync and sliding sync read in the same way: the
// parts of a room's state that clients want to see first, heroes, events in the
// client's format, and which member events a client has been given already.
package syncread

import (
	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Bundle returns what else timeline events carry for a viewer, such as
// aggregations of relations.
type Bundle func(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) (func(*store.Stored, *event.ClientOptions), error)

// Options are what a Reader needs.
type Options struct {
	Rooms      *roomserver.Server
	Bundle     Bundle                // nil: nothing
	Clock      clock.Clock           // nil: the system's
	Registerer prometheus.Registerer // nil: no metrics
}

// Reader reads rooms for syncs. It is safe for concurrent use.
type Reader struct {
	o      Options
	plain  *cache.Cache[int64, plainState]
	heroes *cache.Cache[int64, heroList]
}

// New makes a Reader.
func New(o Options) *Reader {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &Reader{
		o: o,
		plain: cache.New(cache.Options[int64, plainState]{Name: "sync_plain_state", Entries: 20_000, Bytes: 32 << 20, Registerer: o.Registerer,
			Cost: func(_ int64, p plainState) int64 { return int64(16*len(p.entries)) + 64 }}),
		heroes: cache.New(cache.Options[int64, heroList]{Name: "sync_heroes", Entries: 20_000, Registerer: o.Registerer}),
	}
}
