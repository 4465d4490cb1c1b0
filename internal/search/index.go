// Package search owns the index of what people wrote: the words of messages, names and topics of rooms, and the search
// among them (Client-Server API, "Server Side Search").
//
// The index is an inverted one in tables of our own, the same on both databases: segments that are written once and
// merged into larger ones, as in Lucene. It follows the rooms from a position that it saves with what it writes, so
// nothing is lost by a crash and an index that does not exist yet is built from the events that are there; sending does
// nothing for it. The index only says where to look: what is found is read again, and counts if its newest text matches
// and the searcher may see it.
package search

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"knock/internal/clock"
	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Options are what an Index needs.
type Options struct {
	Rooms     *roomserver.Server
	Relations *relations.Reader
	// Queue is the participant of Rooms; nil: there is none.
	Queue *Queue
	// Ignores reports whether a user ignores another; nil: nobody does.
	Ignores    func(userID, sender string) bool
	Log        *logrus.Entry // nil: the standard logger
	Registerer prometheus.Registerer
	Clock      clock.Clock // nil: the real time
}

// Index is the search index.
type Index struct {
	o     Options
	db    *sqldb.DB
	store *store.Store
	hub   *stream.Hub
	sub   *stream.Subscription
	stats *stats

	wake  chan struct{} // Rebuild asks Run to look
	grown chan struct{} // there may be something to merge
	slots chan struct{} // searches at once

	following chan struct{} // held by who follows, one at a time
	loaded    bool
	state     state

	mergeMu sync.Mutex // one merges at a time; taken after following
	swept   bool       // what a crash left is removed
}

// maxChanges is how far following may fall behind before it reads the database instead.
const maxChanges = 8192

// New makes an Index.
func New(o Options) *Index {
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if o.Queue == nil {
		o.Queue = NewQueue(o.Rooms.Store)
	}
	if o.Ignores == nil {
		o.Ignores = func(string, string) bool { return false }
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return &Index{o: o, db: o.Rooms.Store.DB, store: o.Rooms.Store, hub: o.Rooms.Hub, sub: o.Rooms.Hub.Subscribe(maxChanges),
		stats: newStats(o.Registerer), wake: make(chan struct{}, 1), grown: make(chan struct{}, 1),
		following: make(chan struct{}, 1), slots: make(chan struct{}, maxSearches)}
}

const (
	settle  = time.Second     // how long changes may gather
	recheck = time.Second     // how often the queue is looked at while there may be something in it
	retry   = 5 * time.Second // after an error
)

// Run follows the rooms until ctx ends.
func (x *Index) Run(ctx context.Context) error {
	var parts errgroup.Group
	parts.Go(func() error { x.follow(ctx); return nil })
	parts.Go(func() error { x.mergeAll(ctx); return nil })
	return parts.Wait()
}

func (x *Index) follow(ctx context.Context) {
	check := time.NewTicker(recheck)
	defer check.Stop()
	var first *stream.Change
	for {
		pause := settle
		if err := x.step(ctx, first); err != nil && ctx.Err() == nil {
			x.o.Log.WithError(err).Warn("The search index could not be brought up to date; trying again")
			pause = retry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if first = x.await(ctx, check.C); ctx.Err() != nil {
			return
		}
	}
}

// await waits for something to do. What it took off the subscription is given back.
func (x *Index) await(ctx context.Context, check <-chan time.Time) *stream.Change {
	for {
		select {
		case <-ctx.Done():
			return nil
		case change := <-x.sub.C:
			return &change
		case <-x.wake:
			return nil
		case <-check:
			if x.o.Queue.maybe() {
				return nil
			}
		}
	}
}

// CatchUp indexes everything that there is, and merges what should be merged.
func (x *Index) CatchUp(ctx context.Context) error {
	if err := x.step(ctx, nil); err != nil {
		return err
	}
	return x.mergeDue(ctx)
}

// follows runs do as the only one that follows.
func (x *Index) follows(ctx context.Context, do func() error) error {
	select {
	case x.following <- struct{}{}:
		defer func() { <-x.following }()
		return do()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// step indexes everything that there is. first is a change that was taken off the subscription.
func (x *Index) step(ctx context.Context, first *stream.Change) error {
	return x.follows(ctx, func() error {
		err := x.load(ctx)
		for _, do := range []func() error{
			func() error { return x.catchUp(ctx) },
			func() error { return x.takeChanges(ctx, first) },
			func() error { return x.takeQueue(ctx) },
		} {
			if err == nil {
				err = do()
			}
		}
		if err != nil {
			x.loaded = false // what was taken off the subscription is read from the database
		}
		return err
	})
}

// freshen indexes what was just written, so that people find what they see. It does not wait long: an index that is
// being made is searched as it is.
func (x *Index) freshen(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := x.step(short, nil)
	if short.Err() != nil {
		signal(x.wake)
		return ctx.Err()
	}
	return err
}

// patience is how long a search waits for what was just written.
const patience = time.Second

// load reads how far the index is, once. One that was made from other terms is thrown away.
func (x *Index) load(ctx context.Context) error {
	if x.loaded {
		return nil
	}
	err := x.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		x.state, err = readState(tx)
		return err
	})
	if err != nil {
		return err
	}
	if x.state != (state{}) && x.state.version != tokenVersion {
		x.o.Log.Info("The search index is of another version and is made anew")
		if err := x.drop(ctx); err != nil {
			return err
		}
	}
	if x.state.until == 0 {
		if err := x.begin(ctx); err != nil {
			return err
		}
	}
	x.loaded = true
	return nil
}

// Rebuild throws the index away; Run makes it anew.
func (x *Index) Rebuild(ctx context.Context) error {
	err := x.follows(ctx, func() error { return x.drop(ctx) })
	signal(x.wake)
	return err
}

// drop removes all of the index; the caller follows.
func (x *Index) drop(ctx context.Context) error {
	x.mergeMu.Lock()
	defer x.mergeMu.Unlock()
	x.loaded, x.state, x.swept = false, state{}, false
	err := x.db.Do(ctx, &sqldb.Op{Name: "search.drop", Write: func(tx *sqldb.Tx, _ int64) error {
		list, err := listSegments(tx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(deleteSegment, segs(list)); err != nil {
			return err
		}
		_, err = tx.Exec(forget, stateRow)
		return err
	}})
	if err != nil {
		return err
	}
	return x.sweep(ctx)
}

// Remove removes the index of a server that does not search, and with it the words of messages, until ctx ends.
func (x *Index) Remove(ctx context.Context) error {
	err := x.follows(ctx, func() error { return x.drop(ctx) })
	if err != nil && ctx.Err() == nil {
		x.o.Log.WithError(err).Warn("The search index, which is turned off, could not be removed; the next start tries again")
	}
	<-ctx.Done()
	return nil
}

func segs(list []meta) []int64 {
	out := make([]int64, len(list))
	for i, m := range list {
		out[i] = m.seg
	}
	return out
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
