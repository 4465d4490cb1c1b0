package roomserver

import (
	"context"
	"errors"
	"fmt"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// errOtherVersion is returned for a room that has another version than is said.
var errOtherVersion = errors.New("the room has another version")

// ensureRoom returns the key of a room, making the row of one that this server
// is not in when there is none. The version of a room that this server never was
// in is a claim, which another one replaces; events keep the version that they
// were stored with.
func (s *Server) ensureRoom(ctx context.Context, roomID string, v *event.Version) (store.RoomKey, error) {
	s.invites.Lock()
	defer s.invites.Unlock()
	key, resident, err := s.roomRow(ctx, roomID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return s.claimRoom(ctx, roomID, v)
	case err != nil || key.Version == v:
		return key, err
	case resident:
		return key, fmt.Errorf("%w: %s, not %s", errOtherVersion, key.Version.ID, v.ID)
	}
	key.Version = v
	return key, s.retry(ctx, func() error { return s.claimVersion(ctx, key) })
}

// roomRow reads a room as it is, not as it was when its key was last read.
func (s *Server) roomRow(ctx context.Context, roomID string) (key store.RoomKey, resident bool, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		if key, err = s.Store.ReadRoom(tx, roomID); err != nil {
			return err
		}
		row, err := s.Store.RoomRow(tx, key.NID)
		resident = row.Resident
		return err
	})
	return key, resident, err
}

func (s *Server) claimRoom(ctx context.Context, roomID string, v *event.Version) (store.RoomKey, error) {
	key := store.RoomKey{NID: s.db.NextID(), ID: roomID, Version: v}
	err := s.db.Do(ctx, &sqldb.Op{Name: "room", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := s.Store.InsertRoom(tx, key, store.RoomRow{Rev: 1})
		return err
	}})
	if err != nil {
		return key, err
	}
	return s.Store.Room(ctx, roomID)
}

// claimVersion gives a room that this server never was in another version.
func (s *Server) claimVersion(ctx context.Context, key store.RoomKey) error {
	err := s.db.Do(ctx, &sqldb.Op{
		Name: "room",
		Check: func(tx *sqldb.Tx) error {
			revs := revsOf(tx)
			if revs[key.NID] != nil { // the room changes in the same transaction
				return store.ErrRevision
			}
			rev, err := s.Store.LockRoom(tx, key.NID)
			revs[key.NID] = &roomRev{base: rev, now: rev + 1}
			return err
		},
		Write:     func(tx *sqldb.Tx, _ int64) error { return s.Store.SetVersion(tx, key) },
		Committed: func(int64) { s.Store.KeepRoom(key) },
	})
	s.mu.Lock()
	r := s.rooms[key.NID]
	s.mu.Unlock()
	if r != nil {
		r.fail()
	}
	return err
}

