package hstest

import (
	"context"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Extremities are the forward extremities of a room as the node's database has them, sorted.
func (n *Node) Extremities(ctx context.Context, room string) (ids []string, err error) {
	db, err := sqldb.Open(ctx, sqldb.Options{URL: n.DatabaseURL})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	s := store.New(store.Options{DB: db})
	err = db.Read(ctx, func(tx *sqldb.Tx) error {
		key, err := s.RoomTx(tx, room)
		if err != nil {
			return err
		}
		row, err := s.RoomRow(tx, key.NID)
		if err != nil {
			return err
		}
		events, err := s.Load(tx, row.Extremities)
		for _, e := range events {
			ids = append(ids, e.Event.EventID())
		}
		return err
	})
	slices.Sort(ids)
	return ids, err
}
