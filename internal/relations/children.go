package relations

import (
	"encoding/json"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// MaxDepth is how many levels of relations a recursive Query follows.
const MaxDepth = 3

const (
	minLooked = 32   // children read at once
	maxLooked = 3000 // children looked at for one page
	maxOrd    = int64(^uint64(0) >> 1)
)

// Query asks for the children of an event.
type Query struct {
	Parent    *store.Stored
	Type      string // rel_type; "" any
	EventType string // "" any
	From, To  *roomserver.Point
	Back      bool
	Limit     int
	Depth     int // levels of relations, from 1
}

// Children is a page of related events in the order of history.
type Children struct {
	Events []*store.Stored
	// Next is where the next page begins; nil when there is none.
	Next *roomserver.Point
}

// Children returns a page of the events that relate to another, as the viewer may see them. Those of users whom they
// ignore are left out.
func (r *Reader) Children(tx *sqldb.Tx, v roomserver.Viewer, q Query) (Children, error) {
	w, err := r.viewer(tx, v)
	if err != nil {
		return Children{}, err
	}
	room, err := r.store.RoomByNID(tx, q.Parent.Room)
	if err != nil {
		return Children{}, err
	}
	return r.children(tx, w, room, q)
}

func (r *Reader) children(tx *sqldb.Tx, w *viewer, room store.RoomKey, q Query) (Children, error) {
	var page Children
	args, ok, err := r.childArgs(tx, room, q)
	if err != nil || !ok {
		return page, err
	}
	for looked := 0; ; {
		events, err := r.nextChildren(tx, q, args)
		if err != nil {
			return page, err
		}
		visible, err := r.visible(tx, w, events)
		if err != nil {
			return page, err
		}
		for _, e := range visible {
			if len(page.Events) == q.Limit {
				page.Next = nextAfter(page.Events[q.Limit-1], q.Back)
				return page, nil
			}
			page.Events = append(page.Events, e)
		}
		if int64(len(events)) < args.limit {
			return page, nil
		}
		last := events[len(events)-1]
		if looked += len(events); looked >= maxLooked {
			page.Next = nextAfter(last, q.Back)
			return page, nil
		}
		args.advance(last, q.Back)
	}
}

// childArgs are the arguments of the statements about children; ok is false when there can be none.
type childArgs struct {
	parent             []byte
	rel, room, typ     int64
	from, until, limit int64 // from ≤ ord < until
}

func (r *Reader) childArgs(tx *sqldb.Tx, room store.RoomKey, q Query) (a childArgs, ok bool, err error) {
	a = childArgs{parent: keyOf(room.Version, q.Parent.ID), room: room.NID, from: -maxOrd, until: maxOrd, limit: max(int64(q.Limit)+1, minLooked)}
	for _, name := range []struct {
		text string
		nid  *int64
	}{{q.Type, &a.rel}, {q.EventType, &a.typ}} {
		if name.text == "" {
			continue
		}
		if *name.nid, err = r.store.FindName(tx, name.text); err != nil || *name.nid == 0 {
			return a, false, err
		}
	}
	low, high := q.From, q.To
	if q.Back {
		low, high = q.To, q.From
	}
	if low != nil {
		a.from = int64(*low)
	}
	if high != nil {
		a.until = int64(*high)
	}
	return a, a.parent != nil, nil
}

func (a *childArgs) advance(last *store.Stored, back bool) {
	if back {
		a.until = last.Ord
	} else {
		a.from = last.Ord + 1
	}
}

func nextAfter(e *store.Stored, back bool) *roomserver.Point {
	p := roomserver.After(e)
	if back {
		p = roomserver.Point(e.Ord)
	}
	return &p
}

func (r *Reader) nextChildren(tx *sqldb.Tx, q Query, a childArgs) ([]*store.Stored, error) {
	args := []any{a.parent, a.rel, a.room, a.typ, a.from, a.until, a.limit}
	recursive, forward := 0, 0
	if q.Depth > 1 {
		recursive, args = 1, append(args, min(q.Depth, MaxDepth))
	}
	if !q.Back {
		forward = 1
	}
	nids, err := sqldb.Collect(tx, childrenOf[recursive][forward], scanNID, args...)
	if err != nil {
		return nil, err
	}
	return r.store.InOrder(tx, nids)
}

// visible are those of the events that the viewer may see and wants to.
func (r *Reader) visible(tx *sqldb.Tx, w *viewer, events []*store.Stored) ([]*store.Stored, error) {
	wanted := slices.DeleteFunc(slices.Clone(events), func(e *store.Stored) bool { return w.ignores[e.Sender] })
	return r.rooms.Visible(tx, w.User, wanted)
}

// ThreadsQuery asks for the threads of a room, that with the newest reply first.
type ThreadsQuery struct {
	Room         int64
	Participated bool              // only those that the viewer took part in
	From         *roomserver.Point // nil: the newest
	Limit        int
}

// Threads returns a page of the roots of threads that the viewer may see. Roots of users whom they ignore are redacted.
func (r *Reader) Threads(tx *sqldb.Tx, v roomserver.Viewer, q ThreadsQuery) (Children, error) {
	var page Children
	w, err := r.viewer(tx, v)
	if err != nil {
		return page, err
	}
	rel, err := r.store.FindName(tx, Thread)
	if err != nil || rel == 0 {
		return page, err
	}
	before := maxOrd
	if q.From != nil {
		before = int64(*q.From)
	}
	for looked := 0; ; {
		list, err := sqldb.Collect(tx, threadsOfRoom, scanRoot, q.Room, rel, w.ignored, w.nid, q.Participated, before, q.Limit+1)
		if err != nil {
			return page, err
		}
		for _, t := range list {
			looked++
			e, err := r.root(tx, w, t.nid)
			if err != nil {
				return page, err
			}
			if len(page.Events) == q.Limit || looked >= maxLooked {
				page.Next = at(before)
				return page, nil
			}
			before = t.latest
			if e != nil {
				page.Events = append(page.Events, e)
			}
		}
		if len(list) <= q.Limit {
			return page, nil
		}
	}
}

func at(ord int64) *roomserver.Point {
	p := roomserver.Point(ord)
	return &p
}

type root struct{ nid, latest int64 }

func scanRoot(rows *sqldb.Rows) (t root, err error) {
	err = rows.Scan(&t.nid, &t.latest)
	return t, err
}

// root returns the root of a thread as the viewer sees it, or nil.
func (r *Reader) root(tx *sqldb.Tx, w *viewer, nid int64) (*store.Stored, error) {
	e, err := r.store.Event(tx, nid)
	if err != nil || !isRoot(e) {
		return nil, err
	}
	visible, err := r.rooms.Visible(tx, w.User, []*store.Stored{e})
	if err != nil || len(visible) == 0 {
		return nil, err
	}
	if w.ignores[e.Sender] {
		redacted := *e
		redacted.Event = e.Event.Redact()
		return &redacted, nil
	}
	return e, nil
}

// Related returns those of the events, in their order, to which others relate with any of the rel_types that were sent
// by any of the senders; nil is any (MSC3440, "related_by_rel_types", "related_by_senders").
func (r *Reader) Related(tx *sqldb.Tx, events []*store.Stored, relTypes, senders *[]string) ([]*store.Stored, error) {
	rels, someRel, err := r.names(tx, relTypes)
	if err != nil {
		return nil, err
	}
	users, someUser, err := r.names(tx, senders)
	if err != nil {
		return nil, err
	}
	byRoom, keys := map[int64][][]byte{}, make([][]byte, len(events))
	for i, e := range events {
		room, err := r.store.RoomByNID(tx, e.Room)
		if err != nil {
			return nil, err
		}
		if keys[i] = keyOf(room.Version, e.ID); keys[i] != nil {
			byRoom[e.Room] = append(byRoom[e.Room], keys[i])
		}
	}
	related := map[string]bool{}
	for room, list := range byRoom {
		found, err := sqldb.Collect(tx, relatedBy, scanKey, list, room, someRel, rels, someUser, users)
		if err != nil {
			return nil, err
		}
		for _, key := range found {
			related[string(key)] = true
		}
	}
	var out []*store.Stored
	for i, e := range events {
		if related[string(keys[i])] {
			out = append(out, e)
		}
	}
	return out, nil
}

// names returns the numbers of those of the texts that have one; some is false for a nil list.
func (r *Reader) names(tx *sqldb.Tx, texts *[]string) (nids []int64, some bool, err error) {
	if texts == nil {
		return nil, false, nil
	}
	for _, text := range *texts {
		nid, err := r.store.FindName(tx, text)
		if err != nil {
			return nil, false, err
		}
		if nid != 0 {
			nids = append(nids, nid)
		}
	}
	return nids, true, nil
}

func scanKey(rows *sqldb.Rows) (key []byte, err error) {
	err = rows.Scan(&key)
	return key, err
}

// with is the extra of roomserver.Render that sets the relations of one event.
func with(relations json.RawMessage) func(*store.Stored, *event.ClientOptions) {
	return func(_ *store.Stored, o *event.ClientOptions) { o.Relations = relations }
}
