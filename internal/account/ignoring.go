package account

import (
	"context"
	"encoding/json"
	"sync"

	"knock/internal/sqldb"
)

// ignoring is who ignores whom, by the ignored: unread counts ask about the sender of every message.
type ignoring struct {
	mu     sync.RWMutex
	herald string
	by     map[string]map[string]struct{} // sender → local users who ignore them
	of     map[string][]string            // local user → whom they ignore
}

func newIgnoring(herald string) *ignoring {
	return &ignoring{herald: herald, by: map[string]map[string]struct{}{}, of: map[string][]string{}}
}

// set replaces whom a user ignores by what the content of m.ignored_user_list says.
func (i *ignoring) set(userID string, content []byte) {
	senders := parseIgnored(content, userID, i.herald)
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, sender := range i.of[userID] {
		delete(i.by[sender], userID)
		if len(i.by[sender]) == 0 {
			delete(i.by, sender)
		}
	}
	delete(i.of, userID)
	for sender := range senders {
		if i.by[sender] == nil {
			i.by[sender] = map[string]struct{}{}
		}
		i.by[sender][userID] = struct{}{}
		i.of[userID] = append(i.of[userID], sender)
	}
}

var dataOfType = sqldb.Register("account.dataOfType", `SELECT localpart, content FROM account_data WHERE type = $1 AND room = $2`)

// Load reads who ignores whom and who wants no invites. Call it before requests are served.
func (s *Service) Load(ctx context.Context) error {
	for _, load := range []func(context.Context) error{s.loadStandings, s.loadErasures} {
		if err := load(ctx); err != nil {
			return err
		}
	}
	type row struct{ local, content []byte }
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		for _, kind := range append(inviteTypes, typeIgnored) {
			rows, err := sqldb.Collect(tx, dataOfType, func(r *sqldb.Rows) (v row, err error) {
				err = r.Scan(&v.local, &v.content)
				return v, err
			}, kind, "")
			if err != nil {
				return err
			}
			for _, r := range rows {
				s.heed(string(r.local), "@"+string(r.local)+s.suffix, kind, r.content)
			}
		}
		return nil
	})
}

// AnyoneIgnores reports whether some local user ignores the sender.
func (s *Service) AnyoneIgnores(sender string) bool {
	s.ignoring.mu.RLock()
	defer s.ignoring.mu.RUnlock()
	return s.ignoring.by[sender] != nil
}

// Ignores reports whether a local user ignores the sender.
func (s *Service) Ignores(userID, sender string) bool {
	s.ignoring.mu.RLock()
	defer s.ignoring.mu.RUnlock()
	_, yes := s.ignoring.by[sender][userID]
	return yes
}

// noted returns edit, and a function that tells what it made of the content last.
func noted(edit func(was []byte) ([]byte, error)) (func([]byte) ([]byte, error), func() json.RawMessage) {
	var last []byte
	return func(was []byte) (content []byte, err error) {
		content, err = edit(was)
		last = content
		return content, err
	}, func() json.RawMessage { return last }
}
