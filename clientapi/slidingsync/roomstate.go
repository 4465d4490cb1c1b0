package slidingsync

import (
	"encoding/json"
	"slices"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// selection collects the state events to give for a room.
type selection struct {
	*room
	tx    *sqldb.Tx
	nids  []int64
	taken map[int64]bool
	stubs []json.RawMessage
}

// readState reads the state that is asked for: all of it, or what changed.
func (r *room) readState(tx *sqldb.Tx) error {
	s := &selection{room: r, tx: tx, taken: map[int64]bool{}}
	if err := s.collect(); err != nil {
		return err
	}
	if r.want.union.lazy {
		if err := s.addShown(); err != nil {
			return err
		}
	}
	slices.Sort(s.nids)
	events, err := r.o.Rooms.Store.InOrder(tx, s.nids)
	if err != nil {
		return err
	}
	if r.required, err = r.o.Reader.State(tx, r.viewer(), events, r.at.pos); err != nil {
		return err
	}
	r.required = append(r.required, s.stubs...)
	r.note(events)
	return nil
}

// note remembers the member events that are given.
func (r *room) note(events []*store.Stored) {
	if !r.want.union.lazy {
		return
	}
	for _, e := range events {
		if e.Event.Type() == typeMember {
			r.given = append(r.given, syncread.MemberHash(r.e.key.NID, e.Tuple, e.NID))
		}
	}
}

func (s *selection) take(nid int64) {
	if nid != 0 && !s.taken[nid] {
		s.taken[nid] = true
		s.nids = append(s.nids, nid)
	}
}

func (s *selection) collect() error {
	u := s.want.union
	if s.initial {
		return s.all(u, nil)
	}
	for _, e := range s.changes {
		name := s.names[e.Tuple]
		lazily := u.lazy && name.Type == typeMember && !s.limited && (s.came == nil || !syncread.Learnt(e, s.was.State.Set, s.came))
		if !lazily && !u.matches(name) {
			continue
		}
		if s.take(e.Event); e.Event == 0 && s.q.form == v4 {
			s.stubs = append(s.stubs, stub(name))
		}
	}
	if !s.widen {
		return nil
	}
	return s.all(u, s.draft.base.unions[s.before.union])
}

// stub says that a piece of state is gone (MSC4186, "StateStub").
func stub(t store.Tuple) json.RawMessage {
	b := event.AppendString([]byte(`{"type":`), t.Type)
	return append(event.AppendString(append(b, `,"state_key":`...), t.Key), '}')
}

// all takes the whole state that one union asks for and another, if any, did not.
func (s *selection) all(u, old *union) error {
	set := s.is.State.Set
	for _, t := range u.names() {
		if !u.matches(t) || old != nil && old.matches(t) {
			continue
		}
		tuple, err := s.tuple(s.tx, t)
		if err != nil {
			return err
		}
		nid, _ := set.Get(tuple)
		s.take(nid)
	}
	if !u.wide {
		return nil
	}
	if u.all {
		return s.filter(set.Entries(), u, old)
	}
	plain, err := s.o.Reader.Plain(s.tx, s.e.key.NID, set)
	if err != nil {
		return err
	}
	return s.filter(plain, u, old)
}

func (s *selection) filter(entries []state.Entry, u, old *union) error {
	tuples := make([]int64, len(entries))
	for i, e := range entries {
		tuples[i] = e.Tuple
	}
	names, err := s.o.Rooms.Store.Tuples(s.tx, tuples)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := names[e.Tuple]; u.matches(name) && (old == nil || !old.matches(name)) {
			s.take(e.Event)
		}
	}
	return nil
}

// tuple returns the number of a piece of state, 0 when no room has it. Each is
// looked up once for an answer.
func (a *answer) tuple(tx *sqldb.Tx, t store.Tuple) (int64, error) {
	if n, ok := a.tuples[t]; ok {
		return n, nil
	}
	n, err := a.o.Rooms.Store.FindTuple(tx, t)
	if err == nil {
		a.tuples[t] = n
	}
	return n, err
}

// addShown adds the members whom events of the timeline show, unless the client
// has their events. After a gap it may have dropped them.
func (s *selection) addShown() error {
	users := map[string]bool{}
	for _, e := range s.events {
		users[e.Event.Sender()] = true
		if key, isState := e.Event.Key(); isState && e.Event.Type() == typeMember {
			users[key] = true
		}
	}
	for user := range users {
		tuple, err := s.o.Rooms.Store.FindTuple(s.tx, store.Tuple{Type: typeMember, Key: user})
		if err != nil {
			return err
		}
		nid, ok := s.is.State.Set.Get(tuple)
		if ok && (s.initial || s.limited || !s.q.given.Has(syncread.MemberHash(s.e.key.NID, tuple, nid))) {
			s.take(nid)
		}
	}
	return nil
}