// readAnew gives the events of an answer that are here already, from a time when
// another version was claimed for the room, the version that it has.
func (s *Server) readAnew(ctx context.Context, key store.RoomKey, a *joinAnswer) error {
	if _, resident, err := s.roomRow(ctx, a.room); err != nil || resident {
		return err
	}
	ids := make([]string, 0, len(a.order)+1)
	for _, e := range append(a.order[:len(a.order):len(a.order)], a.join) {
		ids = append(ids, e.EventID())
	}
	var old []*store.Stored
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := s.Store.EventNIDs(tx, ids)
		if err != nil {
			return err
		}
		for _, nid := range nids {
			e, err := s.Store.Event(tx, nid)
			if err != nil {
				return err
			}
			if e.Room == key.NID && e.Event.V() != key.Version {
				old = append(old, e)
			}
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return s.db.Do(ctx, &sqldb.Op{Name: "outliers", Write: func(tx *sqldb.Tx, _ int64) error {
		for _, e := range old {
			now := a.byID[e.ID]
			if now == nil {
				now = a.join
			}
			if err := s.Store.Reread(tx, e.NID, now); err != nil {
				return err
			}
		}
		return nil
	}, Committed: func(int64) {
		for _, e := range old {
			s.Store.Forget(e.NID)
		}
	}})
}

// outlierChunk is how many events one transaction takes when many are stored.
const outlierChunk = 500

// storeOutliers stores events, given in auth order, whose place in the DAG is
// not known, and returns the numbers of all of them. Those that are here are
// left as they are. rejected has the ids of those that the rules refuse.
func (s *Server) storeOutliers(ctx context.Context, key store.RoomKey, events []*event.Event, rejected map[string]bool) (nids map[string]int64, err error) {
	for range maxRetries {
		// Somebody else may store one of them meanwhile: then they are found.
		if nids, err = s.tryOutliers(ctx, key, events, rejected); !sqldb.IsUnique(err) {
			break
		}
	}
	return nids, err
}

func (s *Server) tryOutliers(ctx context.Context, key store.RoomKey, events []*event.Event, rejected map[string]bool) (map[string]int64, error) {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.EventID()
	}
	var nids map[string]int64
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		nids, err = s.Store.EventNIDs(tx, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.internEvents(ctx, events); err != nil {
		return nil, err
	}
	for len(events) > 0 {
		n := min(outlierChunk, len(events))
		if err := s.storeOutlierChunk(ctx, key, events[:n], nids, rejected); err != nil {
			return nil, err
		}
		events = events[n:]
	}
	return nids, nil
}

// internEvents gives numbers to the strings of many events at once.
func (s *Server) internEvents(ctx context.Context, events []*event.Event) error {
	texts := make([]string, 0, 2*len(events))
	tuples := make([]store.Tuple, 0, len(events))
	for _, e := range events {
		texts = append(texts, e.Type(), e.Sender())
		if key, isState := e.Key(); isState {
			tuples = append(tuples, store.Tuple{Type: e.Type(), Key: key})
		}
	}
	if _, err := s.Store.Intern(ctx, texts...); err != nil {
		return err
	}
	_, err := s.Store.InternTuples(ctx, tuples)
	return err
}

func (s *Server) storeOutlierChunk(ctx context.Context, key store.RoomKey, events []*event.Event, nids map[string]int64, rejected map[string]bool) error {
	var rows []*store.Stored
	var packed [][]byte
	for _, e := range events {
		if nids[e.EventID()] != 0 {
			continue
		}
		row, err := s.outlierRow(ctx, key, e, nids)
		if err != nil {
			return err
		}
		if rejected[e.EventID()] {
			row.Flags |= store.Rejected
		}
		nids[e.EventID()] = row.NID
		rows = append(rows, row)
		packed = append(packed, s.Store.PackOutlier(e))
	}
	if len(rows) == 0 {
		return nil
	}
	return s.db.Do(ctx, &sqldb.Op{Name: "outliers", Write: func(tx *sqldb.Tx, _ int64) error {
		for i, row := range rows {
			s.Store.Insert(tx, &row.Row, packed[i])
		}
		return nil
	}, Committed: func(int64) {
		for _, row := range rows {
			s.Store.Keep(row)
		}
	}})
}

func (s *Server) outlierRow(ctx context.Context, key store.RoomKey, e *event.Event, nids map[string]int64) (*store.Stored, error) {
	names, err := s.Store.Intern(ctx, e.Type(), e.Sender())
	if err != nil {
		return nil, err
	}
	row := store.Row{
		NID: s.db.NextID(), Room: key.NID, ID: e.EventID(), Type: names[0], Sender: names[1],
		Depth: e.Depth(), TS: e.TS(), Flags: store.Outlier,
	}
	if e.Redacted() {
		row.Flags |= store.Hollow
	}
	if state, isState := e.Key(); isState {
		tuples, err := s.Store.InternTuples(ctx, []store.Tuple{{Type: e.Type(), Key: state}})
		if err != nil {
			return nil, err
		}
		row.Tuple = tuples[0]
	}
	refs := e.AuthRefs()
	if e.V().DomainlessRoomIDs && e.Type() != "m.room.create" {
		refs = append(refs[:len(refs):len(refs)], e.CreateID())
	}
	for _, ref := range refs {
		if nid := nids[ref]; nid != 0 {
			row.Auth = append(row.Auth, nid)
		}
	}
	return &store.Stored{Row: row, Event: e}, nil
}
