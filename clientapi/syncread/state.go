package syncread

import (
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

const typeMember = "m.room.member"

// plainState is the part of a room's state that is not about members.
type plainState struct {
	set     *state.Set
	entries []state.Entry
}

// Plain returns the entries of a room's state that are not member events. They
// are remembered for each room and follow the state by what changed; they must
// not be changed.
func (r *Reader) Plain(tx *sqldb.Tx, room int64, set *state.Set) ([]state.Entry, error) {
	old, ok := r.plain.Get(room)
	if ok && old.set == set {
		return old.entries, nil
	}
	changes := state.Changes(old.set, set)
	tuples := make([]int64, len(changes))
	changed := make(map[int64]bool, len(changes))
	for i, e := range changes {
		tuples[i], changed[e.Tuple] = e.Tuple, true
	}
	names, err := r.o.Rooms.Store.Tuples(tx, tuples)
	if err != nil {
		return nil, err
	}
	now := plainState{set: set}
	for _, e := range old.entries {
		if !changed[e.Tuple] {
			now.entries = append(now.entries, e)
		}
	}
	for _, e := range changes {
		if e.Event != 0 && names[e.Tuple].Type != typeMember {
			now.entries = append(now.entries, e)
		}
	}
	r.plain.Put(room, now)
	return now.entries, nil
}

// Member returns a user's member event in a state, or nil.
func (r *Reader) Member(tx *sqldb.Tx, ref *store.Ref, user string) (*store.Stored, error) {
	if ref == nil {
		return nil, nil
	}
	return r.o.Rooms.StateEvent(tx, roomserver.View{State: ref}, typeMember, user)
}

// Membership is what a member event says; there may be none.
func Membership(e *store.Stored) store.Membership {
	if e == nil {
		return store.NoMembership
	}
	return store.ParseMembership(auth.Membership(e.Event))
}

// maxExits bounds the memberships that are followed back to the end of a stay.
const maxExits = 16

// LastExit returns the event with which a user's last stay ended: own, or one
// that own came after, as when a user who has left is banned. It is nil when the
// user was not in the room.
func (r *Reader) LastExit(tx *sqldb.Tx, own *store.Stored, user string) (*store.Stored, error) {
	for range maxExits {
		if own == nil || own.Flags&store.Outlier != 0 {
			return nil, nil
		}
		before, err := r.o.Rooms.Store.Set(tx, own.State)
		if err != nil {
			return nil, err
		}
		prev, err := r.Member(tx, before, user)
		if err != nil {
			return nil, err
		}
		if Membership(prev) == store.Join {
			return own, nil
		}
		own = prev
	}
	return nil, nil
}
