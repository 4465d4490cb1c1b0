package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// memberBody is the body of the membership endpoints.
type memberBody struct {
	UserID           string          `json:"user_id"`
	Reason           string          `json:"reason"`
	ThirdPartySigned json.RawMessage `json:"third_party_signed"`
	address
}

// maxVia bounds the servers that a client may name.
const maxVia = 50

// entry reads what /join and /knock share. What else a client writes goes into
// the member event.
func (a *API) entry(ctx context.Context, r *httpx.Request) (q roomserver.JoinRequest, err error) {
	var body memberBody
	if err := r.JSON(&body); err != nil {
		return q, err
	}
	content := map[string]json.RawMessage{}
	if err := r.JSON(&content); err != nil {
		return q, err
	}
	for _, key := range []string{"reason", "third_party_signed", "membership"} {
		delete(content, key)
	}
	target := r.Vars["roomIdOrAlias"]
	if target == "" {
		target = r.Vars["roomId"]
	}
	if !event.ValidRoomID(target) && !event.ValidAlias(target) {
		return q, matrixerr.InvalidParam(target + " is neither a room id (!…) nor an alias (#name:server)")
	}
	if len(body.ThirdPartySigned) > 0 && string(body.ThirdPartySigned) != "null" {
		if err := a.redeem(ctx, r.Caller.UserID, target, body.ThirdPartySigned); err != nil {
			return q, err
		}
	}
	via := slices.Concat(r.QueryAll()["via"], r.QueryAll()["server_name"])
	return roomserver.JoinRequest{RoomIDOrAlias: target, User: r.Caller.UserID, Via: via[:min(len(via), maxVia)], Reason: body.Reason, Content: content}, nil
}

func (a *API) join(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := a.entry(ctx, r)
	if err != nil {
		return nil, err
	}
	if q.RoomIDOrAlias[0] == '#' && a.s.IsLocal(q.RoomIDOrAlias) {
		if q.RoomIDOrAlias, _, err = a.s.ResolveAlias(ctx, q.RoomIDOrAlias); err != nil {
			return nil, roomserver.MatrixError(err)
		}
	}
	if a.o.Hub.IsJoined(q.User, q.RoomIDOrAlias) {
		return roomID(q.RoomIDOrAlias), nil
	}
	if r.Caller.Guest {
		if err := a.guestMayJoin(ctx, q.RoomIDOrAlias); err != nil {
			return nil, err
		}
	}
	q.Joined = func(ctx context.Context, room string) { a.carryOver(ctx, q.User, room) }
	room, err := a.s.Join(ctx, q)
	if err != nil {
		return nil, failJoin(err)
	}
	return roomID(room), nil
}

// failJoin tells a client no more than that they may not join: whether another
// server might let them in is between servers.
func failJoin(err error) error {
	var m *matrixerr.Error
	if errors.As(err, &m) && (m.Code == "M_UNABLE_TO_AUTHORISE_JOIN" || m.Code == "M_UNABLE_TO_GRANT_JOIN") {
		return matrixerr.Forbidden("You are not allowed to join: no server that was asked could let you in.").With(err)
	}
	return roomserver.MatrixError(err)
}

func roomID(id string) any { return map[string]string{"room_id": id} }

// guestMayJoin admits guests to rooms that this server is in and that let
// guests in (client-server API, "Guest Access").
func (a *API) guestMayJoin(ctx context.Context, room string) error {
	resident, err := a.s.IsResident(ctx, room)
	if err != nil {
		return roomserver.MatrixError(err)
	}
	if resident {
		e, err := a.s.CurrentState(ctx, room, "m.room.guest_access", "")
		if err != nil {
			return roomserver.MatrixError(err)
		}
		if e != nil && e.Event.ContentString("guest_access") == "can_join" {
			return nil
		}
	}
	return matrixerr.GuestForbidden()
}

func (a *API) knock(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := a.entry(ctx, r)
	if err != nil {
		return nil, err
	}
	room, err := a.s.Knock(ctx, q)
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	return roomID(room), nil
}

