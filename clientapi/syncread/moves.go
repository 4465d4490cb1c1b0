package syncread

import (
	"context"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// Moves returns the changes of membership between two positions that a user's
// device lists depend on.
func (r *Reader) Moves(ctx context.Context, user string, from, to int64) (e2ee.Moves, error) {
	m := moves{Reader: r, user: user, from: from, to: to, own: map[string]bool{}}
	rooms := r.o.Rooms.Hub.ChangedRooms(user, from)
	if r.o.Rooms.Hub.LastPersonal(user) > from {
		if err := m.findOwn(ctx); err != nil {
			return m.Moves, err
		}
	}
	for _, id := range rooms {
		if !m.own[id] {
			if err := m.compare(ctx, id); err != nil {
				return m.Moves, err
			}
		}
	}
	return m.Moves, nil
}

type moves struct {
	*Reader
	e2ee.Moves
	user     string
	from, to int64
	own      map[string]bool // rooms that the user came into or left
}

// findOwn finds the rooms that the user came into or left.
func (m *moves) findOwn(ctx context.Context) error {
	now := map[string]store.Membership{}
	db, rooms := m.o.Rooms.Store.DB, m.o.Rooms
	err := db.Read(ctx, func(tx *sqldb.Tx) error {
		rows, err := rooms.MembershipsSince(tx, m.user, m.from)
		if err != nil {
			return err
		}
		for _, row := range rows {
			key, err := rooms.Store.RoomByNID(tx, row.Room)
			if err != nil {
				return err
			}
			if row.Pos <= m.to {
				now[key.ID] = row.State
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for id, membership := range now {
		v, err := rooms.View(ctx, id, m.from)
		if err != nil {
			return err
		}
		if err := db.Read(ctx, func(tx *sqldb.Tx) error { return m.moved(tx, id, v, membership) }); err != nil {
			return err
		}
	}
	return nil
}

func (m *moves) moved(tx *sqldb.Tx, id string, was roomserver.View, now store.Membership) error {
	own, err := m.Member(tx, was.State, m.user)
	switch before := Membership(own); {
	case before != store.Join && now == store.Join:
		m.Joined, m.own[id] = append(m.Joined, id), true
	case before == store.Join && now != store.Join:
		m.Left, m.own[id] = append(m.Left, id), true
	}
	return err
}

// compare finds the others who came into a room or left it.
func (m *moves) compare(ctx context.Context, id string) error {
	was, err := m.o.Rooms.View(ctx, id, m.from)
	if err != nil {
		return err
	}
	is, err := m.o.Rooms.View(ctx, id, m.to)
	if err != nil || was.State.Set == is.State.Set {
		return err
	}
	return m.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		changes := state.Changes(was.State.Set, is.State.Set)
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
				if err := m.other(tx, name.Key, was.State.Set, e); err != nil {
					return err
				}
			}
		}
		return nil
	})
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
