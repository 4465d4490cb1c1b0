package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Template answers make_join, make_leave and make_knock: an event for another
// server's user to sign (server-server API, "Joining Rooms"). kind is the
// membership; versions are what the asking server supports, empty for leaves.
func (s *Server) Template(ctx context.Context, kind, roomID, user string, versions []string) (version string, template json.RawMessage, err error) {
	r, err := s.residentHandle(ctx, roomID)
	if err != nil {
		return "", nil, err
	}
	if r.lacksMembers() {
		return "", nil, ErrPartial
	}
	v := r.key.Version
	if len(versions) > 0 && !slices.Contains(versions, v.ID) {
		return v.ID, nil, ErrUnsupported
	}
	m := MembershipRequest{Membership: kind}
	if kind == auth.Join {
		if m.Authoriser, err = s.Authoriser(ctx, roomID, user); err != nil {
			return "", nil, err
		}
	}
	content, err := s.memberContent(ctx, user, m)
	if err != nil {
		return "", nil, err
	}
	q := SendRequest{RoomID: roomID, Sender: user, Type: "m.room.member", StateKey: &user, Content: content}
	if err := s.intern(ctx, q); err != nil {
		return "", nil, err
	}
	if err := r.lock(); err != nil {
		return "", nil, err
	}
	defer r.mu.Unlock()
	template, err = r.template(ctx, q)
	return v.ID, template, err
}

// template builds the event as if it were ours, checks it, and returns it
// without hashes and signatures.
func (r *room) template(ctx context.Context, q SendRequest) (json.RawMessage, error) {
	builder, sel, err := r.builder(ctx, q)
	if err != nil {
		return nil, err
	}
	e, err := builder.Build(r.s.Signer)
	if err != nil {
		return nil, err
	}
	if err := auth.Check(e, sel.state); err != nil {
		return nil, err
	}
	return builder.Template(r.s.ServerName)
}

// residentHandle returns the handle of a room that this server is in.
func (s *Server) residentHandle(ctx context.Context, roomID string) (*room, error) {
	r, err := s.handle(ctx, roomID)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.tip.here(s.ServerName) {
		return nil, ErrUnknownRoom
	}
	return r, nil
}

// lacksMembers reports whether not all members of the room are known here.
func (r *room) lacksMembers() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tip.partial != nil
}

// has reports whether a server has a user in the room.
func (r *room) has(server string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tip.in(server)
}

// Acceptance is the answer to a membership event that another server sent for
// us to take into a room.
type Acceptance struct {
	Event   *event.Event // signed by us too, where the room asks for it
	State   []*store.Stored
	Auth    []*store.Stored
	Servers []string
	Omitted bool // State lacks members
}

