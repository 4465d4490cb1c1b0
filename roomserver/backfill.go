package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// Bounds of one backfill.
const (
	backfillTime    = 20 * time.Second
	backfillServers = 4
	gapsLooked      = 200
)

// Backfill fetches up to limit events that precede the gap in a room's history
// nearest to ord, at or after it, and says whether any came. Nothing is believed:
// events are checked like all others.
func (s *Server) Backfill(ctx context.Context, roomID string, ord int64, limit int) (bool, error) {
	key, err := s.Room(ctx, roomID)
	if err != nil || s.Remote == nil {
		return false, err
	}
	gap, prevs, err := s.nearestGap(ctx, key, ord)
	if err != nil || len(prevs) == 0 {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	for _, server := range s.backfillFrom(ctx, roomID, gap) {
		n, err := s.backfillThrough(ctx, key, server, gap, prevs, min(limit, maxBackfill))
		if err == nil && n > 0 {
			return true, nil
		}
		if err != nil {
			s.Log.WithError(err).WithField("room", roomID).WithField("server", server).Info("History could not be fetched")
		}
		if ctx.Err() != nil {
			break
		}
	}
	return false, nil
}

// nearestGap returns the event after the gap that is nearest to ord, and its
// prev events that are not here.
func (s *Server) nearestGap(ctx context.Context, key store.RoomKey, ord int64) (gap *store.Stored, prevs []string, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		gaps, err := s.Store.Gaps(tx, key.NID, gapsLooked)
		if err != nil {
			return err
		}
		var at *store.Gap
		for i, g := range gaps {
			if g.Ord >= ord && (at == nil || g.Ord < at.Ord) {
				at = &gaps[i]
			}
		}
		if at == nil {
			return nil
		}
		for _, g := range gaps {
			if g.Event == at.Event {
				prevs = append(prevs, g.Prev)
			}
		}
		gap, err = s.Store.Event(tx, at.Event)
		return err
	})
	return gap, prevs, err
}

// backfillFrom lists whom to ask: the sender's server first, which had the event.
func (s *Server) backfillFrom(ctx context.Context, roomID string, gap *store.Stored) []string {
	servers := []string{serverOf(gap.Event.Sender())}
	if joined, err := s.JoinedServers(ctx, roomID); err == nil {
		servers = append(servers, joined...)
	}
	servers = slices.DeleteFunc(dedupe(servers), func(name string) bool { return name == s.ServerName })
	return servers[:min(len(servers), backfillServers)]
}

func (s *Server) backfillThrough(ctx context.Context, key store.RoomKey, server string, gap *store.Stored, prevs []string, limit int) (int, error) {
	raws, err := s.Remote.Backfill(ctx, server, key.ID, prevs, limit)
	if err != nil {
		return 0, err
	}
	found := map[string]*event.Event{}
	s.parseGap(ctx, key, raws, found)
	keepReached(found, prevs, (*event.Event).PrevEventIDs)
	return s.storeHistory(ctx, key, server, gap, found, false)
}

// storeHistory puts fetched events into the history before a gap and returns how
// many. They are told to be apart when more belongs between them and the gap.
func (s *Server) storeHistory(ctx context.Context, key store.RoomKey, server string, gap *store.Stored, found map[string]*event.Event, apart bool) (int, error) {
	if err := s.dropPlaced(ctx, found); err != nil || len(found) == 0 {
		return 0, err
	}
	list := dagOrder(found)
	states := map[string]*state.Set{}
	for _, e := range list {
		if err := s.prepareHistory(ctx, key, server, e, found, states); err != nil {
			s.Log.WithError(err).WithField("event", e.EventID()).Info("The state before an event of the history could not be fetched")
			delete(found, e.EventID())
		}
	}
	list = slices.DeleteFunc(list, func(e *event.Event) bool { return found[e.EventID()] == nil })
	if len(list) == 0 {
		return 0, nil
	}
	return len(list), s.retry(ctx, func() error { return s.writeHistory(ctx, key, gap, list, states, apart) })
}

// dropPlaced removes the events that are in the history already, and those that
// precede them: they belong to another gap.
func (s *Server) dropPlaced(ctx context.Context, found map[string]*event.Event) error {
	var drop []string
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		for id := range found {
			e, err := s.Store.EventByID(tx, id)
			switch {
			case errors.Is(err, store.ErrNotFound):
			case err != nil:
				return err
			case e.Flags&store.Outlier == 0:
				drop = append(drop, id)
			}
		}
		return nil
	})
	for len(drop) > 0 {
		id := drop[len(drop)-1]
		drop = drop[:len(drop)-1]
		if e := found[id]; e != nil {
			delete(found, id)
			drop = append(drop, e.PrevEventIDs()...)
		}
	}
	return err
}

