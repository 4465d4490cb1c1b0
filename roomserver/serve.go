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
	return builder.Template()
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

// Acceptance is the answer to a membership event that another server sent for
// us to take into a room.
type Acceptance struct {
	Event   *event.Event // signed by us too, where the room asks for it
	State   []*store.Stored
	Auth    []*store.Stored
	Servers []string
}

// AcceptMembership takes a join, leave or knock that a user of origin made on
// our template (send_join, send_leave, send_knock). The state before it and its
// auth chain are returned for joins.
func (s *Server) AcceptMembership(ctx context.Context, kind, origin, roomID, eventID string, raw json.RawMessage) (*Acceptance, error) {
	r, err := s.residentHandle(ctx, roomID)
	if err != nil {
		return nil, err
	}
	e, err := s.parseMembership(ctx, r.key, kind, origin, eventID, raw)
	if err != nil {
		return nil, err
	}
	var d *draft
	err = s.retry(ctx, func() error {
		d, err = s.acceptOnce(ctx, r.key, e, origin)
		return err
	})
	if err != nil {
		return nil, err
	}
	a := &Acceptance{Event: e}
	if kind != auth.Join {
		return a, nil
	}
	return a, s.fillAcceptance(ctx, r.key, a, d)
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

func (s *Server) acceptOnce(ctx context.Context, key store.RoomKey, e *event.Event, origin string) (*draft, error) {
	r, err := s.handleOf(ctx, key)
	if err != nil {
		return nil, err
	}
	if err := r.lock(); err != nil {
		return nil, err
	}
	b := r.begin()
	d, err := b.admit(ctx, e, admission{flags: store.Outgoing, exclude: origin})
	if err != nil {
		err = r.abandon(b, err)
		r.mu.Unlock()
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

func (s *Server) fillAcceptance(ctx context.Context, key store.RoomKey, a *Acceptance, d *draft) error {
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		before, err := s.Store.Set(tx, d.stored.State)
		if err != nil {
			return err
		}
		if a.State, err = s.StateEvents(tx, before, nil); err != nil {
			return err
		}
		if a.Auth, err = s.authChain(tx, append(slices.Clone(a.State), d.stored)); err != nil {
			return err
		}
		servers, err := s.Store.Servers(tx, key.NID)
		a.Servers = append(servers, s.ServerName)
		return err
	})
}

// authChain returns the auth events of events, theirs, and so on, without the
// events themselves unless they are in it.
func (s *Server) authChain(tx *sqldb.Tx, events []*store.Stored) ([]*store.Stored, error) {
	seen := map[int64]bool{}
	var out []*store.Stored
	next := events
	for len(next) > 0 {
		var nids []int64
		for _, e := range next {
			for _, nid := range e.Auth {
				if !seen[nid] {
					seen[nid] = true
					nids = append(nids, nid)
				}
			}
		}
		found, err := s.Store.InOrder(tx, nids)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
		next = found
	}
	return out, nil
}

// PDUs returns the JSON of events as other servers get it.
func PDUs(events []*store.Stored) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.Event.JSON()
	}
	return out
}

// StateBefore answers /state and /state_ids: the state before an event and its
// auth chain, for a server that may see the room.
func (s *Server) StateBefore(ctx context.Context, origin, roomID, eventID string) (state, chain []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.eventIn(tx, key, eventID)
		if err != nil {
			return err
		}
		if e.Flags&store.Outlier != 0 {
			return ErrUnknownEvent
		}
		before, err := s.Store.Set(tx, e.State)
		if err != nil {
			return err
		}
		if state, err = s.StateEvents(tx, before, nil); err != nil {
			return err
		}
		chain, err = s.authChain(tx, state)
		return err
	})
	return state, chain, err
}

// shared returns the key of a room that a server is in, else ErrNotJoined.
func (s *Server) shared(ctx context.Context, origin, roomID string) (store.RoomKey, error) {
	r, err := s.residentHandle(ctx, roomID)
	if err != nil {
		return store.RoomKey{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tip.servers[origin] == 0 {
		return r.key, ErrNotJoined
	}
	return r.key, nil
}

func (s *Server) eventIn(tx *sqldb.Tx, key store.RoomKey, eventID string) (*store.Stored, error) {
	e, err := s.Store.EventByID(tx, eventID)
	if errors.Is(err, store.ErrNotFound) || err == nil && e.Room != key.NID {
		return nil, ErrUnknownEvent
	}
	return e, err
}

// EventAuth answers /event_auth: the auth chain of an event.
func (s *Server) EventAuth(ctx context.Context, origin, roomID, eventID string) (chain []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.eventIn(tx, key, eventID)
		if err != nil {
			return err
		}
		chain, err = s.authChain(tx, []*store.Stored{e})
		return err
	})
	return chain, err
}

// EventForServer answers /event: one event by its id, for a server that may see it.
func (s *Server) EventForServer(ctx context.Context, origin, eventID string) (out *store.Stored, err error) {
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.Store.EventByID(tx, eventID)
		if errors.Is(err, store.ErrNotFound) {
			return ErrUnknownEvent
		}
		if err != nil {
			return err
		}
		key, err := s.Store.RoomByNID(tx, e.Room)
		if err != nil {
			return err
		}
		if e.Flags&store.Rejected != 0 {
			return ErrUnknownEvent
		}
		if _, err := s.shared(ctx, origin, key.ID); err != nil {
			return err
		}
		list, err := s.forServer(tx, origin, []*store.Stored{e})
		if err == nil {
			out = list[0]
		}
		return err
	})
	return out, err
}