func (a *API) leave(ctx context.Context, r *httpx.Request) (any, error) {
	var body memberBody
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	room, user := r.Vars["roomId"], r.Caller.UserID
	m, err := a.s.Membership(ctx, room, user)
	if err != nil || m.State == store.Leave {
		return nil, roomserver.MatrixError(err)
	}
	if err := a.mayLeave(ctx, m, room, user); err != nil {
		return nil, err
	}
	return nil, roomserver.MatrixError(a.s.Leave(ctx, room, user, body.Reason))
}

// mayLeave refuses to decline an invite to server notices (Client-Server API, "Server Notices").
func (a *API) mayLeave(ctx context.Context, m store.MemberRow, room, user string) error {
	if m.State != store.Invite || a.o.Notices == nil {
		return nil
	}
	held, err := a.o.Notices(ctx, room, user)
	if err == nil && held {
		err = matrixerr.CannotLeaveServerNoticeRoom()
	}
	return err
}

func (a *API) forget(ctx context.Context, r *httpx.Request) (any, error) {
	err := a.s.Forget(ctx, r.Vars["roomId"], r.Caller.UserID)
	if errors.Is(err, roomserver.ErrBadRequest) {
		return nil, matrixerr.Unknown(http.StatusBadRequest, "You are still in this room; leave it before you forget it.").With(err)
	}
	return nil, roomserver.MatrixError(err)
}

func (a *API) joinedRooms(_ context.Context, r *httpx.Request) (any, error) {
	rooms := a.o.Hub.JoinedRooms(r.Caller.UserID)
	slices.Sort(rooms)
	if rooms == nil {
		rooms = []string{}
	}
	return map[string]any{"joined_rooms": rooms}, nil
}

// target reads the body of an endpoint that changes somebody's membership, and
// their membership as it is.
func (a *API) target(ctx context.Context, r *httpx.Request) (m roomserver.MembershipRequest, now store.Membership, err error) {
	var body memberBody
	if err := r.JSON(&body); err != nil {
		return m, now, err
	}
	switch {
	case body.UserID == "":
		err = matrixerr.MissingParam(`"user_id" is missing`)
	case !event.ValidUserID(body.UserID):
		err = matrixerr.InvalidParam(`"user_id" must be a user id, such as @alice:example.org`)
	}
	if err != nil {
		return m, now, err
	}
	room, err := a.joined(r)
	if err != nil {
		return m, now, err
	}
	row, err := a.s.Membership(ctx, room, body.UserID)
	return roomserver.MembershipRequest{RoomID: room, Sender: r.Caller.UserID, Target: body.UserID, Reason: body.Reason}, row.State, fail(err)
}

func (a *API) set(ctx context.Context, m roomserver.MembershipRequest, membership string) error {
	m.Membership = membership
	_, err := a.s.SetMembership(ctx, m)
	return failWrite(err)
}

func (a *API) invite(ctx context.Context, r *httpx.Request) (any, error) {
	var body memberBody
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.UserID == "" && body.address.given() {
		return nil, a.inviteAddress(ctx, r, body.address)
	}
	m, now, err := a.target(ctx, r)
	if err != nil {
		return nil, err
	}
	if now == store.Join {
		return nil, matrixerr.Forbidden(m.Target + " is in the room already.")
	}
	return nil, a.set(ctx, m, "invite")
}

func (a *API) kick(ctx context.Context, r *httpx.Request) (any, error) {
	m, now, err := a.target(ctx, r)
	if err != nil {
		return nil, err
	}
	if now != store.Join && now != store.Invite && now != store.Knock {
		return nil, matrixerr.Forbidden(m.Target + " is not in the room.")
	}
	return nil, a.set(ctx, m, "leave")
}

func (a *API) ban(ctx context.Context, r *httpx.Request) (any, error) {
	m, _, err := a.target(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, a.set(ctx, m, "ban")
}

func (a *API) unban(ctx context.Context, r *httpx.Request) (any, error) {
	m, now, err := a.target(ctx, r)
	if err != nil {
		return nil, err
	}
	if now != store.Ban {
		return nil, matrixerr.Forbidden(m.Target + " is not banned from the room.")
	}
	return nil, a.set(ctx, m, "leave")
}
