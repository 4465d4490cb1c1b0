package appservice

import (
	"context"
	"sync"
	"sync/atomic"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// interested are the services that an event is for: those with a joined user in the room before the event, those whose
// user a membership is about, and those who have the room or one of its aliases in a namespace.
func (s *Services) interested(ctx context.Context, t *tracker, room string, e *store.Stored) (set, error) {
	in := s.reg.room(room).in
	aliased, err := s.aliased(ctx, room)
	if err != nil {
		return 0, err
	}
	in |= aliased
	if target, ok := e.Event.Key(); ok && e.Event.Type() == "m.room.member" {
		in |= s.reg.user(target).in
	}
	if e.Flags&store.Outlier != 0 {
		return in, nil
	}
	joined, err := t.joined(ctx, e.Room, e.State)
	return in | joined, err
}

// tracker knows for rooms, at the state last asked about, how many joined users each service has there. From one state
// to the next it looks at the difference alone. One goroutine uses it.
type tracker struct {
	s     *Services
	rooms map[int64]*tracked
}

type tracked struct {
	ref    *store.Ref
	counts []int
	in     set
}

// maxTracked bounds the rooms of a tracker.
const maxTracked = 20_000

func (s *Services) newTracker() *tracker { return &tracker{s: s, rooms: map[int64]*tracked{}} }

// joined are the services with a joined user in a state of a room.
func (t *tracker) joined(ctx context.Context, room, at int64) (set, error) {
	k := t.rooms[room]
	if k != nil && k.ref.NID == at {
		return k.in, nil
	}
	if k == nil {
		if len(t.rooms) >= maxTracked {
			clear(t.rooms)
		}
		k = &tracked{ref: store.EmptyState(), counts: make([]int, len(t.s.reg.list))}
	}
	delete(t.rooms, room) // until it is known to be whole
	if err := t.move(ctx, k, at); err != nil {
		return 0, err
	}
	t.rooms[room] = k
	return k.in, nil
}

type stay struct {
	in       set
	was, now int64 // member events; 0: none
}

func (t *tracker) move(ctx context.Context, k *tracked, at int64) error {
	st := t.s.rooms.Store
	var to *store.Ref
	err := st.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if to, err = st.Set(tx, at); err != nil {
			return err
		}
		stays, err := t.differing(tx, k.ref, to)
		if err != nil {
			return err
		}
		nids := make([]int64, 0, 2*len(stays))
		for _, v := range stays {
			nids = append(nids, v.was, v.now)
		}
		events, err := st.Load(tx, nids)
		for _, v := range stays {
			k.count(t.s.reg, v.in, joinsBy(events[v.now])-joinsBy(events[v.was]))
		}
		return err
	})
	k.ref = to
	return err
}

// differing are the memberships of services' users that differ between two states.
func (t *tracker) differing(tx *sqldb.Tx, from, to *store.Ref) (stays []stay, err error) {
	var tuples []int64
	changed := map[int64]stay{}
	state.Diff(from.Set, to.Set, func(tuple, was, now int64) bool {
		tuples = append(tuples, tuple)
		changed[tuple] = stay{was: was, now: now}
		return true
	})
	const chunk = 1000
	for len(tuples) > 0 {
		n := min(chunk, len(tuples))
		texts, err := t.s.rooms.Store.Tuples(tx, tuples[:n])
		if err != nil {
			return nil, err
		}
		for nid, text := range texts {
			if text.Type != "m.room.member" {
				continue
			}
			if v := changed[nid]; t.s.reg.user(text.Key).in != 0 {
				v.in = t.s.reg.user(text.Key).in
				stays = append(stays, v)
			}
		}
		tuples = tuples[n:]
	}
	return stays, nil
}

func joinsBy(e *store.Stored) int {
	if e != nil && auth.Membership(e.Event) == auth.Join {
		return 1
	}
	return 0
}

func (k *tracked) count(r *registry, in set, by int) {
	for i, v := range r.list {
		if in&v.bit == 0 {
			continue
		}
		k.counts[i] += by
		k.in &^= v.bit
		if k.counts[i] > 0 {
			k.in |= v.bit
		}
	}
}

// aliasIndex knows which rooms have an alias in a namespace. Aliases change seldom: then all are read again.
type aliasIndex struct {
	stale  atomic.Bool
	loaded atomic.Bool
	mu     sync.Mutex
	rooms  map[string]set
}

// AliasesChanged says that an alias was made, moved or removed.
func (s *Services) AliasesChanged() {
	if s != nil {
		s.aliases.stale.Store(true)
	}
}

func (s *Services) aliased(ctx context.Context, room string) (set, error) {
	a := &s.aliases
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stale.Swap(false) || !a.loaded.Load() {
		if err := s.loadAliases(ctx); err != nil {
			a.stale.Store(true)
			return 0, err
		}
		a.loaded.Store(true)
	}
	return a.rooms[room], nil
}

func (s *Services) loadAliases(ctx context.Context) error {
	rooms := map[string]set{}
	if s.anyAliases() {
		err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
			return s.rooms.Store.EachAlias(tx, func(a store.Alias) {
				if in := s.reg.alias(a.Alias).in; in != 0 {
					rooms[a.RoomID] |= in
				}
			})
		})
		if err != nil {
			return err
		}
	}
	s.aliases.rooms = rooms
	return nil
}

func (s *Services) anyAliases() bool {
	for _, v := range s.reg.list {
		if len(v.Aliases) > 0 {
			return true
		}
	}
	return false
}
