package syncread

import (
	"context"
	"maps"
	"slices"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// MovesSince is Moves of all rooms in which something changed.
func (r *Reader) MovesSince(ctx context.Context, user string, from, to int64) (e2ee.Moves, error) {
	ids := map[string]bool{}
	for _, id := range r.o.Rooms.Hub.ChangedRooms(user, from) {
		ids[id] = true
	}
	if r.o.Rooms.Hub.LastPersonal(user) > from {
		err := r.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
			rows, err := r.o.Rooms.MembershipsSince(tx, user, from)
			if err != nil {
				return err
			}
			for _, row := range rows {
				key, err := r.o.Rooms.Store.RoomByNID(tx, row.Room)
				if err != nil {
					return err
				}
				ids[key.ID] = true
			}
			return nil
		})
		if err != nil {
			return e2ee.Moves{}, err
		}
	}
	return r.Moves(ctx, user, slices.Collect(maps.Keys(ids)), from, to)
}

// Moves returns the changes of membership between two positions that a user's
// device lists depend on. rooms are those in which the state, or how the user
// stands to them, may have changed.
func (r *Reader) Moves(ctx context.Context, user string, rooms []string, from, to int64) (e2ee.Moves, error) {
	m := moves{Reader: r, user: user}
	for _, id := range rooms {
		was, err := r.o.Rooms.View(ctx, id, from)
		if err != nil {
			return m.Moves, err
		}
		is, err := r.o.Rooms.View(ctx, id, to)
		if err != nil {
			return m.Moves, err
		}
		if was.State.Set == is.State.Set {
			continue
		}
		if err := r.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error { return m.compare(tx, id, was, is) }); err != nil {
			return m.Moves, err
		}
	}
	return m.Moves, nil
}

type moves struct {
	*Reader
	e2ee.Moves
	user string
}

// compare finds who came into a room and who left it: when the user did, that
// stands for all others in it.
func (m *moves) compare(tx *sqldb.Tx, id string, was, is roomserver.View) error {
	before, err := m.joined(tx, was)
	if err != nil {
		return err
	}
	now, err := m.joined(tx, is)
	switch {
	case err != nil:
		return err
	case now && !before:
		m.Joined = append(m.Joined, id)
	case before && !now:
		m.Left = append(m.Left, id)
	case now:
		return m.others(tx, was.State.Set, is.State.Set)
	}
	return nil
}

func (m *moves) joined(tx *sqldb.Tx, v roomserver.View) (bool, error) {
	own, err := m.Member(tx, v.State, m.user)
	return Membership(own) == store.Join, err
}

func (m *moves) others(tx *sqldb.Tx, was, is *state.Set) error {
	changes := state.Changes(was, is)
	tuples := make([]int64, len(changes))
	for i, e := range changes {
		tuples[i] = e.Tuple
	}
	names, err := m.o.Rooms.Store.Tuples(tx, tuples)
	if err != nil {
		return err
	}
	for _, e := range changes {
		if name := names[e.Tuple]; name.Type == typeMember && name.Key != m.user {
			if err := m.other(tx, name.Key, was, e); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *moves) other(tx *sqldb.Tx, user string, was *state.Set, now state.Entry) error {
	joined := [2]bool{}
	old, _ := was.Get(now.Tuple)
	for i, nid := range []int64{old, now.Event} {
		if nid == 0 {
			continue
		}
		e, err := m.o.Rooms.Store.Event(tx, nid)
		if err != nil {
			return err
		}
		joined[i] = Membership(e) == store.Join
	}
	switch {
	case joined[1] && !joined[0]:
		m.In = append(m.In, user)
	case joined[0] && !joined[1]:
		m.Out = append(m.Out, user)
	}
	return nil
}