// prepareHistory makes sure that the auth events of an event of the history are
// here, and the state before it where its prev events do not tell.
func (s *Server) prepareHistory(ctx context.Context, key store.RoomKey, server string, e *event.Event, found map[string]*event.Event, states map[string]*state.Set) error {
	placed := false
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := s.Store.EventNIDs(tx, e.PrevEventIDs())
		if err != nil {
			return err
		}
		placed = true
		for _, id := range e.PrevEventIDs() {
			if found[id] != nil {
				continue
			}
			prev, err := s.Store.Event(tx, nids[id])
			if errors.Is(err, store.ErrNotFound) || err == nil && prev.Flags&store.Outlier != 0 {
				placed = false
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !placed && e.Type() != "m.room.create" {
		if states[e.EventID()], err = s.fetchState(ctx, key, server, e.EventID(), nil); err != nil {
			return err
		}
	}
	absent, err := s.absent(ctx, e.AuthRefs())
	if err != nil {
		return err
	}
	absent = slices.DeleteFunc(absent, func(id string) bool { return found[id] != nil })
	if len(absent) == 0 {
		return nil
	}
	return s.storeFetched(ctx, key, absent, s.fetchEvents(ctx, server, absent))
}

// writeHistory puts events, oldest first, before the gap.
func (s *Server) writeHistory(ctx context.Context, key store.RoomKey, gap *store.Stored, list []*event.Event, states map[string]*state.Set, apart bool) error {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return err
	}
	ords, err := s.ordsBefore(ctx, key, gap.Ord, len(list), apart)
	if err != nil {
		return err
	}
	if err := r.lock(); err != nil {
		return err
	}
	b := r.begin()
	for i, e := range list {
		if err := b.addHistory(ctx, e, states[e.EventID()], ords[i]); err != nil {
			err = r.abandon(b, err)
			r.mu.Unlock()
			return err
		}
	}
	if len(b.drafts) == 0 {
		r.mu.Unlock()
		return nil
	}
	b.enqueue()
	r.mu.Unlock()
	return b.wait(ctx)
}

// Steps in the order of history. Events that are fetched are put close to what
// they precede, so that those before them have room as well.
const (
	closeness = 64
	farApart  = 1 << 40
)

// ordsBefore returns n places, ascending, between an event and the one before it.
func (s *Server) ordsBefore(ctx context.Context, key store.RoomKey, ord int64, n int, apart bool) ([]int64, error) {
	step := int64(ordStep)
	if apart {
		step = farApart
	}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		before, some, err := s.Store.Neighbour(tx, key.NID, ord, true)
		if some {
			step = (ord - before) / int64(n+1)
		}
		if some && !apart && step > 0 {
			step = max(1, step/closeness)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if step == 0 {
		return nil, fmt.Errorf("no room is left for history before %d", ord)
	}
	ords := make([]int64, n)
	for i := range ords {
		ords[i] = ord - int64(n-i)*step
	}
	return ords, nil
}

// addHistory adds one event of the history to the batch. It changes neither the
// room's state nor its forward extremities and is not delivered.
func (b *batch) addHistory(ctx context.Context, e *event.Event, set *state.Set, ord int64) error {
	known, err := b.r.known(ctx, e.EventID())
	if err != nil || known != nil && known.Flags&store.Outlier == 0 {
		return err
	}
	cited, err := b.r.cited(ctx, e)
	if errors.Is(err, errMissingAuth) {
		return nil // it cannot be checked, so it is not taken
	}
	if err != nil {
		return err
	}
	if known != nil {
		if err := b.r.drain(ctx); err != nil {
			return err
		}
	}
	acc := acceptance{flags: store.Backfilled, auth: cited.nids, replaces: known, fills: true, ord: &ord}
	prior, err := b.beforeHistory(ctx, e, set)
	if errors.Is(err, errMissingPrev) {
		return nil // nor can this one
	}
	if err != nil {
		return err
	}
	acc.before, acc.missing = prior.state, prior.missing
	if prior.partial {
		acc.flags |= store.Partial
		if acc.before, err = b.vouchBefore(ctx, acc.before, cited.nids); err != nil {
			return err
		}
	}
	reason := cited.reason
	if reason == nil && e.Type() != "m.room.create" {
		if reason, _, err = b.r.allowedAt(ctx, e, acc.before.Set); err != nil {
			return err
		}
	}
	if reason != nil {
		b.r.logRefusal(e, "of the history rejected", reason)
		acc.flags |= store.Rejected
		acc.ord = nil
	}
	_, err = b.add(ctx, e, acc)
	return err
}

// beforeHistory returns the state before an event of the history, as before does. Nothing precedes the room's own
// create event; no other event may claim that.
func (b *batch) beforeHistory(ctx context.Context, e *event.Event, set *state.Set) (precedence, error) {
	if !e.IsState("m.room.create", "") || len(e.PrevEventIDs()) > 0 {
		return b.before(ctx, e, admission{state: set})
	}
	create, err := b.r.stateEvent(ctx, b.r.tip.state.Set, store.Tuple{Type: "m.room.create"})
	if err == nil && (create == nil || create.ID != e.EventID()) {
		err = errMissingPrev
	}
	return precedence{state: store.EmptyState()}, err
}
