package account

import (
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
	for reader := range r.users {
		if reader == changed || hub.ShareRoom(reader, changed) {
			hub.TouchReader(reader, pos)
		}
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

// ProfilesSince returns what changed at positions from < pos ≤ to in the profiles of local users whom the viewer sees:
// those with whom they share a room, and themselves. With from = 0 that is all there is. Nil fields are all. It costs
// no SQL when nothing changed.
func (s *Service) ProfilesSince(tx *sqldb.Tx, viewer string, from, to int64, fields []string) (ProfileNews, error) {
	if from > 0 && s.readers.newest.Load() <= from {
		return nil, nil
	}
	first := from <= 0
	if first {
		from = -1
	}
	sees := map[string]bool{viewer: true}
	keep := func(user string, removed bool) bool {
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
	return s.profileNews(tx, fields, keep, profilesSince, from, to)
}

// ProfilesOf returns the profiles of those of the users who are local. Nil fields are all.
func (s *Service) ProfilesOf(tx *sqldb.Tx, users, fields []string) (ProfileNews, error) {
	var locals [][]byte
	for _, user := range users {
		if local, ok := s.Localpart(user); ok {
			locals = append(locals, []byte(local))
		}
	}
	if len(locals) == 0 {
		return nil, nil
	}
	return s.profileNews(tx, fields, func(string, bool) bool { return true }, profilesOf, locals)
}

func (s *Service) profileNews(tx *sqldb.Tx, fields []string, keep func(user string, removed bool) bool, stmt *sqldb.Stmt, args ...any) (ProfileNews, error) {
	news := ProfileNews{}
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
	return news, err
}
