package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Receive takes the PDUs of a transaction (server-server API, "Transactions")
// and returns the error of each event by its id, "" where it was taken. A bad
// PDU never fails the rest. When Receive returns without an error every event
// that was not refused is in its room or in the durable inbound queue. It takes its
// time when much of the origin waits there.
func (s *Server) Receive(ctx context.Context, origin string, pdus []json.RawMessage) (map[string]string, error) {
	results := make(map[string]string, len(pdus))
	rooms := map[int64]*arrival{}
	for _, raw := range pdus {
		if err := s.sortPDU(ctx, origin, raw, rooms, results); err != nil {
			return nil, err
		}
	}
	for _, a := range rooms {
		if err := s.take(ctx, a, results); err != nil {
			return nil, err
		}
	}
	for _, a := range rooms {
		if a.parked > 0 {
			s.slow(ctx, a.key, origin)
		}
	}
	return results, nil
}

// arrival is what a transaction brings for one room.
type arrival struct {
	key    store.RoomKey
	origin string
	denied bool // by the room's ACL, as it was when the transaction came
	events []*event.Event
	parked int // events that wait in the inbound queue now
}

// sortPDU parses one PDU and puts it to its room. Its error is the database's.
func (s *Server) sortPDU(ctx context.Context, origin string, raw json.RawMessage, rooms map[int64]*arrival, results map[string]string) error {
	key, err := s.roomOf(ctx, raw)
	if errors.Is(err, store.ErrNotFound) {
		// The id cannot be known without the room's version, nor does it matter.
		return nil
	}
	if err != nil {
		return err
	}
	e, err := event.Parse(key.Version, raw)
	if err != nil {
		s.Log.WithError(err).WithField("origin", origin).Debug("A PDU is malformed")
		return nil
	}
	if _, twice := results[e.EventID()]; twice {
		return nil
	}
	results[e.EventID()] = ""
	a := rooms[key.NID]
	if a == nil {
		allowed, err := s.ServerAllowed(ctx, key.ID, origin)
		if err != nil {
			return err
		}
		a = &arrival{key: key, origin: origin, denied: !allowed}
		rooms[key.NID] = a
	}
	if a.denied {
		results[e.EventID()] = "the room's server ACL denies " + origin
		return nil
	}
	a.events = append(a.events, e)
	return nil
}

// roomOf returns the room that a PDU says it is in. A create event of room
// version 12 has no room_id and never comes by itself.
func (s *Server) roomOf(ctx context.Context, raw json.RawMessage) (store.RoomKey, error) {
	id := gjson.GetBytes(raw, "room_id")
	if id.Type != gjson.String {
		return store.RoomKey{}, store.ErrNotFound
	}
	return s.Store.Room(ctx, id.Str)
}

// take verifies the events of one room and writes them; those that cannot be
// placed at once go to the inbound queue.
func (s *Server) take(ctx context.Context, a *arrival, results map[string]string) error {
	a.events = s.verified(ctx, a.events, func(e *event.Event, err error) { results[e.EventID()] = err.Error() })
	if len(a.events) == 0 {
		return nil
	}
	r, err := s.handleOf(ctx, a.key)
	if err != nil {
		return err
	}
	if !r.isResident() {
		return s.takeOutOfBand(ctx, a, results)
	}
	rest := a.events
	if !s.waiting(a.key) {
		if rest, err = s.takeNow(ctx, a, results); err != nil {
			return err
		}
	}
	if len(rest) == 0 {
		return nil
	}
	refused, err := s.park(ctx, a.key, a.origin, rest)
	for _, e := range refused {
		results[e.EventID()] = errInboundFull.Error()
	}
	a.parked = len(rest) - len(refused)
	return err
}

func (r *room) isResident() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tip.here(r.s.ServerName)
}

// verified returns the events whose signatures hold.
func (s *Server) verified(ctx context.Context, events []*event.Event, bad func(*event.Event, error)) []*event.Event {
	if s.Verifier == nil || len(events) == 0 {
		return events
	}
	good := events[:0:0]
	for i, err := range s.Verifier.VerifyEvents(ctx, events) {
		if err != nil {
			s.Log.WithError(err).WithField("event", events[i].EventID()).Info("A signature of an event from another server does not hold")
			bad(events[i], err)
			continue
		}
		good = append(good, events[i])
	}
	return good
}

