package sync

import (
	"slices"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
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
	heroes  []string
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
	if !c.full {
		for tuple := range c.touched {
			c.take(state.Entry{Tuple: tuple}) // what the end of the timeline does not show
		}
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
		entries, err := c.a.reader.Plain(c.tx, c.key.NID, after.Set)
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
	if c.came == nil || !c.a.q.filter.state.lazy {
		return changes, names, err
	}
	n := len(changes)
	changes = slices.DeleteFunc(changes, func(e state.Entry) bool {
		return names[e.Tuple].Type == typeMember && syncread.Learnt(e, c.before.State.Set, c.came)
	})
	c.learnt = len(changes) < n
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