// AcceptMembership takes a join, leave or knock that a user of origin made on
// our template (send_join, send_leave, send_knock). The state before it and its
// auth chain are returned for joins; without most members where the other server
// takes such an answer (omit_members).
func (s *Server) AcceptMembership(ctx context.Context, kind, origin, roomID, eventID string, raw json.RawMessage, omit bool) (*Acceptance, error) {
	r, err := s.residentHandle(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if kind != auth.Leave && r.lacksMembers() {
		return nil, ErrPartial
	}
	e, err := s.parseMembership(ctx, r.key, kind, origin, eventID, raw)
	if err != nil {
		return nil, err
	}
	newcomer := "" // the origin, when nobody of it is in the room yet
	if !r.has(origin) {
		newcomer = origin
	}
	var d *draft
	word := unasked
	accept := func() error {
		d, err = s.acceptOnce(ctx, r.key, e, origin, word)
		return err
	}
	err = s.retry(ctx, accept)
	if errors.Is(err, errUnasked) {
		if e, word, err = s.askAbout(ctx, r.key, e); err != nil {
			return nil, err
		}
		err = s.retry(ctx, accept)
	}
	if errors.Is(err, errUnasked) {
		err = fmt.Errorf("%w: it changed meanwhile", ErrNoPolicy)
	}
	if err != nil {
		return nil, err
	}
	a := &Acceptance{Event: e}
	if kind != auth.Join {
		return a, nil
	}
	return a, s.fillAcceptance(ctx, r.key, a, d, omit, newcomer)
}

// parseMembership checks that the event is what its endpoint is for, and its
// signatures. A join that one of our users vouches for gets our signature.
func (s *Server) parseMembership(ctx context.Context, key store.RoomKey, kind, origin, eventID string, raw json.RawMessage) (*event.Event, error) {
	e, err := event.Parse(key.Version, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	state, isState := e.Key()
	switch {
	case e.Room() != key.ID || e.EventID() != eventID:
		return nil, fmt.Errorf("%w: the event is not the one that the path names", ErrBadRequest)
	case e.Type() != "m.room.member" || !isState || state != e.Sender() || auth.Membership(e) != kind:
		return nil, fmt.Errorf("%w: the event is not a %s of its sender", ErrBadRequest, kind)
	case serverOf(e.Sender()) != origin:
		return nil, &NotAllowed{Reason: "the event's sender belongs to another server"}
	}
	if via := e.ContentString("join_authorised_via_users_server"); kind == auth.Join && via != "" && s.IsLocal(via) {
		if err := s.meetsConditions(ctx, key.ID, e.Sender()); err != nil {
			return nil, err
		}
		if e, err = e.Sign(s.Signer); err != nil {
			return nil, err
		}
	}
	if s.Verifier != nil {
		if err := s.Verifier.VerifyEvents(ctx, []*event.Event{e})[0]; err != nil {
			return nil, &NotAllowed{Reason: "the event's signatures do not hold: " + err.Error()}
		}
	}
	return e, nil
}

// meetsConditions refuses to vouch for a user whom the join rule of a restricted
// room does not let in: nobody says that their server asked us for a template.
func (s *Server) meetsConditions(ctx context.Context, roomID, user string) error {
	if !s.needsAuthoriser(ctx, roomID) {
		return nil
	}
	m, err := s.Membership(ctx, roomID, user)
	if err != nil || m.State == store.Join || m.State == store.Invite {
		return err
	}
	authoriser, err := s.Authoriser(ctx, roomID, user)
	if err == nil && authoriser == "" {
		err = &NotAllowed{Reason: "the user meets no condition of the room's join rule"}
	}
	return err
}

func (s *Server) acceptOnce(ctx context.Context, key store.RoomKey, e *event.Event, origin string, word verdict) (*draft, error) {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := r.lock(); err != nil {
		return nil, err
	}
	b := r.begin()
	d, err := b.admit(ctx, e, admission{flags: store.Outgoing, exclude: origin, policy: word})
	if err != nil {
		err = r.abandon(b, err)
		r.mu.Unlock()
		if hopeless(err) || errors.Is(err, errMissingPrev) || errors.Is(err, errMissingAuth) { // our template names what we have
			err = fmt.Errorf("%w: %w", ErrBadRequest, err)
		}
		return nil, err
	}
	if d == nil { // sent again: it is here
		r.mu.Unlock()
		known, err := r.known(ctx, e.EventID())
		if err != nil {
			return nil, err
		}
		if err := r.drain(ctx); err != nil {
			return nil, err
		}
		return &draft{stored: known}, refusal(known)
	}
	b.enqueue()
	r.mu.Unlock()
	if err := b.wait(ctx); err != nil {
		return nil, err
	}
	return d, refusal(d.stored)
}

func refusal(e *store.Stored) error {
	if e.Flags&(store.Rejected|store.SoftFailed) != 0 {
		return &NotAllowed{Reason: "the room does not allow this membership"}
	}
	return nil
}

func (s *Server) fillAcceptance(ctx context.Context, key store.RoomKey, a *Acceptance, d *draft, omit bool, newcomer string) error {
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		before, err := s.Store.Set(tx, d.stored.State)
		if err != nil {
			return err
		}
		a.Omitted = omit
		if omit {
			a.State, err = s.partialState(tx, before)
		} else {
			a.State, err = s.StateEvents(tx, before, nil)
		}
		if err != nil {
			return err
		}
		if a.Auth, err = s.authChain(tx, append(slices.Clone(a.State), d.stored)); err != nil {
			return err
		}
		if omit { // what the state has need not be sent twice
			sent := numbers(a.State)
			a.Auth = slices.DeleteFunc(a.Auth, func(e *store.Stored) bool { return sent[e.NID] })
		}
		servers, err := s.Store.Servers(tx, key.NID)
		a.Servers = slices.DeleteFunc(servers, func(server string) bool { return server == newcomer })
		a.Servers = append(a.Servers, s.ServerName)
		return err
	})
}

// heroesSent is how many members a summary names (client-server API, m.heroes).
const heroesSent = 5

// partialState returns a state without its members, but for those after whom a
// room without a name is called (server-server API, omit_members).
func (s *Server) partialState(tx *sqldb.Tx, ref *store.Ref) ([]*store.Stored, error) {
	named := false
	state, err := s.StateEvents(tx, ref, func(t store.Tuple) bool {
		named = named || t.Key == "" && (t.Type == "m.room.name" || t.Type == "m.room.canonical_alias")
		return t.Type != "m.room.member"
	})
	if err != nil || named {
		return state, err
	}
	plain := numbers(state)
	var members []int64
	for _, e := range ref.Set.Entries() {
		if !plain[e.Event] {
			members = append(members, e.Event)
		}
	}
	in, gone, err := s.Heroes(tx, members, heroesSent)
	if len(in) == 0 {
		in = gone
	}
	return append(state, in...), err
}

// numbers are the NIDs of events.
func numbers(list []*store.Stored) map[int64]bool {
	nids := make(map[int64]bool, len(list))
	for _, e := range list {
		nids[e.NID] = true
	}
	return nids
}
