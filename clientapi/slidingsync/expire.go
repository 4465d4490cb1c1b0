package slidingsync

import (
	"context"
	"time"

	"knock/internal/sqldb"
)

// DevicesDeleted forgets the connections of devices, in the transaction that
// deletes them.
func (s *Sync) DevicesDeleted(tx *sqldb.Tx, _ int64, userID string, ids []string) (func(), error) {
	_, err := tx.Exec(deleteDevice, userID, ids)
	return nil, err
}

// Run deletes connections that were not used for a month, until ctx ends.
func (s *Sync) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.expire(ctx); err != nil && ctx.Err() == nil && s.o.Log != nil {
			s.o.Log.WithError(err).Warn("cannot delete old connections of sliding sync; will try again in an hour")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Sync) expire(ctx context.Context) error {
	before := s.o.Clock.Millis() - expireIn.Milliseconds()
	return s.o.DB.Do(ctx, &sqldb.Op{Name: "sliding.expire", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(expireStates, before)
		return err
	}})
}
