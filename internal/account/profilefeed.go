package account

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"

	"knock/internal/sqldb"
	"knock/internal/stream"
)

// profileReaders are the local users whose clients ask to be told of changed profiles (MSC4429, MSC4262). Everybody
// else is not woken by them.
type profileReaders struct {
	newest atomic.Int64 // position of the newest change; after a start, of the start

	mu    sync.RWMutex
	users map[string]struct{}
}

func newProfileReaders(hub *stream.Hub) *profileReaders {
	r := &profileReaders{users: map[string]struct{}{}}
	if hub != nil {
		r.newest.Store(hub.Published())
	}
	return r
}

// tell wakes those who see a user.
func (r *profileReaders) tell(hub *stream.Hub, changed string, pos int64) {
	r.newest.Store(pos)
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.users) > 0 {
		hub.TouchPeople(changed, pos, func(reader string) bool { _, reads := r.users[reader]; return reads })
	}
}

// ReadsProfiles says that a client of the user wants to be told of changed profiles. It returns true the first time:
// the client must look whether any changed before.
func (s *Service) ReadsProfiles(userID string) bool {
	r := s.readers
	r.mu.RLock()
	_, known := r.users[userID]
	r.mu.RUnlock()
	if known {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users[userID] = struct{}{}
	return true
}

// ProfileNews are the fields of users' profiles, by user id. A nil value stands for a field that was removed.
type ProfileNews map[string]map[string]json.RawMessage

// ProfileNews returns what changed at positions from < pos ≤ to in the profiles of local users whom the viewer sees:
// those with whom they share a room, and themselves; with from = 0 that is all there is. Of local users among the
// newcomers it has the whole profiles. Nil fields are all. It costs no SQL when there is nothing.
func (s *Service) ProfileNews(ctx context.Context, viewer string, from, to int64, newcomers, fields []string) (ProfileNews, error) {
	var locals [][]byte
	for _, user := range newcomers {
		if local, ok := s.Localpart(user); ok {
			locals = append(locals, []byte(local))
		}
	}
	changed := from == 0 || s.readers.newest.Load() > from
	if from == 0 {
		from = -1 // what accounts are made with has no position
	}
	news := ProfileNews{}
	if !changed && len(locals) == 0 {
		return news, nil
	}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		if changed {
			if err := news.collect(s, tx, fields, s.seenBy(viewer, from < 0), profilesSince, from, to); err != nil {
				return err
			}
		}
		if len(locals) == 0 {
			return nil
		}
		return news.collect(s, tx, fields, func(string, bool) bool { return true }, profilesOf, locals)
	})
	return news, err
}

// seenBy picks the users whom a viewer sees. At first removed fields are nothing to tell.
func (s *Service) seenBy(viewer string, first bool) func(user string, removed bool) bool {
	sees := map[string]bool{viewer: true}
	return func(user string, removed bool) bool {
		if first && removed {
			return false
		}
		yes, known := sees[user]
		if !known {
			yes = s.o.Hub.ShareRoom(viewer, user)
			sees[user] = yes
		}
		return yes
	}
}

// collect adds the fields that a statement selects.
func (news ProfileNews) collect(s *Service, tx *sqldb.Tx, fields []string, keep func(user string, removed bool) bool, stmt *sqldb.Stmt, args ...any) error {
	_, err := sqldb.Collect(tx, stmt, func(r *sqldb.Rows) (struct{}, error) {
		var local, field, value []byte
		if err := r.Scan(&local, &field, &value); err != nil {
			return struct{}{}, err
		}
		user := s.userID(string(local))
		if fields != nil && !slices.Contains(fields, string(field)) || !keep(user, len(value) == 0) {
			return struct{}{}, nil
		}
		if news[user] == nil {
			news[user] = map[string]json.RawMessage{}
		}
		if len(value) == 0 {
			value = nil
		}
		news[user][string(field)] = value
		return struct{}{}, nil
	}, args...)
	return err
}
