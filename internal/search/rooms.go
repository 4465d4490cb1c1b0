package search

import (
	"errors"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// maxUpgrades bounds how many rooms before a room are searched with it.
const maxUpgrades = 20

// roomsOf returns the numbers of the rooms that a query searches: those that the user is or was in, and has not
// forgotten.
func (x *Index) roomsOf(tx *sqldb.Tx, q *Query) ([]int64, error) {
	wanted, err := x.wanted(tx, q.Rooms)
	if err != nil {
		return nil, err
	}
	unwanted, err := x.numbers(tx, q.NotRooms)
	if err != nil {
		return nil, err
	}
	members, err := x.o.Rooms.Memberships(tx, q.Viewer.User)
	if err != nil {
		return nil, err
	}
	var rooms []int64
	for _, m := range members {
		in := m.State == store.Join || m.State == store.Leave || m.State == store.Ban
		if in && !m.Forgotten && !unwanted[m.Room] && (wanted == nil || wanted[m.Room]) {
			rooms = append(rooms, m.Room)
		}
	}
	slices.Sort(rooms)
	return rooms, nil
}

func (x *Index) numbers(tx *sqldb.Tx, ids []string) (map[int64]bool, error) {
	out := make(map[int64]bool, len(ids))
	for _, id := range ids {
		key, err := x.store.RoomTx(tx, id)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			out[key.NID] = true
		}
	}
	return out, nil
}

// wanted are the rooms asked for, with those that they replaced; nil: all.
func (x *Index) wanted(tx *sqldb.Tx, ids *[]string) (map[int64]bool, error) {
	if ids == nil {
		return nil, nil
	}
	rooms, err := x.numbers(tx, *ids)
	if err != nil {
		return nil, err
	}
	all := make(map[int64]bool, len(rooms))
	for nid := range rooms {
		for range maxUpgrades {
			if nid == 0 || all[nid] {
				break
			}
			all[nid] = true
			if nid, err = x.predecessor(tx, nid); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// predecessor returns the room that a room says to replace, 0 for none.
func (x *Index) predecessor(tx *sqldb.Tx, room int64) (int64, error) {
	tuple, err := x.store.FindTuple(tx, store.Tuple{Type: "m.room.create"})
	if err != nil || tuple == 0 {
		return 0, err
	}
	row, err := x.store.RoomRow(tx, room)
	if err != nil {
		return 0, err
	}
	state, err := x.store.Set(tx, row.State)
	if err != nil {
		return 0, err
	}
	nid, ok := state.Set.Get(tuple)
	if !ok {
		return 0, nil
	}
	create, err := x.store.Event(tx, nid)
	if err != nil {
		return 0, err
	}
	id := create.Event.ContentString("predecessor.room_id")
	if !event.ValidRoomID(id) {
		return 0, nil
	}
	key, err := x.store.RoomTx(tx, id)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return key.NID, err
}
