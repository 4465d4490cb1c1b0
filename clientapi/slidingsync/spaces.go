package slidingsync

import (
	"context"

	"knock/internal/sqldb"
	"knock/roomserver/state"
)

// space is a joined space's rooms, for one state of it.
type space struct {
	set      *state.Set
	children map[string]bool
}

// children returns the rooms of a space.
func (a *answer) children(ctx context.Context, e *entry) (map[string]bool, error) {
	v, err := a.o.Rooms.View(ctx, e.key.ID, a.at.pos)
	if err != nil {
		return nil, err
	}
	if sp, ok := a.spaces.Get(e.key.NID); ok && sp.set == v.State.Set {
		return sp.children, nil
	}
	sp := space{set: v.State.Set, children: map[string]bool{}}
	err = a.read(ctx, func(tx *sqldb.Tx) error {
		entries, err := a.o.Reader.Plain(tx, e.key.NID, sp.set)
		if err != nil {
			return err
		}
		tuples := make([]int64, len(entries))
		for i, en := range entries {
			tuples[i] = en.Tuple
		}
		names, err := a.o.Rooms.Store.Tuples(tx, tuples)
		if err != nil {
			return err
		}
		var nids []int64
		for _, en := range entries {
			if names[en.Tuple].Type == "m.space.child" {
				nids = append(nids, en.Event)
			}
		}
		events, err := a.o.Rooms.Store.InOrder(tx, nids)
		for _, ev := range events {
			if key, _ := ev.Event.Key(); ev.Event.ContentGet("via").IsArray() {
				sp.children[key] = true
			}
		}
		return err
	})
	if err == nil {
		a.spaces.Put(e.key.NID, sp)
	}
	return sp.children, err
}
