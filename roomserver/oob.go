package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Out-of-band memberships: invites to, knocks on, and departures from rooms that
// this server is not in.

// storeOutOfBand stores a membership event of a local user in a room that this
// server is not in, with the stripped state that came along.
func (s *Server) storeOutOfBand(ctx context.Context, key store.RoomKey, e *event.Event, user string, stripped []byte) error {
	_, err := s.replaceOutOfBand(ctx, key, e, user, stripped, nil)
	return err
}

// replaceOutOfBand is storeOutOfBand where the event takes the place of a
// certain one, unless nil. It reports false when the user has another one by now.
func (s *Server) replaceOutOfBand(ctx context.Context, key store.RoomKey, e *event.Event, user string, stripped []byte, old *store.MemberRow) (done bool, err error) {
	nids, err := s.storeOutliers(ctx, key, []*event.Event{e}, nil)
	if err != nil {
		return false, err
	}
	names, err := s.Store.Intern(ctx, user)
	if err != nil {
		return false, err
	}
	nid := nids[e.EventID()]
	err = s.db.Do(ctx, &sqldb.Op{
		Name: "out_of_band", Positions: 1,
		Write: func(tx *sqldb.Tx, pos int64) error {
			if old != nil {
				now, err := s.Store.Member(tx, key.NID, names[0])
				if done = now.Event == old.Event; err != nil || !done {
					return err
				}
			}
			done = true
			if stripped != nil {
				s.Store.AddStripped(tx, nid, stripped)
			}
			return s.Store.PutMembers(tx, []store.MemberRow{{
				Room: key.NID, User: names[0], State: store.ParseMembership(auth.Membership(e)), Local: true, Event: nid, Pos: pos,
			}})
		},
		Committed: func(pos int64) {
			s.Hub.TouchUser(user, pos)
			if done {
				s.Hub.Emit(stream.Change{Pos: pos, Room: key.ID, EventNID: nid, Kind: stream.OutOfBand})
			}
		},
	})
	return done && err == nil, err
}

// maxStripped bounds the state that comes with an invite.
const maxStripped = 100

