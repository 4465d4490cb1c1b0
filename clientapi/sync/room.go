package sync

import (
	"context"
	"encoding/json"
	"slices"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// Types of events with a meaning here.
const (
	typeMember    = "m.room.member"
	typeName      = "m.room.name"
	typeAlias     = "m.room.canonical_alias"
	typeReceipt   = "m.receipt"
	typeTyping    = "m.typing"
	typePushRules = "m.push_rules"
	typePresence  = "m.presence"
)

// room is a joined or left room of an answer.
type room struct {
	a    *answer
	id   string
	key  store.RoomKey
	from int64 // the timeline starts after this position
	to   int64

	full    bool // the client gets the whole state
	newly   bool // the user was not in the room at since
	looked  bool // timeline and state were compared
	counted bool // unread counts were read
	left    *standing

	before, after roomserver.View
	came          *state.Set // the state when members became known that had been missing; nil: none did
	learnt        bool       // the answer leaves out that they are there
	events        []*store.Stored
	limited       bool

	prevBatch string
	timeline  []json.RawMessage
	sticky    []json.RawMessage
	state     []json.RawMessage
	summary   []byte
}

// fresh notes that the client knows nothing of the room.
func (r *room) fresh() { r.full, r.newly, r.from, r.a.fresh = true, true, 0, true }

// look takes from memory, where it is there, what happened up to a position.
func (r *room) look(ctx context.Context, to int64) (err error) {
	rooms := r.a.o.Rooms
	r.looked, r.to = true, to
	if r.key, err = rooms.Room(ctx, r.id); err != nil {
		return err
	}
	if r.after, err = rooms.View(ctx, r.id, to); err != nil {
		return err
	}
	if !r.full {
		if r.before, err = rooms.View(ctx, r.id, r.from); err != nil {
			return err
		}
		if pos, came := rooms.MembersCame(r.id, r.from, to); came {
			whole, err := rooms.View(ctx, r.id, pos)
			if err != nil {
				return err
			}
			r.came = whole.State.Set
		}
	}
	err = r.page(ctx)
	// What the client may have of an earlier stay does not go on here.
	r.limited = r.limited || r.newly && r.a.from > 0
	return err
}

// pageSize and maxSearched bound how far the timelines of an answer are searched
// for events that the filter takes.
const (
	pageSize    = 100
	maxSearched = 5000
)

// page finds the newest events that the client wants.
func (r *room) page(ctx context.Context) error {
	f, limit := &r.a.q.filter.timeline, r.a.q.filter.limit
	if !f.rooms.has(r.id) || f.nothing() {
		return nil
	}
	for n, to := limit, r.to; ; n = pageSize {
		got, more, err := r.a.o.Rooms.Timeline(ctx, r.id, r.from, to, n)
		if err != nil {
			return err
		}
		last := len(got) == 0 || got[0].Flags&store.Gapped != 0
		if len(got) > 0 {
			to = got[0].Pos - 1
		}
		r.a.searched += len(got)
		r.events = append(slices.DeleteFunc(got, r.unwanted), r.events...)
		if over := len(r.events) - limit; over > 0 {
			r.events, more = r.events[over:], true
		}
		r.limited = more
		if !more || last || len(r.events) == limit || r.a.searched > maxSearched {
			return nil
		}
	}
}

// unwanted reports whether the client does not want to see an event: its filter
// leaves it out, or it is no state and its sender is ignored, or it says nothing.
func (r *room) unwanted(e *store.Stored) bool {
	if e.Event.Dummy() {
		return true
	}
	if _, no := r.a.q.ignored[e.Event.Sender()]; no && e.Tuple == 0 {
		return true
	}
	return !r.a.q.filter.timeline.hasEvent(e.Event)
}

// read reads and renders what the answer says of the room.
func (r *room) read(tx *sqldb.Tx) error {
	a := r.a
	if r.left != nil && r.left.exit == nil {
		return r.readOutside(tx)
	}
	if !r.looked || len(r.events) == 0 && !r.limited && !r.full && r.before.State.Set == r.after.State.Set {
		return r.readSticky(tx)
	}
	if r.left == nil {
		if own, err := a.ownMember(tx, r.after.State); err != nil || syncread.Membership(own) != store.Join {
			r.events, r.limited, r.full = nil, false, false // they came or went just now
			return err
		}
	}
	visible, err := a.o.Rooms.Visible(tx, a.q.user, r.events)
	if err != nil {
		return err
	}
	if f := &a.q.filter.timeline; (f.relatedTypes != nil || f.relatedSenders != nil) && a.o.Related != nil && len(visible) > 0 {
		if visible, err = a.o.Related(tx, visible, f.relatedTypes, f.relatedSenders); err != nil {
			return err
		}
	}
	if visible, err = r.withOwnExit(tx, visible); err != nil {
		return err
	}
	r.events = visible
	if err := r.setPrevBatch(tx); err != nil {
		return err
	}
	if r.timeline, err = a.render(tx, visible); err != nil {
		return err
	}
	if err := r.readSticky(tx); err != nil {
		return err
	}
	return r.readState(tx)
}

// readOutside is read for a room that the user was not in: only the event that
// says so.
func (r *room) readOutside(tx *sqldb.Tx) (err error) {
	own := r.left.own
	if m := syncread.Membership(own); m == store.Leave || m == store.Ban {
		if r.a.q.filter.timeline.hasEvent(own.Event) && r.a.q.filter.timeline.rooms.has(r.id) {
			r.timeline, err = r.a.render(tx, []*store.Stored{own})
		}
	}
	return err
}

// withOwnExit adds the user's newest member event to the timeline of a room that
// they left, when it is not there: a ban after they had left.
func (r *room) withOwnExit(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error) {
	if r.left == nil || r.left.own == r.left.exit || r.left.own == nil || r.unwanted(r.left.own) {
		return events, nil
	}
	return append(events, r.left.own), nil
}

func (r *room) setPrevBatch(tx *sqldb.Tx) error {
	if len(r.events) > 0 {
		r.prevBatch = roomserver.Point(r.events[0].Ord).String()
		return nil
	}
	if !r.limited {
		return nil
	}
	ord, ok, err := r.a.o.Rooms.Store.OrdAt(tx, r.key.NID, r.to)
	if ok {
		r.prevBatch = roomserver.Point(ord + 1).String()
	}
	return err
}

// render encodes timeline events as the filter wants them.
func (a *answer) render(tx *sqldb.Tx, events []*store.Stored) ([]json.RawMessage, error) {
	if a.q.filter.federation {
		out := make([]json.RawMessage, len(events))
		for i, e := range events {
			out[i] = a.picked(e.Event.JSON())
		}
		return out, nil
	}
	out, err := a.reader.Timeline(tx, a.viewer(), events, a.at.pos)
	if err == nil && a.q.filter.fields != nil {
		for i := range out {
			out[i] = a.picked(out[i])
		}
	}
	return out, err
}

func (a *answer) viewer() roomserver.Viewer {
	return roomserver.Viewer{User: a.q.user, Device: a.q.device}
}

// renderState encodes events of the state as the filter wants them.
func (a *answer) renderState(tx *sqldb.Tx, events []*store.Stored) ([]json.RawMessage, error) {
	if a.q.filter.federation {
		return a.render(tx, events)
	}
	out, err := a.reader.State(tx, a.viewer(), events, a.at.pos)
	for i := range out {
		out[i] = a.picked(out[i])
	}
	return out, err
}
