package slidingsync

import (
	"context"
	"encoding/json"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// noteSticky notes a room that the client is interested in, whether or not it is in a window.
func (a *answer) noteSticky(e *entry) {
	if a.o.Sticky != nil && a.q.ext.sticky.enabled && e.kind() == joined && a.o.Sticky.After(e.key.NID, 0) {
		a.sticky = append(a.sticky, e)
	}
}

// allSticky is more than a room may have of sticky events.
const allSticky = 10_000

// tellSticky tells the sticky events that no timeline of this answer shows (MSC4354, MSC4480): those after the token of
// the extension, some at a time, and all of rooms that the user came into since. Without a token all are told.
func (a *answer) tellSticky(ctx context.Context) error {
	x := &a.q.ext.sticky
	if len(a.sticky) == 0 {
		return nil
	}
	from, epoch, ok := parseDeviceToken(x.since)
	if !ok || epoch != a.at.epoch || from > a.at.pos {
		from = 0
	}
	var stayed, entered []int64
	ids := map[int64]string{}
	for _, e := range a.sticky {
		ids[e.key.NID] = e.key.ID
		switch {
		case from > 0 && e.row.Pos > from:
			entered = append(entered, e.key.NID)
		case a.o.Sticky.After(e.key.NID, from):
			stayed = append(stayed, e.key.NID)
		}
	}
	if len(stayed)+len(entered) == 0 {
		return nil
	}
	next := a.at.pos
	rooms := map[string][]json.RawMessage{}
	err := a.read(ctx, func(tx *sqldb.Tx) error {
		events, upTo, err := a.o.Sticky.Since(tx, a.o.Rooms.Store, stayed, from, a.at.pos, x.limit)
		if err != nil {
			return err
		}
		next = upTo
		all, _, err := a.o.Sticky.Since(tx, a.o.Rooms.Store, entered, 0, a.at.pos, allSticky)
		if err != nil {
			return err
		}
		for _, e := range append(events, all...) {
			if err := a.addSticky(tx, e, ids[e.Room], rooms); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || x.since == "" && len(rooms) == 0 {
		return err
	}
	a.encodeSticky(rooms, next)
	return nil
}

// addSticky adds an event to what is told of its room, unless the client does not want it or has it.
func (a *answer) addSticky(tx *sqldb.Tx, e *store.Stored, room string, rooms map[string][]json.RawMessage) error {
	if _, is := e.Event.Sticky(); !is || a.q.ignores(e.Event.Sender()) || a.shows(e) {
		return nil
	}
	// A client without a token is told all each time, and woken by what is new alone.
	a.some = a.some || e.Pos > a.q.since.pos || a.q.ext.sticky.since != ""
	text, err := a.o.Reader.Timeline(tx, a.viewer(), []*store.Stored{e}, a.at.pos)
	rooms[room] = append(rooms[room], text...)
	return err
}

// shows tells whether an event is in a timeline of this answer.
func (a *answer) shows(e *store.Stored) bool {
	for i := range a.targets {
		t := &a.targets[i]
		if t.e.key.NID != e.Room || t.room == nil || t.later {
			continue
		}
		for _, shown := range t.room.events {
			if shown.NID == e.NID {
				return true
			}
		}
	}
	return false
}

func (a *answer) encodeSticky(rooms map[string][]json.RawMessage, next int64) {
	b := event.AppendString([]byte(`{"next_batch":`), deviceToken(next, a.at.epoch))
	b = append(b, `,"rooms":{`...)
	for id, events := range rooms {
		b = append(event.AppendString(b, id), `:{"events":`...)
		b = append(append(syncread.AppendArray(b, events), '}'), ',')
	}
	a.appendPart("org.matrix.msc4354.sticky_events", append(syncread.Closed(b, '}'), '}'))
}
