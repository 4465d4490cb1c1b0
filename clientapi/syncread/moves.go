package syncread

import (
	"context"
	"slices"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// MovesSince finds the changes of membership that a local user's device lists
// depend on, with from < position ≤ to.
func (r *Reader) MovesSince(ctx context.Context, user string, from, to int64) (e2ee.Moves, error) {
	rooms := r.o.Rooms.Hub.ChangedRooms(user, from)
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
				rooms = append(rooms, key.ID)
			}
			return nil
		})
		if err != nil {
			return e2ee.Moves{}, err
		}
	}
	slices.Sort(rooms)
	return r.Moves(ctx, user, slices.Compact(rooms), from, to)
}

// Moves is MovesSince for those rooms in which the state, or how the user stands
// to them, may have changed. It costs no SQL while their state is the same.
func (r *Reader) Moves(ctx context.Context, user string, rooms []string, from, to int64) (e2ee.Moves, error) {
	m := mover{Reader: r, user: user}
	type shift struct {
		room          string
		before, after *state.Set
	}
	var shifts []shift
	for _, id := range rooms {
		before, err := r.o.Rooms.View(ctx, id, from)
		if err != nil {
			return m.moves, err
		}
		after, err := r.o.Rooms.View(ctx, id, to)
		if err != nil {
			return m.moves, err
		}
		if before.State.Set != after.State.Set {
			shifts = append(shifts, shift{id, before.State.Set, after.State.Set})
		}
	}
	if len(shifts) == 0 {
		return m.moves, nil
	}
	err := r.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		m.tx = tx
		for _, s := range shifts {
			if err := m.room(s.room, s.before, s.after); err != nil {
				return err
			}
		}
		return nil
	})
	return m.moves, err
}

// mover gathers the moves of one user's rooms.
type mover struct {
	*Reader
	tx    *sqldb.Tx
	user  string
	moves e2ee.Moves
}

// room compares a room's state as it was and as it is.
func (m *mover) room(id string, before, after *state.Set) error {
	own, err := m.o.Rooms.Store.FindTuple(m.tx, store.Tuple{Type: typeMember, Key: m.user})
	if err != nil || own == 0 {
		return err
	}
	was, is, err := m.change(own, before, after)
	if err != nil || !was && !is {
		return err
	}
	if !was {
		m.moves.Joined = append(m.moves.Joined, id)
		return nil
	}
	if !is {
		m.moves.Left = append(m.moves.Left, id)
	}
	return m.others(own, before, after, is)
}

// others notes who came and went while the user was in the room.
func (m *mover) others(own int64, before, after *state.Set, inside bool) error {
	changes := state.Changes(before, after)
	tuples := make([]int64, len(changes))
	for i, e := range changes {
		tuples[i] = e.Tuple
	}
	names, err := m.o.Rooms.Store.Tuples(m.tx, tuples)
	if err != nil {
		return err
	}
	for _, tuple := range tuples {
		if names[tuple].Type != typeMember || tuple == own {
			continue
		}
		was, is, err := m.change(tuple, before, after)
		switch {
		case err != nil:
			return err
		case is && !was && inside:
			m.moves.In = append(m.moves.In, names[tuple].Key)
		case was && !is:
			m.moves.Out = append(m.moves.Out, names[tuple].Key)
		}
	}
	return nil
}

// change reports whether a member was and is joined. Who left and came back
// meanwhile was not: their devices may have changed without a word.
func (m *mover) change(tuple int64, before, after *state.Set) (was, is bool, err error) {
	old, _ := before.Get(tuple)
	now, _ := after.Get(tuple)
	if was, err = m.joined(old); err != nil {
		return false, false, err
	}
	if is, err = m.joined(now); err != nil || !was || !is || old == now {
		return was, is, err
	}
	stayed, err := m.stayed(tuple, old, now)
	return stayed, is, err
}

func (m *mover) joined(nid int64) (bool, error) {
	if nid == 0 {
		return false, nil
	}
	e, err := m.o.Rooms.Store.Event(m.tx, nid)
	return err == nil && Membership(e) == store.Join, err
}

// maxSteps bounds the member events of a user that are looked at.
const maxSteps = 16

// stayed reports whether only joins, such as new display names, lead from one
// member event to a later one.
func (m *mover) stayed(tuple, from, to int64) (bool, error) {
	for range maxSteps {
		e, err := m.o.Rooms.Store.Event(m.tx, to)
		if err != nil {
			return false, err
		}
		ref, err := m.o.Rooms.Store.Set(m.tx, e.State)
		if err != nil {
			return false, err
		}
		if to, _ = ref.Set.Get(tuple); to == from {
			return true, nil
		}
		if in, err := m.joined(to); !in {
			return false, err
		}
	}
	return false, nil
}
