package roomserver

import (
	"context"
	"errors"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// SetMembership changes a membership in a room that this server is in. An
// invite of another server's user is signed by that server first.
func (s *Server) SetMembership(ctx context.Context, q MembershipRequest) (string, error) {
	if q.Membership == auth.Invite && s.blocked(q.Target, q.Sender) {
		return "", ErrBlocked
	}
	if q.Sender != q.Target { // how the target stands to the room must be known
		if err := s.AwaitMembers(ctx, q.RoomID); err != nil {
			return "", err
		}
	}
	content, err := s.memberContent(ctx, q.Target, q)
	if err != nil {
		return "", err
	}
	send := SendRequest{
		RoomID: q.RoomID, Sender: q.Sender, Type: "m.room.member", StateKey: &q.Target, Content: content,
		Device: q.Device, TxnID: q.TxnID, Path: "membership", TS: q.TS, Dated: q.Dated, Sticky: q.Sticky, Delay: q.Delay, Also: q.Also,
	}
	if q.Membership == auth.Invite && !s.IsLocal(q.Target) {
		return s.inviteRemote(ctx, send)
	}
	return s.Send(ctx, send)
}

// blocked reports whether a local user takes no invites by inviter (client-server API, "Invite permission").
func (s *Server) blocked(user, inviter string) bool {
	return s.BlocksInvite != nil && s.IsLocal(user) && s.BlocksInvite(user, inviter)
}

// Exists reports whether a local user exists.
func (s *Server) Exists(ctx context.Context, user string) bool {
	return s.Profiles == nil || s.Profiles.Exists(ctx, user)
}

// Forget hides a room that a local user has left (POST /rooms/{roomId}/forget).
func (s *Server) Forget(ctx context.Context, roomID, userID string) error {
	m, err := s.Membership(ctx, roomID, userID)
	if err != nil {
		return err
	}
	if m.State == store.NoMembership {
		return ErrUnknownRoom
	}
	if m.State != store.Leave && m.State != store.Ban {
		return ErrBadRequest
	}
	return s.db.Do(ctx, &sqldb.Op{
		Name: "forget", Positions: 1,
		Write:     func(tx *sqldb.Tx, pos int64) error { return s.Store.ForgetRoom(tx, m.Room, m.User, pos) },
		Committed: func(pos int64) { s.Hub.TouchUser(userID, pos) },
	})
}

// IsResident reports whether this server is in a room, so that it can act there
// without asking another server.
func (s *Server) IsResident(ctx context.Context, roomID string) (bool, error) {
	r, err := s.handle(ctx, roomID)
	if errors.Is(err, ErrUnknownRoom) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tip.here(s.ServerName), nil
}

// serverOf returns the server part of an id.
func serverOf(id string) string { return event.ServerOf(id) }
