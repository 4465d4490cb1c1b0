package appservice

import (
	"context"
	"errors"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

// maxCompany bounds the members of one room that a service is told of when its first user comes, or its last one goes.
const maxCompany = 5000

// addMoves adds to the device lists whom the events of a transaction bring into rooms of the service and take out of
// them: who comes counts as changed, since no changes were told before (Client-Server API, "Extensions to /sync").
func (l *link) addMoves(ctx context.Context, x *extras, list []due) error {
	if x == nil || !l.v.Encryption {
		return nil
	}
	for _, d := range list {
		e, err := l.s.rooms.Store.LoadOne(ctx, d.event)
		if errors.Is(err, store.ErrNotFound) {
			continue // purged meanwhile
		}
		if err != nil {
			return err
		}
		user, ok := e.Event.Key()
		if !ok || e.Event.Type() != "m.room.member" || e.Flags&store.Outlier != 0 {
			continue
		}
		if err := l.addMove(ctx, x, e, user); err != nil {
			return err
		}
	}
	for user := range x.changed {
		delete(x.left, user)
	}
	return nil
}

func (l *link) addMove(ctx context.Context, x *extras, e *store.Stored, user string) error {
	was, err := l.wasJoined(ctx, e, user)
	is := auth.Membership(e.Event) == auth.Join
	if err != nil || was == is {
		return err
	}
	if !l.owns(user) {
		return l.met(ctx, x, user, is)
	}
	if is {
		before, err := l.moves.joined(ctx, e.Room, e.State)
		if err != nil || before&l.v.bit != 0 {
			return err // there was one already
		}
	} else if l.s.watch.attended(e.Event.RoomID().String())&l.v.bit != 0 {
		return nil
	}
	members, err := l.members(ctx, e.Room)
	for _, member := range members[:min(len(members), maxCompany)] {
		if err == nil {
			err = l.met(ctx, x, member, is)
		}
	}
	return err
}

// met notes a user who came into the service's company or left it.
func (l *link) met(ctx context.Context, x *extras, user string, came bool) error {
	if came {
		x.changed[user] = true
		return nil
	}
	still, err := l.wantsUser(ctx, user)
	if err == nil && !still {
		x.left[user] = true
	}
	return err
}

// wasJoined says whether a user was joined before an event.
func (l *link) wasJoined(ctx context.Context, e *store.Stored, user string) (joined bool, err error) {
	st := l.s.rooms.Store
	err = l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		before, err := st.Set(tx, e.State)
		if err != nil {
			return err
		}
		tuple, err := st.FindTuple(tx, store.Tuple{Type: "m.room.member", Key: user})
		if err != nil || tuple == 0 {
			return err
		}
		nid, ok := before.Set.Get(tuple)
		if !ok {
			return nil
		}
		member, err := st.Event(tx, nid)
		joined = err == nil && auth.Membership(member.Event) == auth.Join
		return err
	})
	return joined, err
}

func (l *link) members(ctx context.Context, room int64) (members []string, err error) {
	err = l.s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		members, err = l.s.rooms.Store.Joined(tx, room)
		return err
	})
	return members, err
}
