package roomserver

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// ordStep is the distance of live events in the order of history, so that
// fetched ones fit between them.
const ordStep = 1 << 20

// room is the handle of one room. mu guards the tip: the newest state, which
// may be queued but not yet committed. pub guards what is committed; the
// database writer takes it, so nobody may wait for a write while holding it.
type room struct {
	s    *Server
	key  store.RoomKey
	used uint64 // guarded by Server.mu

	broken atomic.Bool // a write failed: the handle is dropped

	mu    sync.Mutex
	tip   tip
	last  *batch // queued last
	txns  txnWindow
	auths map[string]*selection // auth events of message senders, for tip.state

	policed knownPolicy

	pub struct {
		sync.RWMutex
		pending map[int64]*store.Stored // queued events
		byID    map[string]*store.Stored
		queued  int             // batches in the writer's queue
		views   []View          // ascending by position; the last is current
		ring    []*store.Stored // newest delivered events, ascending by position
		from    int64           // the ring holds everything delivered after this position
	}
}

// tip is the newest state of a room.
type tip struct {
	rev         int64
	resident    bool
	extremities []extremity
	state       *store.Ref
	ord         int64          // of the next live event
	joined      int            // joined members
	invited     int            // invited members
	servers     map[string]int // joined members by server
	partial     *incomplete    // not all members are known; nil: they are
	torn        bool           // nor may they be when nobody of ours is in the room
}

// extremity is a forward extremity with the state after it.
type extremity struct {
	nid   int64
	id    string
	depth int64
	after *store.Ref
	flags store.Flags
}

// View is a room's published state and since which position it is current.
type View struct {
	Pos             int64
	State           *store.Ref
	Joined, Invited int
}

const (
	ringSize  = 32 // events kept in memory a room, up to twice as many
	viewsKept = 32 // states kept in memory a room
)

// load reads a room into a new handle.
func (s *Server) load(ctx context.Context, key store.RoomKey) (*room, error) {
	r := &room{s: s, key: key, auths: map[string]*selection{}}
	r.pub.pending, r.pub.byID = map[int64]*store.Stored{}, map[string]*store.Stored{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		row, err := s.Store.RoomRow(tx, key.NID)
		if err != nil {
			return err
		}
		return r.fill(tx, row)
	})
	if err != nil {
		return nil, fmt.Errorf("load room %s: %w", key.ID, err)
	}
	for _, p := range s.Participants {
		if err := p.Load(ctx, key.NID); err != nil {
			return nil, fmt.Errorf("load room %s: %w", key.ID, err)
		}
	}
	return r, nil
}

func (r *room) fill(tx *sqldb.Tx, row store.RoomRow) error {
	st := r.s.Store
	t := tip{rev: row.Rev, resident: row.Resident, servers: map[string]int{}}
	var err error
	if t.state, err = st.Set(tx, row.State); err != nil {
		return err
	}
	if len(row.Extremities)%2 != 0 {
		return fmt.Errorf("the forward extremities are damaged")
	}
	for i := 0; i < len(row.Extremities); i += 2 {
		x := extremity{nid: row.Extremities[i]}
		e, err := st.Event(tx, x.nid)
		if err != nil {
			return fmt.Errorf("forward extremity %d: %w", x.nid, err)
		}
		x.id, x.depth, x.flags = e.ID, e.Depth, e.Flags
		if x.after, err = st.Set(tx, row.Extremities[i+1]); err != nil {
			return err
		}
		t.extremities = append(t.extremities, x)
	}
	members, err := st.Members(tx, r.key.NID)
	if err != nil {
		return err
	}
	for _, m := range members {
		t.count(m.User, store.NoMembership, m.State)
	}
	hi, _, some, err := st.Ords(tx, r.key.NID)
	if err != nil {
		return err
	}
	if some {
		t.ord = hi + ordStep
	}
	if err := t.findPartial(tx, st, r.key.NID); err != nil {
		return err
	}
	r.tip = t
	return r.fillPublished(tx)
}

