package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// inviteRemote invites a user of another server: the invite is built here,
// signed there, and then enters the room.
func (s *Server) inviteRemote(ctx context.Context, q SendRequest) (string, error) {
	if s.Remote == nil {
		return "", ErrNoRoute
	}
	r, err := s.handle(ctx, q.RoomID)
	if err != nil {
		return "", err
	}
	e, stripped, err := r.draftInvite(ctx, q)
	if err != nil {
		return "", err
	}
	e, word, err := s.askAbout(ctx, r.key, e)
	if err != nil {
		return "", err
	}
	server := serverOf(*q.StateKey)
	raw, err := s.Remote.Invite(ctx, server, r.key.ID, e.EventID(), r.key.Version.ID, e.JSON(), stripped)
	if err != nil {
		return "", fmt.Errorf("invite through %s: %w", server, err)
	}
	answer, err := event.Parse(r.key.Version, raw)
	if err != nil {
		return "", fmt.Errorf("%w: %s answered an invite with a bad event: %w", ErrBadAnswer, server, err)
	}
	if answer.EventID() != e.EventID() {
		return "", fmt.Errorf("%w: %s answered an invite with another event", ErrBadAnswer, server)
	}
	// Of what comes back nothing but the signature counts: up to room version 2 an id says nothing of the content.
	signed, err := e.WithSignaturesOf(answer, server)
	if err != nil {
		return "", fmt.Errorf("%w: %s answered an invite with a signature that is none: %w", ErrBadAnswer, server, err)
	}
	return e.EventID(), s.retry(ctx, func() error {
		return s.insertSigned(ctx, r.key, signed, admission{flags: store.Outgoing, policy: word, origin: q.origin(nil)})
	})
}

// draftInvite builds and checks an invite without adding it to the room.
func (r *room) draftInvite(ctx context.Context, q SendRequest) (*event.Event, []json.RawMessage, error) {
	if err := r.s.intern(ctx, q); err != nil {
		return nil, nil, err
	}
	if err := r.lock(); err != nil {
		return nil, nil, err
	}
	defer r.mu.Unlock()
	e, _, err := r.buildEvent(ctx, q)
	if err != nil {
		return nil, nil, err
	}
	stripped, err := r.inviteState(ctx, q.Sender)
	return e, stripped, err
}

// strippedTypes is the state that is sent along with an invite or a knock
// (client-server API, "Stripped state").
var strippedTypes = []string{
	"m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias", "m.room.encryption",
}

// inviteState returns the room's state for an invite as full signed PDUs
// (server-server API, "Inviting to a room").
func (r *room) inviteState(ctx context.Context, sender string) ([]json.RawMessage, error) {
	tuples := make([]store.Tuple, 0, len(strippedTypes)+1)
	for _, typ := range strippedTypes {
		tuples = append(tuples, store.Tuple{Type: typ})
	}
	tuples = append(tuples, store.Tuple{Type: "m.room.member", Key: sender})
	var out []json.RawMessage
	for _, t := range tuples {
		e, err := r.stateEvent(ctx, r.tip.state.Set, t)
		if err != nil {
			return nil, err
		}
		if e != nil {
			out = append(out, e.Event.JSON())
		}
	}
	return out, nil
}

// insertSigned takes an event that was built here and signed elsewhere. The
// server that signed it gets it like all others when it is in the room.
func (s *Server) insertSigned(ctx context.Context, key store.RoomKey, e *event.Event, a admission) error {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return err
	}
	if err := r.lock(); err != nil {
		return err
	}
	b := r.begin()
	d, err := b.admit(ctx, e, a)
	if err != nil || d == nil {
		err = r.abandon(b, err)
		r.mu.Unlock()
		if errors.Is(err, errUnasked) {
			err = fmt.Errorf("%w: it changed meanwhile", ErrNoPolicy)
		}
		return err
	}
	b.enqueue()
	if d.live {
		r.txns.add(a.txnKey, sentTxn{id: e.EventID(), batch: b})
	}
	r.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return err
	}
	if d.stored.Flags&(store.Rejected|store.SoftFailed) != 0 {
		return &NotAllowed{Reason: "the room changed meanwhile and refuses the event"}
	}
	return nil
}

// Stripped returns the state that a local user sees of a room to which they are
// invited or on which they knock, in the client's stripped format with their own
// member event.
func (s *Server) Stripped(tx *sqldb.Tx, m store.MemberRow) ([]json.RawMessage, error) {
	member, err := s.Store.Event(tx, m.Event)
	if err != nil {
		return nil, err
	}
	own := json.RawMessage(member.Event.AppendStripped(nil))
	data, err := s.Store.Stripped(tx, m.Event)
	if err == nil {
		var list []json.RawMessage
		if err := json.Unmarshal(data, &list); err != nil {
			return nil, fmt.Errorf("stripped state of event %d: %w", m.Event, err)
		}
		return append(list, own), nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	before, err := s.Store.Set(tx, member.State)
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	for _, typ := range strippedTypes {
		e, err := s.stateEvent(tx, before, typ, "")
		if err != nil {
			return nil, err
		}
		if e != nil {
			list = append(list, e.Event.AppendStripped(nil))
		}
	}
	if auth.Membership(member.Event) == auth.Invite {
		inviter, err := s.stateEvent(tx, before, "m.room.member", member.Event.Sender())
		if err != nil {
			return nil, err
		}
		if inviter != nil {
			list = append(list, inviter.Event.AppendStripped(nil))
		}
	}
	return append(list, own), nil
}
