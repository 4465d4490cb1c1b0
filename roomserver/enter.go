package roomserver

import (
	"context"

	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// enter writes a room that was joined through another server.
func (s *Server) enter(ctx context.Context, a *joinAnswer) error {
	key, err := s.ensureRoom(ctx, a.room, a.v)
	if err != nil {
		return err
	}
	nids, err := s.storeOutliers(ctx, key, a.order, nil)
	if err != nil {
		return err
	}
	if err := s.internServers(ctx, a.state); err != nil {
		return err
	}
	set, err := s.setOf(ctx, a.state, nids)
	if err != nil {
		return err
	}
	return s.retry(ctx, func() error { return s.enterLocked(ctx, key, a, set) })
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
	b := r.begin()
	err = b.replace(ctx, a.join, set)
	if err != nil {
		r.fail()
		r.mu.Unlock()
		return err
	}
	b.enqueue()
	r.mu.Unlock()
	return b.wait(ctx)
}

// replace makes the room's state what a join says it was, and adds the join.
func (b *batch) replace(ctx context.Context, join *event.Event, set *state.Set) error {
	r := b.r
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
	_, err = b.add(ctx, join, acc)
	return err
}
