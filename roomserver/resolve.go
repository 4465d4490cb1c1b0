package roomserver

import (
	"context"
	"fmt"
	"maps"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/stateres"
	"knock/roomserver/store"
)

// extend returns a new set after base, which the batch writes.
func (b *batch) extend(base *store.Ref, set *state.Set) *store.Ref {
	ref := base.Extend(b.r.s.db.NextID(), set)
	b.sets = append(b.sets, ref)
	return ref
}

// resolve returns the state after a set of forks (server-server API, "Room
// State Resolution"); after a single one it is that one's.
func (b *batch) resolve(ctx context.Context, forks []extremity) (*store.Ref, error) {
	refs := make([]*store.Ref, 0, len(forks))
	for _, f := range forks {
		refs = append(refs, f.after)
	}
	return b.merge(ctx, refs)
}

// merge resolves the states of forks to one.
func (b *batch) merge(ctx context.Context, refs []*store.Ref) (*store.Ref, error) {
	if len(refs) == 0 {
		return store.EmptyState(), nil
	}
	distinct := refs[:1:1]
	for _, ref := range refs[1:] {
		if !sameAsAny(ref, distinct) {
			distinct = append(distinct, ref)
		}
	}
	if len(distinct) == 1 {
		return distinct[0], nil
	}
	began := time.Now()
	defer func() { b.r.s.thought(b.sender, time.Since(began)) }()
	sets := make([]*state.Set, len(distinct))
	for i, ref := range distinct {
		sets[i] = ref.Set
	}
	src := &source{ctx: ctx, r: b.r, known: map[int64]*store.Stored{}}
	if err := src.preload(stateres.Conflicts(b.r.key.Version, sets)); err != nil {
		return nil, fmt.Errorf("resolve the state of %s: %w", b.r.key.ID, err)
	}
	set, err := stateres.Resolve(ctx, b.r.key.Version, sets, src)
	if err != nil {
		return nil, fmt.Errorf("resolve the state of %s: %w", b.r.key.ID, err)
	}
	for _, ref := range append(distinct, b.r.tip.state) {
		if ref != nil && same(ref.Set, set) {
			return ref, nil
		}
	}
	return b.extend(distinct[0], set), nil
}

func sameAsAny(ref *store.Ref, refs []*store.Ref) bool {
	for _, other := range refs {
		if other.NID == ref.NID || same(other.Set, ref.Set) {
			return true
		}
	}
	return false
}

// same reports whether two sets hold the same; the first difference ends it.
func same(a, b *state.Set) bool {
	return state.Diff(a, b, func(int64, int64, int64) bool { return false })
}

// source answers the questions of state resolution from the room's events.
type source struct {
	ctx   context.Context
	r     *room
	known map[int64]*store.Stored
}

// preload reads the conflicted events and their auth chains, a generation in
// one statement: resolution walks all of them.
func (s *source) preload(nids []int64) error {
	return s.r.s.db.Read(s.ctx, func(tx *sqldb.Tx) error {
		for len(nids) > 0 {
			var absent []int64
			for _, nid := range nids {
				if e := s.r.pendingEvent(nid); e != nil {
					s.known[nid] = e
				} else {
					absent = append(absent, nid)
				}
			}
			loaded, err := s.r.s.Store.Load(tx, absent)
			if err != nil {
				return err
			}
			maps.Copy(s.known, loaded)
			nids = s.unknownAuth(nids)
		}
		return nil
	})
}

// unknownAuth returns the auth events of events that are not known yet.
func (s *source) unknownAuth(nids []int64) (next []int64) {
	seen := map[int64]bool{}
	for _, nid := range nids {
		if e := s.known[nid]; e != nil {
			for _, a := range e.Auth {
				if s.known[a] == nil && !seen[a] {
					seen[a] = true
					next = append(next, a)
				}
			}
		}
	}
	return next
}

func (s *source) stored(id int64) (*store.Stored, error) {
	if e := s.known[id]; e != nil {
		return e, nil
	}
	e, err := s.r.event(s.ctx, id)
	if err == nil {
		s.known[id] = e
	}
	return e, err
}

func (s *source) Event(id int64) (*event.Event, error) {
	e, err := s.stored(id)
	if err != nil {
		return nil, err
	}
	return e.Event, nil
}

func (s *source) Auth(id int64) ([]int64, error) {
	e, err := s.stored(id)
	if err != nil {
		return nil, err
	}
	return e.Auth, nil
}

func (s *source) Rejected(id int64) bool {
	e, err := s.stored(id)
	return err == nil && e.Flags&store.Rejected != 0
}

func (s *source) Tuple(id int64) int64 {
	e, err := s.stored(id)
	if err != nil {
		return 0
	}
	return e.Tuple
}

// memberChanges returns what a change of the room's state means for who is in it.
func (r *room) memberChanges(ctx context.Context, from, to *store.Ref) ([]memberChange, error) {
	changed := state.Changes(from.Set, to.Set)
	nids := make([]int64, len(changed))
	for i, c := range changed {
		nids[i] = c.Tuple
	}
	var tuples map[int64]store.Tuple
	err := r.s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		tuples, err = r.s.Store.Tuples(tx, nids)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []memberChange
	for _, c := range changed {
		t := tuples[c.Tuple]
		if t.Type != "m.room.member" {
			continue
		}
		old, _ := from.Set.Get(c.Tuple)
		m := memberChange{user: t.Key, event: c.Event}
		if c.Event == 0 { // the state lost it: for whoever was there, the stay is over
			m.event = old
		}
		if m.from, err = r.membershipOf(ctx, old); err != nil {
			return nil, err
		}
		if m.to, err = r.membershipOf(ctx, c.Event); err != nil {
			return nil, err
		}
		user, err := r.s.Store.Intern(ctx, t.Key)
		if err != nil {
			return nil, err
		}
		m.nid = user[0]
		out = append(out, m)
	}
	return out, nil
}

// membershipOf returns the membership that a member event sets; 0 has none.
func (r *room) membershipOf(ctx context.Context, nid int64) (store.Membership, error) {
	if nid == 0 {
		return store.NoMembership, nil
	}
	e, err := r.event(ctx, nid)
	if err != nil {
		return 0, err
	}
	return store.ParseMembership(auth.Membership(e.Event)), nil
}

func (s *source) TupleOf(evType, stateKey string) (nid int64, err error) {
	t := store.Tuple{Type: evType, Key: stateKey}
	if nid, ok := s.r.s.Store.CachedTuple(t); ok {
		return nid, nil
	}
	err = s.r.s.db.Read(s.ctx, func(tx *sqldb.Tx) error {
		nid, err = s.r.s.Store.FindTuple(tx, t)
		return err
	})
	return nid, err
}
