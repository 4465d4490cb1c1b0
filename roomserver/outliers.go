package roomserver

import (
	"context"
	"fmt"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// ensureRoom returns the key of a room, making the row of one that this server
// is not in when there is none.
func (s *Server) ensureRoom(ctx context.Context, roomID string, v *event.Version) (store.RoomKey, error) {
	s.invites.Lock()
	defer s.invites.Unlock()
	key, err := s.Store.Room(ctx, roomID)
	if err == nil {
		if key.Version.ID != v.ID {
			return key, fmt.Errorf("room %s has version %s, not %s", roomID, key.Version.ID, v.ID)
		}
		return key, nil
	}
	if err != store.ErrNotFound {
		return key, err
	}
	key = store.RoomKey{NID: s.db.NextID(), ID: roomID, Version: v}
	err = s.db.Do(ctx, &sqldb.Op{Name: "room", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := s.Store.InsertRoom(tx, key, store.RoomRow{Rev: 1})
		return err
	}})
	if err != nil {
		return key, err
	}
	return s.Store.Room(ctx, roomID)
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
		packed = append(packed, s.Store.Pack(e, "", ""))
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
