package slidingsync

import (
	"context"
	"time"

	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// answer is one answer under way: first it finds out which rooms are in view and
// have something new, then it reads what to tell of them.
type answer struct {
	*Sync
	q       *request
	at      token
	roster  *roster
	draft   *draft
	unions  map[string]*union
	targets []target
	scratch *[]target // whose array targets has, for reuse
	counts  []int64   // rooms of each list
	todo    []*room
	tuples  map[store.Tuple]int64 // looked up for this answer

	unread   map[string]pushrules.Counts
	receipts *group   // that they are wanted for
	sticky   []*entry // rooms that may have sticky events
	given    []uint64 // member events, for the connection to remember

	rooms   []byte // encoded members of "rooms", with commas
	parts   []byte // encoded members of "extensions", with commas
	keyText string
	some    bool // there is something to tell
}

// snapshotTime bounds each read snapshot, and snapshotRooms the rooms that one is
// used for.
const (
	snapshotTime  = 5 * time.Second
	snapshotRooms = 64
)

// look finds out what there is to tell after q.since.
func (s *Sync) look(ctx context.Context, q *request, at token) (*answer, error) {
	a := &answer{Sync: s, q: q, at: at, draft: newDraft(q.state), unions: map[string]*union{}, tuples: map[store.Tuple]int64{}}
	a.scratch, _ = s.pool.Get().(*[]target)
	if a.scratch == nil {
		a.scratch = &[]target{}
	}
	a.targets = (*a.scratch)[:0]
	for _, u := range q.state.unions {
		a.unions[u.text] = u
	}
	var err error
	if a.roster, err = s.roster(ctx, q.user, at.pos); err != nil {
		return nil, err
	}
	a.at.pos = a.roster.at
	if err := a.match(ctx); err != nil {
		return nil, err
	}
	a.plan()
	for _, r := range a.todo {
		if err := r.look(ctx); err != nil {
			return nil, err
		}
	}
	if err := a.extend(ctx); err != nil {
		return nil, err
	}
	shown := a.firstShown()
	if err := a.tell(ctx); err != nil {
		return nil, err
	}
	if err := a.tellSticky(ctx); err != nil {
		return nil, err
	}
	if err := a.tellProfiles(ctx, shown); err != nil {
		return nil, err
	}
	a.settle()
	a.release()
	return a, nil
}

func (a *answer) read(ctx context.Context, fn func(tx *sqldb.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	return a.o.DB.Read(ctx, fn)
}

func (a *answer) viewer() roomserver.Viewer {
	return roomserver.Viewer{User: a.q.user, Device: a.q.device}
}

// release gives the targets' memory to the next answer.
func (a *answer) release() {
	clear(a.targets)
	*a.scratch = a.targets[:0]
	a.pool.Put(a.scratch)
	a.targets, a.scratch, a.todo = nil, nil, nil
}

// plan decides for each room in view whether there may be something to tell, and
// notes which rooms went out of view.
func (a *answer) plan() {
	base := a.draft.base
	inView := make([]bool, len(base.rooms))
	for i := range a.targets {
		t := &a.targets[i]
		if !t.want.known {
			t.want.index, t.want.known = a.draft.intern(t.want.union), true
		}
		var at int
		if at, t.found = base.find(t.e.key.NID); t.found {
			inView[at], t.before = true, base.rooms[at]
		}
		a.consider(t)
	}
	for i, seen := range inView {
		if !seen {
			a.outOfView(base.rooms[i])
		}
	}
}

// consider adds a room to what is told when something of it may be new.
func (a *answer) consider(t *target) {
	e, k, from := t.e, t.e.kind(), t.from(a.q.since.pos)
	t.now = record{room: e.key.NID, union: t.want.index, limit: t.before.limit, kind: k}
	if e.dm {
		t.now.marks = markDM
	}
	if k == joined && t.want.union.all && a.o.Rooms.MembersMissing(e.key.ID, a.at.pos) {
		a.hold(t) // until all members are known
		return
	}
	initial := !t.found || k != t.before.kind && (k != gone || t.before.kind == outside)
	longer, other := t.want.limit > int(t.before.limit), t.before.union != t.now.union
	switch {
	case initial:
		from, t.now.limit = 0, uint8(t.want.limit)
	case k == joined:
		if e.seen <= from && !longer && !other && (t.before.marks^t.now.marks)&markDM == 0 {
			return
		}
	case e.row.Pos <= from && t.before.kind == k:
		return
	}
	if len(a.todo) >= a.maxRooms {
		a.postpone(t)
		return
	}
	t.room = &room{answer: a, target: t, from: from, to: a.at.pos, news: true, initial: initial,
		expand: longer && !initial, widen: other && !initial && k == joined}
	a.todo = append(a.todo, t.room)
}

// postpone leaves a room for the next answer.
func (a *answer) postpone(t *target) {
	a.hold(t)
	a.some = true // so that the client comes back at once
}

// hold leaves what was told of a room as it is.
func (a *answer) hold(t *target) {
	t.later, t.now = true, t.before
	if t.found {
		t.now.upto = t.from(a.q.since.pos)
	}
}

// settle puts what the client will have been told into the draft. A room that the
// user left by themselves is forgotten once that is told.
func (a *answer) settle() {
	for i := range a.targets {
		t := &a.targets[i]
		switch {
		case t.later && !t.found:
		case !t.later && t.now.kind == gone && !t.sub && !t.e.ended:
			if t.found {
				a.draft.drop[t.now.room] = true
			}
		case t.now != t.before:
			a.draft.set[t.now.room] = t.now
		}
	}
}

// outOfView notes up to where a room was told. One that the user has left, and
// knows it, is forgotten.
func (a *answer) outOfView(rec record) {
	switch {
	case rec.kind == gone:
		a.draft.drop[rec.room] = true
	case rec.upto == 0:
		rec.upto = a.q.since.pos
		a.draft.set[rec.room] = rec
	}
}

// tell reads and encodes receipts and rooms.
func (a *answer) tell(ctx context.Context) error {
	first := a.at.pos > a.q.since.pos || a.receipts.behind()
	for first || len(a.todo) > 0 {
		err := a.read(ctx, func(tx *sqldb.Tx) error {
			if first {
				if err := a.tellReceipts(tx); err != nil {
					return err
				}
			}
			n := min(len(a.todo), snapshotRooms)
			err := a.tellRooms(tx, a.todo[:n])
			a.todo = a.todo[n:]
			return err
		})
		if err != nil {
			return err
		}
		first = false
	}
	return nil
}

func (a *answer) tellRooms(tx *sqldb.Tx, list []*room) error {
	if err := a.countUnread(tx, list); err != nil {
		return err
	}
	for _, r := range list {
		if len(a.rooms) > a.maxBytes {
			a.postpone(r.target)
			continue
		}
		if err := r.tell(tx); err != nil {
			return err
		}
	}
	return nil
}

// countUnread reads the unread counts of joined rooms.
func (a *answer) countUnread(tx *sqldb.Tx, list []*room) (err error) {
	if a.q.form != unstable {
		return nil
	}
	var keys []pushrules.RoomKey
	for _, r := range list {
		if r.e.kind() == joined && (r.news || r.counted) {
			keys = append(keys, pushrules.RoomKey{ID: r.e.key.ID, NID: r.e.key.NID})
		}
	}
	if len(keys) == 0 {
		return nil
	}
	a.unread, err = a.o.Push.Unread(tx, a.q.user, keys, a.at.pos)
	return err
}