// AcceptInvite takes an invite of a local user that another server sends, and
// returns it signed (server-server API, "Inviting to a room"). stripped is what
// came as invite_room_state.
func (s *Server) AcceptInvite(ctx context.Context, origin, roomID, eventID, version string, raw json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	v, ok := event.GetVersion(version)
	if !ok {
		return nil, ErrUnsupported
	}
	e, err := event.Parse(v, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	user, isState := e.Key()
	switch {
	case e.Room() != roomID || e.EventID() != eventID:
		return nil, fmt.Errorf("%w: the event is not the one that the path names", ErrBadRequest)
	case e.Type() != "m.room.member" || !isState || auth.Membership(e) != auth.Invite:
		return nil, fmt.Errorf("%w: the event is not an invite", ErrBadRequest)
	case !s.IsLocal(user):
		return nil, fmt.Errorf("%w: the invited user is not one of this server", ErrBadRequest)
	case serverOf(e.Sender()) != origin:
		return nil, fmt.Errorf("%w: the event's sender belongs to another server", ErrBadRequest)
	}
	if !s.Exists(ctx, user) {
		return nil, ErrUnknownUser
	}
	if good := s.verified(ctx, []*event.Event{e}, func(*event.Event, error) {}); len(good) == 0 {
		return nil, fmt.Errorf("%w: the event's signatures do not hold", ErrBadRequest)
	}
	if allowed, err := s.ServerAllowed(ctx, roomID, origin); err != nil || !allowed {
		return nil, errors.Join(err, &NotAllowed{Reason: "the room's server ACL denies " + origin})
	}
	if s.blocked(user, e.Sender()) {
		return nil, ErrBlocked
	}
	state, err := s.strippedState(ctx, v, roomID, stripped)
	if err != nil {
		return nil, err
	}
	if e, err = e.Sign(s.Signer); err != nil {
		return nil, err
	}
	resident, err := s.IsResident(ctx, roomID)
	if err != nil || resident { // in a room that we are in, the event comes by a transaction too
		return e.JSON(), err
	}
	key, err := s.ensureRoom(ctx, roomID, v)
	if err != nil {
		return nil, err
	}
	return e.JSON(), s.storeOutOfBand(ctx, key, e, user, state)
}

// strippedState checks the state that came with an invite and returns it in the
// clients' stripped format. Since room version 12 each part must be a full event
// of the room with its signatures, and the create event among them; before, what
// is no full event is passed on as what it is, somebody's word.
func (s *Server) strippedState(ctx context.Context, v *event.Version, roomID string, list []json.RawMessage) ([]byte, error) {
	if len(list) > maxStripped {
		return nil, fmt.Errorf("%w: too much state comes with the invite", ErrBadRequest)
	}
	if v.DomainlessRoomIDs {
		return s.provenState(ctx, v, roomID, list)
	}
	out := []json.RawMessage{}
	for _, raw := range list {
		e, err := event.Parse(v, raw)
		if err == nil && e.Room() == roomID {
			out = append(out, e.AppendStripped(nil))
		} else if s := stripped(raw); s != nil {
			out = append(out, s)
		}
	}
	return json.Marshal(out)
}

// provenState is strippedState for full events. An event whose signature cannot
// be checked now, for want of a key, is left out, but for the create event: its
// hash is the room id.
func (s *Server) provenState(ctx context.Context, v *event.Version, roomID string, list []json.RawMessage) ([]byte, error) {
	events := make([]*event.Event, len(list))
	hasCreate := false
	for i, raw := range list {
		e, err := event.Parse(v, raw)
		if err != nil {
			return nil, fmt.Errorf("%w: invite_room_state: %w", ErrBadRequest, err)
		}
		if e.Room() != roomID {
			return nil, fmt.Errorf("%w: invite_room_state has an event of another room", ErrBadRequest)
		}
		events[i] = e
		hasCreate = hasCreate || e.IsState("m.room.create", "")
	}
	if !hasCreate {
		return nil, ErrNoCreate
	}
	var forged error
	unproven := map[*event.Event]bool{}
	s.verified(ctx, events, func(e *event.Event, err error) {
		unproven[e] = !e.IsState("m.room.create", "")
		if errors.Is(err, event.ErrBadSignature) || !e.Signed() {
			forged = fmt.Errorf("%w: invite_room_state: %w", ErrBadRequest, err)
		}
	})
	if forged != nil {
		return nil, forged
	}
	out := []json.RawMessage{}
	for _, e := range events {
		if !unproven[e] {
			out = append(out, e.AppendStripped(nil))
		}
	}
	return json.Marshal(out)
}

// stripped returns the stripped form of a state event that is not a full PDU.
func stripped(raw json.RawMessage) json.RawMessage {
	r := gjson.ParseBytes(raw)
	key, sender, typ, content := r.Get("state_key"), r.Get("sender"), r.Get("type"), r.Get("content")
	if key.Type != gjson.String || sender.Type != gjson.String || typ.Type != gjson.String || !content.IsObject() {
		return nil
	}
	return encode(map[string]any{"type": typ.Str, "state_key": key.Str, "sender": sender.Str, "content": json.RawMessage(content.Raw)})
}

// Leave ends a local user's membership, invite or knock. Of a room that this
// server is not in, it ends here even when no server there can be reached.
func (s *Server) Leave(ctx context.Context, roomID, user, reason string) error {
	m := MembershipRequest{RoomID: roomID, Sender: user, Target: user, Membership: auth.Leave, Reason: reason}
	resident, err := s.IsResident(ctx, roomID)
	if err != nil {
		return err
	}
	if resident {
		_, err := s.SetMembership(ctx, m)
		return err
	}
	row, err := s.Membership(ctx, roomID, user)
	if err != nil {
		return err
	}
	if row.State != store.Invite && row.State != store.Knock {
		return ErrNotJoined
	}
	err = s.throughOthers(ctx, roomID, user, route{}, ErrNoRoute, func(ctx context.Context, server string) error { return s.leaveThrough(ctx, server, m) })
	if err == nil {
		return nil
	}
	s.Log.WithError(err).WithField("room", roomID).Info("An invite is refused here only: no server of its room could be told")
	return s.leaveHere(ctx, row, user)
}

func (s *Server) leaveThrough(ctx context.Context, server string, m MembershipRequest) error {
	e, err := s.makeThrough(ctx, auth.Leave, server, m)
	if err != nil {
		return err
	}
	if err := s.Remote.SendLeave(ctx, server, m.RoomID, e.EventID(), e.JSON()); err != nil {
		return err
	}
	key, err := s.ensureRoom(ctx, m.RoomID, e.V())
	if err != nil {
		return err
	}
	return s.storeOutOfBand(ctx, key, e, m.Target, nil)
}

// leaveHere ends an invite without an event: none could be agreed with the room.
func (s *Server) leaveHere(ctx context.Context, m store.MemberRow, user string) error {
	return s.db.Do(ctx, &sqldb.Op{
		Name: "out_of_band", Positions: 1,
		Write: func(tx *sqldb.Tx, pos int64) error {
			m.State, m.Pos = store.Leave, pos
			return s.Store.PutMembers(tx, []store.MemberRow{m})
		},
		Committed: func(pos int64) { s.Hub.TouchUser(user, pos) },
	})
}

// Knock asks to be let into a room.
func (s *Server) Knock(ctx context.Context, q JoinRequest) (string, error) {
	roomID, to, err := s.locate(ctx, q.RoomIDOrAlias, q.Via)
	if err != nil {
		return "", err
	}
	m := MembershipRequest{RoomID: roomID, Sender: q.User, Target: q.User, Membership: auth.Knock, Reason: q.Reason, Content: q.Content}
	resident, err := s.IsResident(ctx, roomID)
	if err != nil {
		return "", err
	}
	if resident {
		_, err := s.SetMembership(ctx, m)
		return roomID, err
	}
	return roomID, s.throughOthers(ctx, roomID, q.User, to, nil, func(ctx context.Context, server string) error { return s.knockThrough(ctx, server, m) })
}

func (s *Server) knockThrough(ctx context.Context, server string, m MembershipRequest) error {
	e, err := s.makeThrough(ctx, auth.Knock, server, m)
	if err != nil {
		return err
	}
	list, err := s.Remote.SendKnock(ctx, server, m.RoomID, e.EventID(), e.JSON())
	if err != nil {
		return err
	}
	if len(list) > maxStripped {
		list = list[:maxStripped]
	}
	state := slices.DeleteFunc(list, func(raw json.RawMessage) bool { return stripped(raw) == nil })
	for i, raw := range state {
		state[i] = stripped(raw)
	}
	key, err := s.ensureRoom(ctx, m.RoomID, e.V())
	if err != nil {
		return err
	}
	return s.storeOutOfBand(ctx, key, e, m.Target, encode(state))
}

// KnockState returns the state that the answer to send_knock carries: full PDUs.
func (s *Server) KnockState(ctx context.Context, roomID, sender string) ([]json.RawMessage, error) {
	r, err := s.residentHandle(ctx, roomID)
	if err != nil {
		return nil, err
	}
	if err := r.lock(); err != nil {
		return nil, err
	}
	defer r.mu.Unlock()
	return r.inviteState(ctx, sender)
}
