package sync

import (
	"context"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// standing is how the user stands to a room where that changed.
type standing struct {
	key         store.RoomKey
	row         store.MemberRow // may be newer than the answer
	before, now store.Membership
	changed     bool          // the member event is another one than before
	own         *store.Stored // the member event that says now; nil when there is none
	exit        *store.Stored // what ended the user's last stay; nil when there was none
	was, is     *store.Ref    // the room's state at since, and at the answer's position
}

// standings reads the memberships that changed, with account data and push rules
// in the same snapshot.
func (a *answer) standings(ctx context.Context) ([]*standing, error) {
	var list []*standing
	err := a.read(ctx, func(tx *sqldb.Tx) error {
		if err := a.readPersonal(tx); err != nil {
			return err
		}
		rows, err := a.o.Rooms.MembershipsSince(tx, a.q.user, a.from)
		if err != nil {
			return err
		}
		for _, row := range rows {
			key, err := a.o.Rooms.Store.RoomByNID(tx, row.Room)
			if err != nil {
				return err
			}
			list = append(list, &standing{key: key, row: row, now: row.State, changed: true})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	needed := list[:0:0]
	for _, st := range list {
		if st.needsHistory(a) {
			if err := st.views(ctx, a); err != nil {
				return nil, err
			}
			needed = append(needed, st)
		}
	}
	if len(needed) == 0 {
		return list, nil
	}
	return list, a.read(ctx, func(tx *sqldb.Tx) error {
		for _, st := range needed {
			if err := st.settle(tx, a); err != nil {
				return err
			}
		}
		return nil
	})
}

// readPersonal reads account data and push rules.
func (a *answer) readPersonal(tx *sqldb.Tx) error {
	list, err := a.o.Accounts.AccountDataSince(tx, a.q.user, a.from, a.at.pos)
	if err != nil {
		return err
	}
	if len(list) > 0 {
		a.data = groupData(list)
	}
	news := a.from == 0
	if !news {
		if news, err = a.o.Push.RulesChangedSince(tx, a.q.user, a.from, a.at.pos); err != nil {
			return err
		}
	}
	if news {
		a.rules, err = a.o.Push.RulesetTx(tx, a.q.user)
	}
	return err
}

// needsHistory reports whether the row alone does not say what to tell.
func (st *standing) needsHistory(a *answer) bool {
	gone := st.now == store.Leave || st.now == store.Ban
	return st.row.Pos > a.at.pos || a.from > 0 || gone && a.q.filter.includeLeave
}

func (st *standing) views(ctx context.Context, a *answer) error {
	if a.from > 0 {
		v, err := a.o.Rooms.View(ctx, st.key.ID, a.from)
		if err != nil {
			return err
		}
		st.was = v.State
	}
	if st.row.Pos <= a.at.pos {
		return nil
	}
	v, err := a.o.Rooms.View(ctx, st.key.ID, a.at.pos)
	st.is = v.State
	return err
}

// settle finds out how the user stood at since, and at the answer's position
// when the row is newer.
func (st *standing) settle(tx *sqldb.Tx, a *answer) error {
	was, err := a.ownMember(tx, st.was)
	if err != nil {
		return err
	}
	st.before = syncread.Membership(was)
	if st.is != nil {
		if st.own, err = a.ownMember(tx, st.is); err != nil {
			return err
		}
		st.now, st.changed = syncread.Membership(st.own), !same(was, st.own)
		st.row.Event, st.row.State, st.row.Forgotten = 0, st.now, false
		if st.own != nil {
			st.row.Event = st.own.NID
		}
	} else if st.own, err = a.o.Rooms.Store.Event(tx, st.row.Event); err != nil {
		return err
	}
	if st.now == store.Leave || st.now == store.Ban {
		st.exit, err = a.reader.LastExit(tx, st.own, a.q.user)
	}
	return err
}

func same(a, b *store.Stored) bool { return a == b || a != nil && b != nil && a.NID == b.NID }

// ownMember returns the user's own member event in a state, or nil.
func (a *answer) ownMember(tx *sqldb.Tx, ref *store.Ref) (*store.Stored, error) {
	return a.reader.Member(tx, ref, a.q.user)
}

// placeLeft adds a room that the user left, or was never in and is banned from.
func (a *answer) placeLeft(ctx context.Context, st *standing) error {
	inside := st.before == store.Join || st.before == store.Invite || st.before == store.Knock
	switch {
	case a.from == 0 && (!a.q.filter.includeLeave || st.row.Forgotten):
		return nil
	case !st.changed || st.row.Forgotten && !inside:
		return nil
	}
	r := &room{a: a, id: st.key.ID, from: a.from, left: st}
	a.todo = append(a.todo, r)
	if st.exit == nil {
		return nil
	}
	to := st.exit.Pos
	if !st.row.Forgotten && st.exit == st.own && st.row.Pos <= a.at.pos {
		to = max(to, st.row.Pos)
	}
	if to <= a.from {
		st.exit = nil // the stay was over before
		return nil
	}
	if st.before != store.Join {
		r.from, r.full = 0, true
	}
	return r.look(ctx, to)
}

// tellOther encodes an invite or a knock. Invites that the user does not want are left out.
func (a *answer) tellOther(tx *sqldb.Tx, st *standing) error {
	if st.own == nil {
		var err error
		if st.own, err = a.o.Rooms.Store.Event(tx, st.row.Event); err != nil {
			return err
		}
	}
	if st.now == store.Invite && a.o.Accounts.HidesInvite(a.q.user, st.own.Event.Sender()) {
		return nil
	}
	list, err := a.o.Rooms.Stripped(tx, st.row)
	if err != nil {
		return err
	}
	dst, key := &a.invite, `:{"invite_state":{"events":[`
	if st.now == store.Knock {
		dst, key = &a.knock, `:{"knock_state":{"events":[`
	}
	b := append(event.AppendString(*dst, st.key.ID), key...)
	for _, e := range list {
		b = append(append(b, e...), ',')
	}
	*dst = append(syncread.Closed(b, ']'), "}},"...)
	return nil
}
