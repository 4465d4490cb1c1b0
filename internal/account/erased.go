package account

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"

	"knock/internal/sqldb"
)

// erasures are the users who asked to be erased, with the position at which they did. All are in memory, since everybody
// who reads a history asks.
type erasures struct {
	mu sync.Mutex
	m  atomic.Pointer[map[string]int64] // by user id; never changed, only replaced
}

func newErasures() *erasures {
	e := &erasures{}
	e.m.Store(&map[string]int64{})
	return e
}

func (e *erasures) add(userID string, pos int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := maps.Clone(*e.m.Load())
	m[userID] = pos
	e.m.Store(&m)
}

// Erased reports whether a local user asked to be erased, and at which position; 0 for a time that is not known.
func (s *Service) Erased(userID string) (pos int64, erased bool) {
	pos, erased = (*s.erasures.m.Load())[userID]
	return pos, erased
}

// loadErasures reads them at the start.
func (s *Service) loadErasures(ctx context.Context) error {
	m := map[string]int64{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		rows, err := tx.Query(usersErased)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var local []byte
			var pos int64
			if err := rows.Scan(&local, &pos); err != nil {
				return err
			}
			m[s.userID(string(local))] = pos
		}
		return rows.Close()
	})
	if err == nil {
		s.erasures.m.Store(&m)
	}
	return err
}
