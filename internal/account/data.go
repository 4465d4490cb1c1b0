package account

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Bounds of one user's account data.
const (
	maxDataType  = 255    // bytes
	maxData      = 20_000 // rows
	maxDataBytes = 32 << 20
	smallData    = 4 << 10 // bytes of a row that may grow without being counted
)

// Datum is one piece of account data. Deleted data has the content {}.
type Datum struct {
	Room    string // "" for global data
	Type    string
	Content json.RawMessage
	Pos     int64
}

const (
	typeTags    = "m.tag"
	typeDirect  = "m.direct"
	typeIgnored = "m.ignored_user_list"
)

// AccountDataSince returns a user's account data with from < position ≤ to, oldest first. From 0 it leaves out what
// was deleted; later it tells of the deletion with content {}.
func (s *Service) AccountDataSince(tx *sqldb.Tx, userID string, from, to int64) ([]Datum, error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	all, err := sqldb.Collect(tx, dataSince, scanDatum, local, from, to)
	kept := all[:0]
	for _, d := range all {
		switch {
		case len(d.Content) > 0:
			kept = append(kept, d)
		case from > 0:
			d.Content = json.RawMessage("{}")
			kept = append(kept, d)
		}
	}
	return kept, err
}

func scanDatum(r *sqldb.Rows) (d Datum, err error) {
	return d, r.Scan(&d.Room, &d.Type, &d.Content, &d.Pos)
}

// AccountData is the content of one piece of data; room is "" for global data. M_NOT_FOUND when there is none.
func (s *Service) AccountData(ctx context.Context, userID, room, kind string) (json.RawMessage, error) {
	local, err := s.ours(userID)
	if err != nil {
		return nil, err
	}
	var content json.RawMessage
	err = s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		content, err = readData(tx, local, room, kind)
		return err
	})
	if err == nil && len(content) == 0 {
		return nil, matrixerr.NotFound("There is no account data of this type")
	}
	return content, err
}

// readData returns nothing, without an error, for data that does not exist or was deleted.
func readData(tx *sqldb.Tx, local, room, kind string) (content []byte, err error) {
	err = tx.QueryRow(dataRow, local, room, kind).Scan(&content)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return content, err
}

// PutAccountData stores one piece of data, a JSON object; room is "" for global data. Which types a client may set
// is the door's to decide. Errors: M_INVALID_PARAM, M_TOO_LARGE, M_NOT_FOUND.
func (s *Service) PutAccountData(ctx context.Context, userID, room, kind string, content json.RawMessage) error {
	var compact bytes.Buffer
	if err := json.Compact(&compact, content); err != nil {
		return matrixerr.BadJSON("Account data must be a JSON object").With(err)
	}
	return s.editData(ctx, userID, room, kind, func([]byte) ([]byte, error) { return compact.Bytes(), nil })
}

// DeleteAccountData removes one piece of data (MSC3391); what is not there is no error.
func (s *Service) DeleteAccountData(ctx context.Context, userID, room, kind string) error {
	return s.editData(ctx, userID, room, kind, func(was []byte) ([]byte, error) { return nil, nil })
}

// editData replaces data by what edit makes of it, inside the transaction. edit may run more than once. Nothing in
// place of nothing is not a change.
func (s *Service) editData(ctx context.Context, userID, room, kind string, edit func(was []byte) ([]byte, error)) error {
	local, err := s.ours(userID)
	if err != nil {
		return err
	}
	if kind == "" || len(kind) > maxDataType || len(room) > maxDataType {
		return matrixerr.InvalidParam("The type of account data has 1 to 255 bytes")
	}
	var verdict error
	changed := false
	edit, content := noted(edit)
	err = s.db.Do(ctx, &sqldb.Op{Name: "account.data", Positions: 1,
		Write: func(tx *sqldb.Tx, pos int64) (err error) {
			changed, verdict, err = writeData(tx, local, Datum{Room: room, Type: kind, Pos: pos}, edit)
			return err
		},
		Committed: func(pos int64) {
			if !changed {
				return
			}
			if room == "" {
				s.heed(local, userID, kind, content())
			}
			s.o.Hub.TouchUser(userID, pos)
		}})
	if err == nil {
		err = verdict
	}
	return err
}

// heed notes in memory what account data of a few types says.
func (s *Service) heed(local, userID, kind string, content json.RawMessage) {
	switch {
	case kind == typeIgnored:
		s.ignored.drop(local)
		s.ignoring.set(userID, content)
	case slices.Contains(inviteTypes, kind):
		s.inviting.set(userID, kind, content)
	}
}

