package sync

import (
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// stateChange works out which state events an answer gives for a room.
//
// A client that did not ask for the state after the timeline applies the state
// section and then the timeline. So what the timeline brings is left out, and for
// what it changes the value at its start is given.
type stateChange struct {
	*room
	tx      *sqldb.Tx
	sent    map[int64]bool // events in the timeline
	touched map[int64]bool // tuples that the timeline changes
	start   *state.Set     // the state before the timeline
	nids    []int64
	listed  map[int64]bool
	heroes  []hero
}

// readState reads and renders the room's state and summary.
func (r *room) readState(tx *sqldb.Tx) error {
	c := &stateChange{room: r, tx: tx, listed: map[int64]bool{}}
	if err := c.setStart(); err != nil {
		return err
	}
	changes, names, err := c.changes()
	if err != nil {
		return err
	}
	for _, e := range changes {
		c.take(e)
	}
	if err := c.addTouched(); err != nil {
		return err
	}
	if err := c.summarise(changes, names); err != nil {
		return err
	}
	if r.a.q.filter.state.lazy {
		if err := c.addMembers(changes, names); err != nil {
			return err
		}
	}
	return c.load()
}

func (c *stateChange) setStart() error {
	if c.a.q.after || len(c.events) == 0 {
		return nil
	}
	c.sent, c.touched = map[int64]bool{}, map[int64]bool{}
	for _, e := range c.events {
		c.sent[e.NID] = true
		if e.Tuple != 0 {
			c.touched[e.Tuple] = true
		}
	}
	if len(c.touched) == 0 {
		return nil
	}
	ref, err := c.a.o.Rooms.Store.Set(c.tx, c.events[0].State)
	if err == nil {
		c.start = ref.Set
	}
	return err
}

// changes returns the entries of the state to tell, all of it or what differs,
// with the names of those that differ.
func (c *stateChange) changes() ([]state.Entry, map[int64]store.Tuple, error) {
	after := c.after.State
	switch {
	case c.full && c.a.q.filter.state.lazy:
		entries, err := c.a.plainState(c.tx, c.key.NID, after.Set)
		return entries, nil, err
	case c.full:
		return after.Set.Entries(), nil, nil
	}
	changes := state.Changes(c.before.State.Set, after.Set)
	tuples := make([]int64, len(changes))
	for i, e := range changes {
		tuples[i] = e.Tuple
	}
	names, err := c.a.o.Rooms.Store.Tuples(c.tx, tuples)
	return changes, names, err
}

// value returns the event that the state section gives for a tuple that ends up
// as event; 0 for none.
func (c *stateChange) value(tuple, event int64) int64 {
	if !c.touched[tuple] {
		return event
	}
	v, _ := c.start.Get(tuple)
	if c.sent[v] {
		return 0
	}
	return v
}

func (c *stateChange) take(e state.Entry) {
	v := c.value(e.Tuple, e.Event)
	if v == 0 || c.listed[v] {
		return
	}
	if !c.full {
		if old, _ := c.before.State.Set.Get(e.Tuple); old == v {
			return
		}
	}
	c.list(v)
}

func (c *stateChange) list(nid int64) {
	if !c.listed[nid] {
		c.listed[nid] = true
		c.nids = append(c.nids, nid)
	}
}

// addTouched gives the value at the timeline's start for what it changes and the
// end of it does not show.
func (c *stateChange) addTouched() error {
	if c.full {
		return nil
	}
	for tuple := range c.touched {
		c.take(state.Entry{Tuple: tuple})
	}
	return nil
}

// load reads and renders the listed events that the filter takes.
func (c *stateChange) load() error {
	f := &c.a.q.filter.state
	if !f.rooms.has(c.id) {
		return nil
	}
	slices.Sort(c.nids)
	events, err := c.a.o.Rooms.Store.InOrder(c.tx, c.nids)
	if err != nil {
		return err
	}
	events = slices.DeleteFunc(events, func(e *store.Stored) bool { return !f.hasEvent(e.Event) })
	c.state, err = c.a.renderState(c.tx, events)
	return err
}

// plainState is the part of a room's state that is not about members.
type plainState struct {
	set     *state.Set
	entries []state.Entry
}

// plainState returns the entries of a state that are not member events. It is
// remembered for each room and follows the state by what changed.
func (a *answer) plainState(tx *sqldb.Tx, room int64, set *state.Set) ([]state.Entry, error) {
	old, ok := a.plain.Get(room)
	if ok && old.set == set {
		return old.entries, nil
	}
	changes := state.Changes(old.set, set)
	tuples := make([]int64, len(changes))
	changed := make(map[int64]bool, len(changes))
	for i, e := range changes {
		tuples[i], changed[e.Tuple] = e.Tuple, true
	}
	names, err := a.o.Rooms.Store.Tuples(tx, tuples)
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
	a.plain.Put(room, now)
	return now.entries, nil
}

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
	for _, h := range c.heroes {
		users[h.user] = true
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
	if v := c.value(tuple, now); v != 0 && (c.full || !c.a.q.seen.has(memberHash(c.key.NID, tuple, now))) {
		c.list(v)
	}
	c.given(tuple, now)
	return nil
}

// given notes that the client has a member's newest event.
func (c *stateChange) given(tuple, event int64) {
	if c.a.q.seen != nil {
		c.a.given = append(c.a.given, memberHash(c.key.NID, tuple, event))
	}
}

// arrivals notes the members who came in while the user was there.
func (c *stateChange) arrivals(changes []state.Entry, names map[int64]store.Tuple) error {
	if c.full || len(changes) > maxArrivals || !c.a.o.Presence.Enabled() {
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
