package e2ee

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"knock/internal/sqldb"
)

const (
	resyncWorkers = 4
	ackEvery      = time.Second
	staleEvery    = time.Minute
	pruneEvery    = time.Hour
	// txnsLive is how long a request that was done is remembered.
	txnsLive = 7 * 24 * time.Hour
	// portion bounds what one housekeeping operation touches.
	portion = 1000
)

// Run fetches other servers' device lists, deletes what was acknowledged and prunes, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range resyncWorkers {
		g.Go(func() error { return s.work(ctx) })
	}
	g.Go(func() error { return s.housekeep(ctx) })
	return g.Wait()
}

func (s *Service) housekeep(ctx context.Context) error {
	acks, stale, prune := time.NewTicker(ackEvery), time.NewTicker(staleEvery), time.NewTicker(pruneEvery)
	defer acks.Stop()
	defer stale.Stop()
	defer prune.Stop()
	s.warn(s.retryStale(ctx), "could not look for device lists that missed something")
	for {
		select {
		case <-ctx.Done():
			s.warn(s.flushAcks(context.WithoutCancel(ctx)), "could not delete delivered messages")
			return nil
		case <-acks.C:
			s.warn(s.flushAcks(ctx), "could not delete delivered messages")
		case <-stale.C:
			s.warn(s.retryStale(ctx), "could not look for device lists that missed something")
		case <-prune.C:
			s.warn(s.Prune(ctx), "could not prune")
		}
	}
}

// retryStale queues the lists that missed something.
func (s *Service) retryStale(ctx context.Context) error {
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		users, err := sqldb.Collect(tx, remoteStale, scanText, 1, portion)
		s.resyncs.add(users...)
		return err
	})
}

// Prune removes what nobody needs any more: old transaction ids, and lists of users with whom no room is shared.
func (s *Service) Prune(ctx context.Context) error {
	before := s.o.Clock.Millis() - txnsLive.Milliseconds()
	for {
		var n int64
		err := s.db.Do(ctx, &sqldb.Op{Name: "e2ee.pruneTxns", Write: func(tx *sqldb.Tx, _ int64) (err error) {
			n, err = tx.Exec(txnPrune, before, portion)
			return err
		}})
		if err != nil {
			return err
		}
		if n < portion {
			return s.pruneRemote(ctx)
		}
	}
}

func (s *Service) pruneRemote(ctx context.Context) error {
	for last := ""; ; {
		var users []string
		err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			users, err = sqldb.Collect(tx, remoteUsers, scanText, last, portion/10)
			return err
		})
		if err != nil || len(users) == 0 {
			return err
		}
		last = users[len(users)-1]
		err = s.db.Do(ctx, &sqldb.Op{Name: "e2ee.pruneRemote", Write: func(tx *sqldb.Tx, _ int64) error {
			return s.Unshared(tx, users)
		}})
		if err != nil {
			return err
		}
	}
}