// takeNow writes the events that can be placed without asking anybody, in one
// batch, and returns the rest.
func (s *Server) takeNow(ctx context.Context, a *arrival, results map[string]string) (rest []*event.Event, err error) {
	err = s.retry(ctx, func() error {
		rest, err = s.takeOnce(ctx, a, results)
		return err
	})
	return rest, err
}

func (s *Server) takeOnce(ctx context.Context, a *arrival, results map[string]string) ([]*event.Event, error) {
	r, err := s.handleOf(ctx, a.key)
	if err != nil {
		return nil, err
	}
	if err := r.lock(); err != nil {
		return nil, err
	}
	b := r.begin()
	var rest []*event.Event
	var drafts []*draft
	for i, e := range a.events {
		if s.thinking.over(serverOf(e.Sender()), s.Clock()) {
			s.bounds.heldBack.Inc()
			rest = a.events[i:]
			break
		}
		d, err := b.admit(ctx, e, admission{})
		if errors.Is(err, errMissingPrev) || errors.Is(err, errMissingAuth) || errors.Is(err, errUnasked) {
			rest = a.events[i:]
			break
		}
		if hopeless(err) {
			results[e.EventID()] = err.Error()
			continue
		}
		if err != nil {
			err = r.abandon(b, err)
			r.mu.Unlock()
			return nil, err
		}
		if d != nil {
			drafts = append(drafts, d)
		}
	}
	if len(b.drafts) == 0 {
		r.mu.Unlock()
		return rest, nil
	}
	b.enqueue()
	r.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return nil, err
	}
	for _, d := range drafts {
		if d.stored.Flags&(store.Rejected|store.Partial) == store.Rejected {
			results[d.stored.ID] = "the event is not allowed by the room's rules"
		}
	}
	return rest, nil
}

// ServerAllowed applies a room's m.room.server_acl to a server (client-server
// API, "Server Access Control Lists").
func (s *Server) ServerAllowed(ctx context.Context, roomID, server string) (bool, error) {
	e, err := s.CurrentState(ctx, roomID, "m.room.server_acl", "")
	if errors.Is(err, ErrUnknownRoom) || err == nil && e == nil {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return auth.ServerAllowed(e.Event, server), nil
}

// takeOutOfBand handles events of a room that this server is not in: the end of
// an invite or of a knock of one of our users, by a server that is.
func (s *Server) takeOutOfBand(ctx context.Context, a *arrival, results map[string]string) error {
	for _, e := range a.events {
		user, isState := e.Key()
		membership := auth.Membership(e)
		if e.Type() != "m.room.member" || !isState || !s.IsLocal(user) || membership != auth.Leave && membership != auth.Ban {
			results[e.EventID()] = "this server is not in the room"
			continue
		}
		old, err := s.endedBy(ctx, a.key, user, e)
		if err != nil {
			return err
		}
		done := false
		if old != nil {
			if done, err = s.replaceOutOfBand(ctx, a.key, e, user, nil, old); err != nil {
				return fmt.Errorf("event %s: %w", e.EventID(), err)
			}
		}
		if !done {
			results[e.EventID()] = "this server is not in the room"
		}
	}
	return nil
}

// endedBy returns the user's invite to or knock on a room that this server is
// not in, if the event ends it. The room's state is not known here, so only who
// made an invite may take it back: anybody could claim to be a moderator. The
// refusal of a knock cites it; a user may have knocked again since.
func (s *Server) endedBy(ctx context.Context, key store.RoomKey, user string, e *event.Event) (*store.MemberRow, error) {
	m, err := s.Membership(ctx, key.ID, user)
	if err != nil || m.State != store.Invite && m.State != store.Knock {
		return nil, err
	}
	old, err := s.Store.LoadOne(ctx, m.Event)
	if err != nil {
		return nil, err
	}
	if m.State == store.Invite && old.Event.Sender() != e.Sender() || m.State == store.Knock && !slices.Contains(e.AuthRefs(), old.ID) {
		return nil, nil
	}
	return &m, nil
}
