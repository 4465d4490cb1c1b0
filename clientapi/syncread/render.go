package syncread

import (
	"encoding/json"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Timeline encodes events of a timeline, oldest first, for an answer that tells
// of everything up to the position at.
func (r *Reader) Timeline(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored, at int64) ([]json.RawMessage, error) {
	var extra func(*store.Stored, *event.ClientOptions)
	if older := mayHaveRelations(events, at); r.o.Bundle != nil && len(older) > 0 {
		var err error
		if extra, err = r.o.Bundle(tx, v, older); err != nil {
			return nil, err
		}
	}
	return r.o.Rooms.Render(tx, v, events, false, extra)
}

// mayHaveRelations leaves out a newest event of all: nothing can relate to it
// yet. It spares a statement where one message wakes a thousand syncs.
func mayHaveRelations(events []*store.Stored, at int64) []*store.Stored {
	if n := len(events) - 1; n >= 0 && events[n].Pos == at {
		return events[:n]
	}
	return events
}

// State encodes events of a room's state. What they replaced is not told: that
// is for the timeline.
func (r *Reader) State(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored, at int64) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(events))
	now := r.o.Clock.Millis()
	for _, e := range events {
		if e.RedactedBy != 0 {
			one, err := r.Timeline(tx, v, []*store.Stored{e}, at)
			if err != nil {
				return nil, err
			}
			out = append(out, one...)
			continue
		}
		out = append(out, e.Event.AppendClient(make([]byte, 0, len(e.Event.JSON())), event.ClientOptions{HasAge: true, Age: max(0, now-e.TS)}))
	}
	return out, nil
}
