// Package userdir owns the user directory (Client-Server API, "User directory"): the names of everybody who was seen in
// a room, local or not, and the search among them. Nobody is found who does not share a room with the searcher or is
// in a room that is open to all; that is asked of the memberships at the time of the search.
//
// Events are only put on a queue when they are written (Watcher); the Directory looks at them afterwards.
package userdir

import (
	"context"

	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// Watcher queues the events that the directory must look at, as a participant of the room server.
type Watcher struct {
	hub    *stream.Hub
	server string
}

var (
	_ roomserver.Participant = (*Watcher)(nil)
	_ roomserver.Completer   = (*Watcher)(nil)
)

// NewWatcher makes a Watcher for a server of that name.
func NewWatcher(hub *stream.Hub, server string) *Watcher { return &Watcher{hub, server} }

// Load does nothing: nothing is kept in memory.
func (w *Watcher) Load(context.Context, int64) error { return nil }

// Forget does nothing: nothing is kept in memory.
func (w *Watcher) Forget(int64) {}

var enqueue = sqldb.RegisterInsert("directory_queue.insert", `INSERT INTO directory_queue (event, room) VALUES`, 2, `ON CONFLICT DO NOTHING`)

// Prepare returns what queues an event. The first local user in a room brings everybody who is in it.
func (w *Watcher) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	user, isState := a.Event.Key()
	if !isState || !relevant(a.Event) {
		return nil
	}
	whole := a.Event.Type() == typeMember && event.ServerOf(user) == w.server && w.hub.JoinedCount(a.RoomID) == 0
	return func(tx *sqldb.Tx, _ int64) error {
		tx.Append(enqueue, a.EventNID, a.RoomNID)
		if whole {
			tx.Append(enqueue, -a.EventNID, a.RoomNID)
		}
		return nil
	}
}

// Completed queues everybody in a room that was joined without its members.
func (w *Watcher) Completed(c *roomserver.Completed) func(tx *sqldb.Tx, pos int64) error {
	return func(tx *sqldb.Tx, _ int64) error {
		tx.Append(enqueue, -c.Join, c.RoomNID)
		return nil
	}
}

const (
	typeMember     = "m.room.member"
	typeJoinRules  = "m.room.join_rules"
	typeVisibility = "m.room.history_visibility"
)

func relevant(e *event.Event) bool {
	switch e.Type() {
	case typeMember:
		return auth.Membership(e) == auth.Join
	case typeJoinRules, typeVisibility:
		return true
	}
	return false
}
