package account

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Standing is what administrators did to an account (Client-Server API, "Account moderation").
type Standing struct {
	Locked    bool // it cannot be used until it is unlocked; its sessions stay
	Suspended bool // it may read, leave and redact its own events, and not much more
}

// standings are the accounts that are not in good standing: few, and all in memory, since every request asks.
type standings struct {
	m atomic.Pointer[map[string]Standing] // by user id; never changed, only replaced
}

func newStandings() *standings {
	s := &standings{}
	s.m.Store(&map[string]Standing{})
	return s
}

func (s *standings) of(userID string) Standing { return (*s.m.Load())[userID] }

// set is called by one goroutine at a time: the writer's.
func (s *standings) set(userID string, st Standing) {
	m := maps.Clone(*s.m.Load())
	if st == (Standing{}) {
		delete(m, userID)
	} else {
		m[userID] = st
	}
	s.m.Store(&m)
}

// loadStandings reads them at the start.
func (s *Service) loadStandings(ctx context.Context) error {
	m := map[string]Standing{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		rows, err := tx.Query(userStandings)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var local []byte
			var st Standing
			if err := rows.Scan(&local, &st.Locked, &st.Suspended); err != nil {
				return err
			}
			m[s.userID(string(local))] = st
		}
		return rows.Close()
	})
	if err == nil {
		s.standings.m.Store(&m)
	}
	return err
}

// Standing is that of a local user.
func (s *Service) Standing(userID string) Standing { return s.standings.of(userID) }

// SetLocked locks an account or unlocks it. Its sessions stay, and its long polls end at once. Errors: M_NOT_FOUND,
// M_USER_DEACTIVATED.
func (s *Service) SetLocked(ctx context.Context, userID string, locked bool) error {
	return s.setStanding(ctx, userID, func(st *Standing) { st.Locked = locked })
}

// SetSuspended suspends an account or ends that. Errors: M_NOT_FOUND, M_USER_DEACTIVATED.
func (s *Service) SetSuspended(ctx context.Context, userID string, suspended bool) error {
	return s.setStanding(ctx, userID, func(st *Standing) { st.Suspended = suspended })
}

func (s *Service) setStanding(ctx context.Context, userID string, edit func(*Standing)) error {
	return s.change(ctx, userID, "account.standing", func(tx *sqldb.Tx, local string, r *removal) error {
		// Writes come one after another, but those of one batch are in memory only after its commit.
		var st Standing
		if err := tx.QueryRow(userStanding, local).Scan(&st.Locked, &st.Suspended); err != nil {
			return err
		}
		edit(&st)
		r.after.fn = func() {
			s.standings.set(userID, st)
			if st.Locked {
				s.watches.end(userID, matrixerr.UserLocked(), func(*watch) bool { return true })
			}
		}
		_, err := tx.Exec(userSetStanding, local, st.Locked, st.Suspended)
		return err
	})
}

// watches are the long polls under way.
type watches struct {
	mu sync.Mutex
	m  map[string]map[*watch]struct{} // by user id
}

type watch struct {
	session int64 // 0 when an application service polls: it has no session that could end
	cancel  context.CancelCauseFunc
}

func newWatches() *watches { return &watches{m: map[string]map[*watch]struct{}{}} }

func (w *watches) add(userID string, one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m[userID] == nil {
		w.m[userID] = map[*watch]struct{}{}
	}
	w.m[userID][one] = struct{}{}
}

func (w *watches) remove(userID string, one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delete(w.m[userID], one); len(w.m[userID]) == 0 {
		delete(w.m, userID)
	}
}

// end ends a user's polls that which chooses.
func (w *watches) end(userID string, why error, which func(*watch) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one := range w.m[userID] {
		if which(one) {
			one.cancel(why)
		}
	}
}

// endSessions ends the polls of sessions that ended.
func (w *watches) endSessions(userID string, sessions []int64) {
	w.end(userID, errUnknownToken(), func(one *watch) bool { return one.session != 0 && slices.Contains(sessions, one.session) })
}

// Watch returns a context for a long poll of c. It ends, with what to answer as its cause, when the account is locked
// or the session ends. done must be called when the poll is over.
func (s *Service) Watch(ctx context.Context, c httpx.Caller) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	one := &watch{cancel: cancel}
	if c.AppService == "" {
		one.session = c.Session
	}
	s.watches.add(c.UserID, one)
	if s.standings.of(c.UserID).Locked { // since the caller was authenticated
		cancel(matrixerr.UserLocked())
	}
	return ctx, func() {
		s.watches.remove(c.UserID, one)
		cancel(nil)
	}
}
