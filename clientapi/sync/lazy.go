package sync

import (
	"knock/clientapi/syncread"
	"knock/roomserver/auth"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// addMembers adds the members that a client needs that loads them lazily: those
// whose events are in the timeline, those that name the room, and the user.
func (c *stateChange) addMembers(changes []state.Entry, names map[int64]store.Tuple) error {
	for _, e := range changes {
		if names[e.Tuple].Type == typeMember && e.Event != 0 {
			c.given(e.Tuple, e.Event)
		}
	}
	users := map[string]bool{}
	for _, e := range c.events {
		users[e.Event.Sender()] = true
		if key, isState := e.Event.Key(); isState && e.Event.Type() == typeMember {
			users[key] = true
		}
	}
	for _, user := range c.heroes {
		users[user] = true
	}
	if c.full {
		users[c.a.q.user] = true
	}
	for user := range users {
		if err := c.addMember(user); err != nil {
			return err
		}
	}
	return nil
}

func (c *stateChange) addMember(user string) error {
	tuple, err := c.a.o.Rooms.Store.FindTuple(c.tx, store.Tuple{Type: typeMember, Key: user})
	if err != nil || tuple == 0 {
		return err
	}
	now, ok := c.after.State.Set.Get(tuple)
	if !ok {
		return nil
	}
	if v := c.value(tuple, now); v != 0 && (c.full || !c.a.q.seen.Has(syncread.MemberHash(c.key.NID, tuple, now))) {
		c.list(v)
	}
	c.given(tuple, now)
	return nil
}

// given notes that the client has a member's newest event.
func (c *stateChange) given(tuple, event int64) {
	if c.a.q.seen != nil {
		c.a.given = append(c.a.given, syncread.MemberHash(c.key.NID, tuple, event))
	}
}

// arrivals notes the members who came in while the user was there.
func (c *stateChange) arrivals(changes []state.Entry, names map[int64]store.Tuple) error {
	if c.full || len(changes) > maxArrivals || !c.a.o.Presence.Enabled() && len(c.a.q.filter.profiles) == 0 {
		return nil
	}
	for _, e := range changes {
		if names[e.Tuple].Type != typeMember || e.Event == 0 {
			continue
		}
		member, err := c.a.o.Rooms.Store.Event(c.tx, e.Event)
		if err != nil {
			return err
		}
		if auth.Membership(member.Event) == auth.Join {
			c.a.arrived = append(c.a.arrived, names[e.Tuple].Key)
		}
	}
	return nil
}

// maxArrivals bounds the changes of a room in which arrivals are looked for.
const maxArrivals = 100