func writeData(tx *sqldb.Tx, local string, d Datum, edit func([]byte) ([]byte, error)) (changed bool, verdict, err error) {
	was, err := readData(tx, local, d.Room, d.Type)
	if err != nil {
		return false, nil, err
	}
	content, verdict := edit(was)
	if verdict != nil || len(was) == 0 && len(content) == 0 {
		return false, verdict, nil
	}
	if len(was) == 0 || len(content) > max(len(was), smallData) {
		if verdict, err = roomForData(tx, local, len(was) == 0, len(content)-len(was)); verdict != nil || err != nil {
			return false, verdict, err
		}
	}
	if content == nil {
		content = []byte{}
	}
	_, err = tx.Exec(dataUpsert, local, d.Room, d.Type, content, d.Pos)
	return err == nil, nil, err
}

// roomForData refuses more data, in a row of its own or not, for a user who has very much, or who is not there.
func roomForData(tx *sqldb.Tx, local string, row bool, more int) (verdict, err error) {
	var rows, size int64
	if err := tx.QueryRow(dataSize, local).Scan(&rows, &size); err != nil {
		return nil, err
	}
	switch {
	case row && rows >= maxData:
		return matrixerr.TooLarge(fmt.Sprintf("You have %d pieces of account data; delete some first", rows)), nil
	case size+int64(more) > maxDataBytes:
		return matrixerr.TooLarge("Your account data would take more than 32 MiB; delete some first"), nil
	}
	var u User
	verdict = activeUser(tx, local, &u)
	return verdict, onlyUnknown(verdict)
}

// IgnoredUsers is the set of users whom a user ignores (m.ignored_user_list). It is cached and must not be changed;
// nobody is nil.
func (s *Service) IgnoredUsers(ctx context.Context, userID string) (map[string]struct{}, error) {
	local, ok := s.Localpart(userID)
	if !ok {
		return nil, nil
	}
	if set, ok := s.ignored.get(local); ok {
		return set, nil
	}
	var set map[string]struct{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		set, err = s.readIgnored(tx, local, userID)
		return err
	})
	return set, err
}

// IgnoredUsersTx is IgnoredUsers in a snapshot that is open already.
func (s *Service) IgnoredUsersTx(tx *sqldb.Tx, userID string) (map[string]struct{}, error) {
	local, ok := s.Localpart(userID)
	if !ok {
		return nil, nil
	}
	if set, ok := s.ignored.get(local); ok {
		return set, nil
	}
	return s.readIgnored(tx, local, userID)
}

func (s *Service) readIgnored(tx *sqldb.Tx, local, userID string) (map[string]struct{}, error) {
	before := s.ignored.epoch.Load()
	content, err := readData(tx, local, "", typeIgnored)
	if err != nil {
		return nil, err
	}
	set := parseIgnored(content, userID, s.o.Herald)
	s.ignored.put(local, set, before)
	return set, nil
}

// parseIgnored takes what a client of a user wrote; what is not a list of users ignores nobody. Nobody can ignore
// themselves or the herald.
func parseIgnored(content []byte, userID, herald string) map[string]struct{} {
	var list struct {
		Users map[string]json.RawMessage `json:"ignored_users"`
	}
	if json.Unmarshal(content, &list) != nil || len(list.Users) == 0 {
		return nil
	}
	set := make(map[string]struct{}, len(list.Users))
	for user := range list.Users {
		if user != userID && user != herald {
			set[user] = struct{}{}
		}
	}
	return set
}

// ignoredCache keeps sets of ignored users; most are nil.
type ignoredCache struct {
	epoch epoch
	mu    sync.RWMutex
	m     generations[string, map[string]struct{}]
}

func newIgnoredCache() *ignoredCache {
	return &ignoredCache{m: newGenerations[string, map[string]struct{}](20_000)}
}

func (c *ignoredCache) get(local string) (map[string]struct{}, bool) {
	c.mu.RLock()
	set, aged, ok := c.m.get(local)
	at := c.epoch.Load()
	c.mu.RUnlock()
	if aged {
		c.put(local, set, at)
	}
	return set, ok
}

func (c *ignoredCache) put(local string, set map[string]struct{}, at uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch.Load() == at {
		c.m.put(local, set)
	}
}

func (c *ignoredCache) drop(local string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch.Add(1)
	c.m.drop(local)
}
