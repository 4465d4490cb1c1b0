package syncread

import (
	"knock/internal/sqldb"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// heroList holds, for one state of a room, the first members in it and the first
// who are not any more (room summary, m.heroes), one more of each than an answer
// shows: nobody is a hero to themselves.
type heroList struct {
	set      *state.Set
	in, gone []string
}

const maxHeroes = 5

// Heroes returns the users after whom a room without a name is called, for one
// viewer: the first who are in it or invited, or else the first who were.
func (r *Reader) Heroes(tx *sqldb.Tx, room int64, set *state.Set, viewer string) ([]string, error) {
	list, ok := r.heroes.Get(room)
	if !ok || list.set != set {
		var err error
		if list, err = r.scanHeroes(tx, room, set); err != nil {
			return nil, err
		}
		r.heroes.Put(room, list)
	}
	if in := firstOthers(list.in, viewer); len(in) > 0 {
		return in, nil
	}
	return firstOthers(list.gone, viewer), nil
}

func firstOthers(list []string, viewer string) []string {
	out := make([]string, 0, maxHeroes)
	for _, user := range list {
		if user != viewer && len(out) < maxHeroes {
			out = append(out, user)
		}
	}
	return out
}

// scanHeroes looks at the member events of a state in the order in which they
// came.
func (r *Reader) scanHeroes(tx *sqldb.Tx, room int64, set *state.Set) (heroList, error) {
	list := heroList{set: set}
	nids, err := r.memberEvents(tx, room, set)
	if err != nil {
		return list, err
	}
	in, gone, err := r.o.Rooms.Heroes(tx, nids, maxHeroes+1)
	list.in, list.gone = users(in), users(gone)
	return list, err
}

// users returns whom member events are about.
func users(members []*store.Stored) []string {
	out := make([]string, len(members))
	for i, e := range members {
		out[i], _ = e.Event.Key()
	}
	return out
}

// memberEvents returns the numbers of a state's member events, in any order.
func (r *Reader) memberEvents(tx *sqldb.Tx, room int64, set *state.Set) ([]int64, error) {
	plain, err := r.Plain(tx, room, set)
	if err != nil {
		return nil, err
	}
	other := make(map[int64]bool, len(plain))
	for _, e := range plain {
		other[e.Tuple] = true
	}
	nids := make([]int64, 0, max(0, set.Len()-len(plain)))
	set.Each(func(e state.Entry) bool {
		if !other[e.Tuple] {
			nids = append(nids, e.Event)
		}
		return true
	})
	return nids, nil
}
