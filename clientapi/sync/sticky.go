package sync

import (
	"context"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// Bounds of the sticky events (MSC4354) of one answer. The rest of those that are new follows in the next answers. Of a
// room that the user came into all are told: more than allSticky no room may have.
const (
	maxSticky = 200
	allSticky = 10_000
)

// stickyFrom is the position up to which the client has the sticky events of the rooms that it knows.
func (a *answer) stickyFrom() int64 {
	if a.from > 0 && a.q.since.sticky > 0 {
		return a.q.since.sticky
	}
	return a.from
}

// findSticky adds the rooms of which sticky events were left over by the answer before.
func (a *answer) findSticky(ctx context.Context, moved map[string]bool) error {
	if a.o.Sticky == nil || a.stickyFrom() == a.from {
		return nil
	}
	for _, id := range a.before {
		if moved[id] || !a.wants(id) {
			continue
		}
		key, err := a.o.Rooms.Room(ctx, id)
		if err != nil {
			return err
		}
		if a.o.Sticky.After(key.NID, a.stickyFrom()) {
			a.room(id).key = key
		}
	}
	return nil
}

// readAllSticky reads the sticky events that are new to the client.
func (a *answer) readAllSticky(tx *sqldb.Tx) error {
	if a.o.Sticky == nil {
		return nil
	}
	var known, entered []int64
	for _, r := range a.todo {
		switch {
		case r.left != nil || r.key.NID == 0:
		case r.newly && a.from > 0:
			if a.o.Sticky.After(r.key.NID, 0) {
				entered = append(entered, r.key.NID)
			}
		case a.o.Sticky.After(r.key.NID, a.stickyFrom()):
			known = append(known, r.key.NID)
		}
	}
	events, upTo, err := a.o.Sticky.Since(tx, a.o.Rooms.Store, known, a.stickyFrom(), a.at.pos, maxSticky)
	if err != nil {
		return err
	}
	if upTo < a.at.pos {
		a.at.sticky = upTo
	}
	all, _, err := a.o.Sticky.Since(tx, a.o.Rooms.Store, entered, 0, a.at.pos, allSticky)
	a.stickies = map[int64][]*store.Stored{}
	for _, e := range append(events, all...) {
		a.stickies[e.Room] = append(a.stickies[e.Room], e)
	}
	return err
}

// readSticky renders the room's sticky events that its timeline does not show, whatever the room lets the user see of its
// history.
func (r *room) readSticky(tx *sqldb.Tx) (err error) {
	a := r.a
	if r.left != nil || len(a.stickies[r.key.NID]) == 0 {
		return nil
	}
	events := slices.DeleteFunc(a.stickies[r.key.NID], func(e *store.Stored) bool {
		_, ignored := a.q.ignored[e.Event.Sender()]
		_, is := e.Event.Sticky()
		return ignored || !is || slices.ContainsFunc(r.events, func(shown *store.Stored) bool { return shown.NID == e.NID })
	})
	r.sticky, err = a.render(tx, events)
	return err
}
