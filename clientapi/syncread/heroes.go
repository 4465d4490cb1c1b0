package syncread

import (
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
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

const (
	maxHeroes   = 5
	heroChunk   = 32
	heroesTried = 2000 // member events that are looked at
)

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
	for chunk := range slices.Chunk(nids[:min(len(nids), heroesTried)], heroChunk) {
		events, err := r.o.Rooms.Store.InOrder(tx, chunk)
		if err != nil {
			return list, err
		}
		for _, e := range events {
			list.add(e)
		}
		if len(list.in) > maxHeroes {
			break
		}
	}
	return list, nil
}

func (l *heroList) add(e *store.Stored) {
	user, _ := e.Event.Key()
	to := &l.gone
	if m := auth.Membership(e.Event); m == auth.Join || m == auth.Invite {
		to = &l.in
	}
	if len(*to) <= maxHeroes {
		*to = append(*to, user)
	}
}

// memberEvents returns the numbers of a state's member events, oldest first.
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
	slices.Sort(nids)
	return nids, nil
}
