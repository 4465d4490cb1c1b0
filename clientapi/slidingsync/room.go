package slidingsync

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

// room is a room of which something may be told.
type room struct {
	*answer
	*target
	from, to int64 // tell what happened in (from, to]

	news     bool
	initial  bool // the client gets everything
	expand   bool // a longer timeline is asked for than the client has
	expanded bool // and given
	widen    bool // other state is asked for than before
	counted  bool // the user has read something

	was, is roomserver.View
	came    *state.Set    // the state when members became known that had been missing; nil: none did
	own     *store.Stored // the user's member event, when they are not in the room
	exit    *store.Stored // what ended their stay; nil: that is known, or there was none
	events  []*store.Stored
	limited bool

	timeline, required, stripped []json.RawMessage
	changes                      []state.Entry
	names                        map[int64]store.Tuple
	live                         int
	prevBatch                    string
	meta                         []byte // encoded name, avatar, heroes and member counts
}

// look takes from memory, where it is there, what happened in a joined room.
func (r *room) look(ctx context.Context) (err error) {
	switch r.e.kind() {
	case outside:
		return nil
	case gone:
		if err := r.findExit(ctx); err != nil || r.exit == nil {
			return err
		}
		r.to = r.exit.Pos
	}
	return r.lookInside(ctx)
}

// findExit finds the end of the user's stay, unless the client knows of it.
func (r *room) findExit(ctx context.Context) error {
	return r.read(ctx, func(tx *sqldb.Tx) (err error) {
		if r.own, err = r.o.Rooms.Store.Event(tx, r.e.row.Event); err != nil {
			return err
		}
		r.exit, err = r.o.Reader.LastExit(tx, r.own, r.q.user)
		if r.exit != nil && !r.initial && r.exit.Pos <= r.from {
			r.exit = nil
		}
		return err
	})
}

func (r *room) lookInside(ctx context.Context) (err error) {
	rooms := r.o.Rooms
	if r.is, err = rooms.View(ctx, r.e.key.ID, r.to); err != nil {
		return err
	}
	if !r.initial {
		if r.was, err = rooms.View(ctx, r.e.key.ID, r.from); err != nil {
			return err
		}
		if pos, came := rooms.MembersCame(r.e.key.ID, r.from, r.to); came {
			whole, err := rooms.View(ctx, r.e.key.ID, pos)
			if err != nil {
				return err
			}
			r.came = whole.State.Set
		}
	}
	if err = r.page(ctx); err != nil {
		return err
	}
	r.news = r.initial || r.widen || r.limited || len(r.events) > 0 || r.was.State.Set != r.is.State.Set ||
		r.own != nil || (r.before.marks^r.now.marks)&markDM != 0
	return nil
}

// page takes the newest events: those since from, or as many as are asked for
// when the client has fewer.
func (r *room) page(ctx context.Context) (err error) {
	from := r.from
	if r.expand {
		from = 0
	}
	if r.events, r.limited, err = r.o.Rooms.Timeline(ctx, r.e.key.ID, from, r.to, r.want.limit); err != nil {
		return err
	}
	if r.expand {
		r.settleExpansion()
	}
	if r.limited {
		r.now.limit = uint8(r.want.limit)
	} else {
		r.now.limit = max(r.now.limit, uint8(r.want.limit))
	}
	r.events = slices.DeleteFunc(r.events, func(e *store.Stored) bool { return e.Tuple == 0 && (e.Event.Dummy() || r.q.ignores(e.Event.Sender())) })
	return nil
}

// settleExpansion leaves out the older events when the client has them all.
func (r *room) settleExpansion() {
	older := 0
	for older < len(r.events) && r.events[older].Pos <= r.from {
		older++
	}
	if older > int(r.before.limit) {
		r.expanded = true
		return
	}
	if older > 0 {
		r.events, r.limited = r.events[older:], false
	}
}

// tell reads what there is to tell and encodes it.
func (r *room) tell(tx *sqldb.Tx) (err error) {
	if r.news {
		switch r.e.kind() {
		case joined:
			err = r.readJoined(tx)
		case outside:
			r.stripped, err = r.o.Rooms.Stripped(tx, r.e.row)
		case gone:
			err = r.readGone(tx)
		}
	}
	if err == nil {
		r.encode()
	}
	return err
}

func (r *room) readJoined(tx *sqldb.Tx) error {
	own, err := r.o.Reader.Member(tx, r.is.State, r.q.user)
	if err != nil {
		return err
	}
	if syncread.Membership(own) != store.Join {
		r.hold(r.target) // they come or go just now
		r.news, r.counted = false, false
		return nil
	}
	return r.readInside(tx)
}

// readInside reads what who is or was in the room is told of it.
func (r *room) readInside(tx *sqldb.Tx) (err error) {
	if r.events, err = r.o.Rooms.Visible(tx, r.q.user, r.events); err != nil {
		return err
	}
	if !r.q.initial {
		for _, e := range r.events {
			if e.Pos > r.q.since.pos {
				r.live++
			}
		}
	}
	if r.timeline, err = r.o.Reader.Timeline(tx, r.viewer(), r.events, r.at.pos); err != nil {
		return err
	}
	if err := r.setPrevBatch(tx); err != nil {
		return err
	}
	if err := r.compare(tx); err != nil {
		return err
	}
	if err := r.readState(tx); err != nil {
		return err
	}
	return r.readMeta(tx)
}

func (r *room) setPrevBatch(tx *sqldb.Tx) error {
	if len(r.events) > 0 {
		r.prevBatch = roomserver.Point(r.events[0].Ord).String()
		return nil
	}
	if !r.initial && !r.limited {
		return nil
	}
	ord, ok, err := r.o.Rooms.Store.OrdAt(tx, r.e.key.NID, r.to)
	if ok {
		r.prevBatch = roomserver.Point(ord + 1).String()
	}
	return err
}

// compare finds which pieces of state changed.
func (r *room) compare(tx *sqldb.Tx) (err error) {
	if r.initial {
		return nil
	}
	r.changes = state.Changes(r.was.State.Set, r.is.State.Set)
	tuples := make([]int64, len(r.changes))
	for i, e := range r.changes {
		tuples[i] = e.Tuple
	}
	r.names, err = r.o.Rooms.Store.Tuples(tx, tuples)
	return err
}

// readGone reads the end of the user's stay in a room.
func (r *room) readGone(tx *sqldb.Tx) error {
	if r.exit == nil {
		return r.readRefusal(tx)
	}
	r.is.State = &store.Ref{Set: r.is.State.Set.With(r.own.Tuple, r.own.NID)}
	return r.readInside(tx)
}

// readRefusal tells of a membership that ended outside of the room: by the user's
// own member event alone.
func (r *room) readRefusal(tx *sqldb.Tx) (err error) {
	if r.q.form == v4 {
		r.stripped, err = r.o.Rooms.Stripped(tx, r.e.row)
		return err
	}
	list := []*store.Stored{r.own}
	if r.required, err = r.o.Reader.State(tx, r.viewer(), list, r.at.pos); err != nil {
		return err
	}
	r.timeline, err = r.o.Reader.Timeline(tx, r.viewer(), list, r.at.pos)
	return err
}
