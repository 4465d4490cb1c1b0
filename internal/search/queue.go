package search

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Queue notes what following the rooms would not see, as a participant of the room server: events of history that is
// fetched, and events whose replacement is redacted, after which nothing tells what it replaced. With messages that are
// delivered it does nothing.
type Queue struct {
	store *store.Store
	until atomic.Int64
}

var (
	_ roomserver.Participant = (*Queue)(nil)
	_ roomserver.Historian   = (*Queue)(nil)
)

// NewQueue makes a Queue over the events' store.
func NewQueue(st *store.Store) *Queue {
	q := &Queue{store: st}
	q.note()
	return q
}

// Load does nothing: nothing is kept in memory.
func (q *Queue) Load(context.Context, int64) error { return nil }

// Forget does nothing: nothing is kept in memory.
func (q *Queue) Forget(int64) {}

// Prepare returns what notes the event that a redacted one replaced.
func (q *Queue) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	if a.Event.Type() != typeRedaction {
		return nil
	}
	nid, err := q.replaced(a.Event)
	switch {
	case err != nil:
		return func(*sqldb.Tx, int64) error { return err }
	case nid == 0:
		return nil
	}
	return q.write(nid)
}

// PrepareHistory returns what notes an event.
func (q *Queue) PrepareHistory(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	if kindOf(a.Event) == 0 {
		return nil
	}
	return q.write(a.EventNID)
}

func (q *Queue) write(nid int64) func(tx *sqldb.Tx, pos int64) error {
	return func(tx *sqldb.Tx, _ int64) error {
		tx.Append(enqueue, nid)
		q.note()
		return nil
	}
}

// replaced returns the number of the event that the target of a redaction replaces, 0 for none.
func (q *Queue) replaced(redaction *event.Event) (nid int64, err error) {
	err = q.store.DB.Read(context.Background(), func(tx *sqldb.Tx) error {
		target, err := q.store.EventByID(tx, redaction.RedactsID())
		if err != nil {
			return err
		}
		r, ok := relations.Of(target.Event)
		if !ok || r.Type != relations.Replace {
			return nil
		}
		nid, err = q.store.EventNID(tx, r.Parent)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return nid, err
}

// unsure is how long after a note its row may not be there yet: longer than any transaction takes.
const unsure = 2 * time.Minute

func (q *Queue) note()       { q.until.Store(time.Now().Add(unsure).UnixNano()) }
func (q *Queue) maybe() bool { return time.Now().UnixNano() < q.until.Load() }
