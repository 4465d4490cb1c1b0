package federationapi

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/store"
)

// invite takes an invite of one of our users, version 2: the room version is named.
func (a *API) invite(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Version *string           `json:"room_version"`
		Event   json.RawMessage   `json:"event"`
		State   []json.RawMessage `json:"invite_room_state"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Version == nil {
		return nil, matrixerr.MissingParam("room_version is missing")
	}
	if len(body.Event) == 0 {
		return nil, matrixerr.MissingParam("event is missing")
	}
	return a.invited(ctx, r, *body.Version, body.Event, body.State)
}

// inviteV1 takes an invite whose body is the event itself, as in room versions 1 and 2.
func (a *API) inviteV1(ctx context.Context, r *httpx.Request) (any, error) {
	raw, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	version, err := a.versionOf(ctx, r.Vars["roomId"])
	if err != nil {
		return nil, err
	}
	var state []json.RawMessage
	for _, item := range gjson.GetBytes(raw, "unsigned.invite_room_state").Array() {
		state = append(state, json.RawMessage(item.Raw))
	}
	answer, err := a.invited(ctx, r, version, raw, state)
	if err != nil {
		return nil, err
	}
	return []any{200, answer}, nil
}

// versionOf is the version of a room that is known here, else "1": what a version 1 invite leaves unsaid.
func (a *API) versionOf(ctx context.Context, roomID string) (string, error) {
	key, err := a.o.Rooms.Room(ctx, roomID)
	if errors.Is(err, roomserver.ErrUnknownRoom) || errors.Is(err, store.ErrNotFound) {
		return "1", nil
	}
	if err != nil {
		return "", err
	}
	return key.Version.ID, nil
}

func (a *API) invited(ctx context.Context, r *httpx.Request, version string, raw json.RawMessage, state []json.RawMessage) (any, error) {
	signed, err := a.o.Rooms.AcceptInvite(ctx, r.Caller.Origin, r.Vars["roomId"], r.Vars["eventId"], version, raw, state)
	if errors.Is(err, roomserver.ErrUnsupported) {
		return nil, matrixerr.IncompatibleRoomVersion(version)
	}
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"event": signed}, nil
}
