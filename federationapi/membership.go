package federationapi

import (
	"context"
	"encoding/json"
	"errors"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// maxVersions bounds the "ver" parameters that are looked at.
const maxVersions = 100

func (a *API) makeJoin(ctx context.Context, r *httpx.Request) (any, error) {
	return a.makeMembership(ctx, r, auth.Join)
}

func (a *API) makeKnock(ctx context.Context, r *httpx.Request) (any, error) {
	return a.makeMembership(ctx, r, auth.Knock)
}

func (a *API) makeLeave(ctx context.Context, r *httpx.Request) (any, error) {
	return a.makeMembership(ctx, r, auth.Leave)
}

// makeMembership answers make_join, make_knock and make_leave with a template.
func (a *API) makeMembership(ctx context.Context, r *httpx.Request, kind string) (any, error) {
	room, user, origin := r.Vars["roomId"], r.Vars["userId"], r.Caller.Origin
	if !event.ValidUserID(user) || event.ServerOf(user) != origin {
		return nil, matrixerr.Forbidden("The user belongs to another server than the one that asks")
	}
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, domainError(err)
	}
	var versions []string
	if kind != auth.Leave {
		versions = r.QueryAll()["ver"]
		if len(versions) == 0 {
			versions = []string{"1"}
		}
		versions = versions[:min(len(versions), maxVersions)]
	}
	version, template, err := a.o.Rooms.Template(ctx, kind, room, user, versions)
	if errors.Is(err, roomserver.ErrUnsupported) {
		return nil, matrixerr.IncompatibleRoomVersion(version)
	}
	if err != nil && kind == auth.Join {
		err = a.restricted(ctx, room, user, err)
	}
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"room_version": version, "event": template}, nil
}

// accept takes the event of a send_join, send_knock or send_leave.
func (a *API) accept(ctx context.Context, r *httpx.Request, kind string, omit bool) (*roomserver.Acceptance, error) {
	room, origin := r.Vars["roomId"], r.Caller.Origin
	raw, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, domainError(err)
	}
	acc, err := a.o.Rooms.AcceptMembership(ctx, kind, origin, room, r.Vars["eventId"], raw, omit)
	if err != nil && kind == auth.Join {
		if user, ok := memberOf(raw, origin); ok {
			err = a.restricted(ctx, room, user, err)
		}
	}
	return acc, domainError(err)
}

// memberOf returns whom a raw member event is about, when the origin may speak for that user.
func memberOf(raw json.RawMessage, origin string) (string, bool) {
	var e struct {
		User string `json:"state_key"`
	}
	if json.Unmarshal(raw, &e) != nil || !event.ValidUserID(e.User) {
		return "", false
	}
	return e.User, event.ServerOf(e.User) == origin
}

func (a *API) sendKnock(ctx context.Context, r *httpx.Request) (any, error) {
	acc, err := a.accept(ctx, r, auth.Knock, false)
	if err != nil {
		return nil, err
	}
	state, err := a.o.Rooms.KnockState(ctx, r.Vars["roomId"], acc.Event.Sender())
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"knock_room_state": notNil(state)}, nil
}

func (a *API) sendLeave(ctx context.Context, r *httpx.Request) (any, error) {
	_, err := a.accept(ctx, r, auth.Leave, false)
	return nil, err
}

// sendLeaveV1 answers in the form of version 1: a list of the status and the answer.
func (a *API) sendLeaveV1(ctx context.Context, r *httpx.Request) (any, error) {
	if _, err := a.accept(ctx, r, auth.Leave, false); err != nil {
		return nil, err
	}
	return []any{200, struct{}{}}, nil
}

// domainError maps errors of the domain to the specification's codes, with what is wrong where the caller can mend it.
func domainError(err error) error {
	var mapped *matrixerr.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mapped):
		return err
	case errors.Is(err, roomserver.ErrNoCreate):
		return matrixerr.InvalidParam("invite_room_state lacks the room's m.room.create event as a full event").With(err)
	case errors.Is(err, roomserver.ErrBadRequest):
		return matrixerr.InvalidParam(err.Error()).With(err)
	}
	return roomserver.MatrixError(err)
}

// notNil makes sure that an empty list is answered as one.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