// fillPublished sets the view and the ring from the newest delivered events.
func (r *room) fillPublished(tx *sqldb.Tx) error {
	st := r.s.Store
	nids, err := st.Delivered(tx, r.key.NID, 0, maxPos, true, ringSize)
	if err != nil {
		return err
	}
	events, err := st.Load(tx, nids)
	if err != nil {
		return err
	}
	for _, nid := range slices.Backward(nids) {
		r.pub.ring = append(r.pub.ring, events[nid])
	}
	if len(nids) == ringSize {
		r.pub.from = r.pub.ring[0].Pos - 1
	}
	view := View{State: r.tip.state, Joined: r.tip.joined, Invited: r.tip.invited}
	if _, since, err := st.StateAt(tx, r.key.NID, maxPos); err == nil {
		view.Pos = since
	}
	r.pub.views = []View{view}
	return nil
}

const maxPos = int64(^uint64(0) >> 1)

// count updates the member counts for a change of one membership.
func (t *tip) count(user string, from, to store.Membership) {
	server := event.ServerOf(user)
	switch from {
	case store.Join:
		t.joined--
		if t.servers[server]--; t.servers[server] <= 0 {
			delete(t.servers, server)
		}
	case store.Invite:
		t.invited--
	}
	switch to {
	case store.Join:
		t.joined++
		t.servers[server]++
	case store.Invite:
		t.invited++
	}
}

// here reports whether the server knows the room's newest state: somebody of it
// is in the room, or nobody is and it was the last.
func (t *tip) here(server string) bool {
	return t.resident && (t.servers[server] > 0 || len(t.servers) == 0 && !t.torn)
}

// busy reports whether a write of the room is under way.
func (r *room) busy() bool {
	r.pub.RLock()
	defer r.pub.RUnlock()
	return r.pub.queued > 0
}

// lock takes the handle for a change; it fails when the handle was dropped.
func (r *room) lock() error {
	r.mu.Lock()
	if r.broken.Load() {
		r.mu.Unlock()
		return store.ErrRevision
	}
	return nil
}

// event returns an event of this room that may be queued and not yet written.
func (r *room) event(ctx context.Context, nid int64) (*store.Stored, error) {
	if e := r.pendingEvent(nid); e != nil {
		return e, nil
	}
	return r.s.Store.LoadOne(ctx, nid)
}

func (r *room) pendingEvent(nid int64) *store.Stored {
	r.pub.RLock()
	defer r.pub.RUnlock()
	return r.pub.pending[nid]
}

// stateEvent returns the event that a state set holds for a tuple, or nil.
func (r *room) stateEvent(ctx context.Context, set *state.Set, t store.Tuple) (*store.Stored, error) {
	nid, ok := r.s.Store.CachedTuple(t)
	if !ok {
		err := r.s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			nid, err = r.s.Store.FindTuple(tx, t)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if nid == 0 {
		return nil, nil
	}
	e, ok := set.Get(nid)
	if !ok {
		return nil, nil
	}
	return r.event(ctx, e)
}

// selection is the auth events of an event to be built.
type selection struct {
	state auth.State
	ids   []string
	nids  []int64
}

// selectAuth returns the auth events that the rules select from a state.
func (r *room) selectAuth(ctx context.Context, set *state.Set, tuples []auth.Tuple) (*selection, error) {
	sel := &selection{}
	var events []*event.Event
	for _, t := range tuples {
		e, err := r.stateEvent(ctx, set, store.Tuple(t))
		if err != nil {
			return nil, err
		}
		if e != nil {
			events = append(events, e.Event)
			sel.ids, sel.nids = append(sel.ids, e.ID), append(sel.nids, e.NID)
		}
	}
	if r.key.Version.DomainlessRoomIDs {
		create, err := r.stateEvent(ctx, set, store.Tuple{Type: "m.room.create"})
		if err != nil {
			return nil, err
		}
		if create != nil {
			events = append(events, create.Event)
			sel.nids = append(sel.nids, create.NID)
		}
	}
	sel.state = auth.NewState(events)
	return sel, nil
}