// forServer returns the events as a server may see them: those that its users
// may not see are redacted.
func (s *Server) forServer(tx *sqldb.Tx, origin string, events []*store.Stored) ([]*store.Stored, error) {
	out := make([]*store.Stored, len(events))
	for i, e := range events {
		see, err := s.serverSees(tx, origin, e)
		if err != nil {
			return nil, err
		}
		out[i] = e
		if !see {
			redacted := *e
			redacted.Event = e.Event.Redact()
			out[i] = &redacted
		}
	}
	return out, nil
}

// serverSees applies the room's history visibility to a server whose users are
// in the room now: only "joined" and "invited" histories hide anything.
func (s *Server) serverSees(tx *sqldb.Tx, origin string, e *store.Stored) (bool, error) {
	if e.Flags&store.Outlier != 0 || serverOf(e.Event.Sender()) == origin {
		return true, nil
	}
	before, err := s.Store.Set(tx, e.State)
	if err != nil {
		return false, err
	}
	vis, err := s.stateEvent(tx, before, "m.room.history_visibility", "")
	if err != nil {
		return false, err
	}
	sight := auth.ServerSight{JoinedLater: true}
	if vis != nil {
		sight.Visibility = auth.HistoryVisibility(vis.Event)
	}
	if e.Event.IsState("m.room.history_visibility", "") {
		sight.VisibilityAfter = auth.HistoryVisibility(e.Event)
	}
	if auth.VisibleToServer(sight) {
		return true, nil
	}
	members, err := s.StateEvents(tx, before, func(t store.Tuple) bool { return t.Type == "m.room.member" && serverOf(t.Key) == origin })
	if err != nil {
		return false, err
	}
	for _, m := range members {
		sight.Memberships = append(sight.Memberships, auth.Membership(m.Event))
	}
	if key, isState := e.Event.Key(); isState && e.Event.Type() == "m.room.member" && serverOf(key) == origin {
		sight.Memberships = append(sight.Memberships, auth.Membership(e.Event))
	}
	return auth.VisibleToServer(sight), nil
}

// Bounds of what other servers may ask for at once.
const (
	maxBackfill = 100
	maxMissing  = 20
)

// BackfillFor answers /backfill: up to limit events that precede the given ones,
// those included, newest first.
func (s *Server) BackfillFor(ctx context.Context, origin, roomID string, from []string, limit int) (out []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	limit = min(max(limit, 1), maxBackfill)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		list, err := s.walkBack(tx, key, from, limit, func(*store.Stored) bool { return true })
		if err != nil {
			return err
		}
		slices.SortStableFunc(list, func(a, b *store.Stored) int { return -compareOrd(a, b) })
		out, err = s.forServer(tx, origin, list)
		return err
	})
	return out, err
}

func compareOrd(a, b *store.Stored) int {
	switch {
	case a.Ord < b.Ord:
		return -1
	case a.Ord > b.Ord:
		return 1
	}
	return 0
}

// walkBack walks the prev events of the given ones, breadth first, and returns
// those that take passes, at most limit.
func (s *Server) walkBack(tx *sqldb.Tx, key store.RoomKey, from []string, limit int, take func(*store.Stored) bool) ([]*store.Stored, error) {
	seen := map[string]bool{}
	var out []*store.Stored
	next := from
	for len(next) > 0 && len(out) < limit {
		nids, err := s.Store.EventNIDs(tx, next)
		if err != nil {
			return nil, err
		}
		var list []int64
		for _, id := range next {
			if nid := nids[id]; nid != 0 && !seen[id] {
				seen[id] = true
				list = append(list, nid)
			}
		}
		events, err := s.Store.InOrder(tx, list)
		if err != nil {
			return nil, err
		}
		next = nil
		for _, e := range events {
			if e.Room != key.NID || e.Flags&(store.Outlier|store.Rejected) != 0 || !take(e) {
				continue
			}
			if out = append(out, e); len(out) == limit {
				return out, nil
			}
			next = append(next, e.Event.PrevEventIDs()...)
		}
	}
	return out, nil
}

// MissingFor answers /get_missing_events: what lies between the latest events,
// which the asker has, and the earliest ones, oldest first.
func (s *Server) MissingFor(ctx context.Context, origin, roomID string, earliest, latest []string, limit int, minDepth int64) (out []*store.Stored, err error) {
	key, err := s.shared(ctx, origin, roomID)
	if err != nil {
		return nil, err
	}
	limit = min(max(limit, 1), maxMissing)
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		latestEvents, err := s.walkBack(tx, key, latest, len(latest), func(e *store.Stored) bool { return slices.Contains(latest, e.ID) })
		if err != nil {
			return err
		}
		var from []string
		for _, e := range latestEvents {
			from = append(from, e.Event.PrevEventIDs()...)
		}
		list, err := s.walkBack(tx, key, from, limit, func(e *store.Stored) bool {
			return !slices.Contains(earliest, e.ID) && !slices.Contains(latest, e.ID) && e.Depth >= minDepth
		})
		if err != nil {
			return err
		}
		slices.SortStableFunc(list, compareOrd)
		out, err = s.forServer(tx, origin, list)
		return err
	})
	return out, err
}
