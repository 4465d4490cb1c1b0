package roomserver

import (
	"context"
	"errors"
	"fmt"

	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// takeJoin takes a join that a server let in and answered: it opens the room, or
// adds the join to it where this server is in the room by now.
func (s *Server) takeJoin(ctx context.Context, f *flight, a *joinAnswer) error {
	resident, err := s.IsResident(ctx, a.room)
	if err != nil {
		return err
	}
	if !resident {
		if err = s.enter(ctx, a); !errors.Is(err, errInside) {
			return err
		}
	}
	return s.joinInside(ctx, f, a)
}

// errInside is returned when this server is in the room that is to be opened.
var errInside = errors.New("this server is in the room")

// enter writes a room that was joined through another server.
func (s *Server) enter(ctx context.Context, a *joinAnswer) error {
	return s.retry(ctx, func() error {
		key, err := s.ensureRoom(ctx, a.room, a.v)
		if errors.Is(err, errOtherVersion) {
			return fmt.Errorf("%w: %v", ErrBadAnswer, err)
		}
		if err != nil {
			return err
		}
		if err := s.readAnew(ctx, key, a); err != nil {
			return err
		}
		set, err := s.storeAnswer(ctx, key, a)
		if err != nil {
			return err
		}
		return s.enterLocked(ctx, key, a, set)
	})
}

// storeAnswer stores the events of an answer and returns its state.
func (s *Server) storeAnswer(ctx context.Context, key store.RoomKey, a *joinAnswer) (*state.Set, error) {
	nids, err := s.storeOutliers(ctx, key, a.order, nil)
	if err != nil {
		return nil, err
	}
	if err := s.internServers(ctx, a.state); err != nil {
		return nil, err
	}
	return s.setOf(ctx, a.state, nids)
}

// joinInside adds the join that a server answered to a room that this server is
// in, as if it had come in a transaction. Where what precedes it cannot be had,
// the answer tells the state before it.
func (s *Server) joinInside(ctx context.Context, f *flight, a *joinAnswer) error {
	key, err := s.Room(ctx, a.room)
	if err != nil {
		return err
	}
	if key.Version != a.v {
		return fmt.Errorf("%w: the room has version %s, not %s", ErrBadAnswer, key.Version.ID, a.v.ID)
	}
	if err := s.place(ctx, key, a.from, a.join); err != nil {
		s.Log.WithError(err).WithField("room", a.room).Info("What precedes a join cannot be had; the state that its server tells is used")
		if err := s.placeAsTold(ctx, f, key, a); err != nil {
			return err
		}
	}
	known, err := s.here(ctx, a.join.EventID())
	if err != nil {
		return err
	}
	if known == nil {
		return fmt.Errorf("%w: the join could not be placed", ErrBadAnswer)
	}
	return refusal(known)
}

// placeAsTold adds a join with the state that its answer tells. One that lacks members is asked for again: the same
// join is answered the same way as often as it is sent.
func (s *Server) placeAsTold(ctx context.Context, f *flight, key store.RoomKey, a *joinAnswer) error {
	if a.omitted {
		whole, err := s.sendJoin(ctx, f, a.from, a.join, false)
		if err != nil {
			return err
		}
		defer whole.release()
		a = whole
	}
	set, err := s.storeAnswer(ctx, key, a)
	if err != nil {
		return err
	}
	return s.placeHere(ctx, key, a.from, a.join, admission{state: set})
}

// internServers gives numbers to the names of all servers in a state at once.
func (s *Server) internServers(ctx context.Context, events []*event.Event) error {
	seen := map[string]bool{}
	var servers []string
	for _, e := range events {
		if key, _ := e.Key(); e.Type() == "m.room.member" && !seen[serverOf(key)] {
			seen[serverOf(key)] = true
			servers = append(servers, serverOf(key))
		}
	}
	_, err := s.Store.Intern(ctx, servers...)
	return err
}

// setOf makes a state set of stored state events.
func (s *Server) setOf(ctx context.Context, events []*event.Event, nids map[string]int64) (*state.Set, error) {
	tuples := make([]store.Tuple, len(events))
	for i, e := range events {
		key, _ := e.Key()
		tuples[i] = store.Tuple{Type: e.Type(), Key: key}
	}
	numbers, err := s.Store.InternTuples(ctx, tuples)
	if err != nil {
		return nil, err
	}
	entries := make([]state.Entry, len(events))
	for i, e := range events {
		entries[i] = state.Entry{Tuple: numbers[i], Event: nids[e.EventID()]}
	}
	return state.FromEntries(entries), nil
}

func (s *Server) enterLocked(ctx context.Context, key store.RoomKey, a *joinAnswer, set *state.Set) error {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return err
	}
	if err := r.lock(); err != nil {
		return err
	}
	if r.tip.here(s.ServerName) {
		r.mu.Unlock()
		return errInside
	}
	if r.key.Version != a.v { // another one was claimed meanwhile
		r.fail()
		r.mu.Unlock()
		return store.ErrRevision
	}
	b := r.begin()
	err = b.replace(ctx, a, set)
	if err != nil {
		r.fail()
		r.mu.Unlock()
		return err
	}
	b.enqueue()
	r.mu.Unlock()
	return b.wait(ctx)
}

// replace makes the room's state what the answer to a join says it was, and adds the join.
func (b *batch) replace(ctx context.Context, a *joinAnswer, set *state.Set) error {
	r, join := b.r, a.join
	cited, err := r.cited(ctx, join)
	if err != nil {
		return err
	}
	known, err := r.known(ctx, join.EventID())
	if err != nil {
		return err
	}
	acc := acceptance{auth: cited.nids, before: b.extend(r.tip.state, set), replaces: known}
	for _, prev := range join.PrevEventIDs() {
		p, err := r.known(ctx, prev)
		if err != nil {
			return err
		}
		if p == nil || p.Flags&store.Outlier != 0 {
			acc.missing = append(acc.missing, prev)
		}
	}
	if _, acc.state, err = r.allowedAt(ctx, join, set); err != nil {
		return err
	}
	r.tip.resident, r.tip.extremities = true, nil
	b.enters = true
	if !a.omitted {
		b.mend()
		_, err = b.add(ctx, join, acc)
		return err
	}
	if cited.reason != nil {
		return cited.reason // its server should have said so
	}
	acc.flags |= store.Partial
	return b.openPartial(ctx, a, acc)
}
