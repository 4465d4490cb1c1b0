package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Bounds of a request for a new room.
const (
	maxInvites      = 200
	maxAddresses    = 20 // each asks an identity server
	maxInitialState = 500
)

// createBody is the body of POST /createRoom.
type createBody struct {
	Visibility      string                     `json:"visibility"`
	AliasName       string                     `json:"room_alias_name"`
	Name            string                     `json:"name"`
	Topic           string                     `json:"topic"`
	Invite          []string                   `json:"invite"`
	Invite3PID      []address                  `json:"invite_3pid"`
	Version         string                     `json:"room_version"`
	CreationContent map[string]json.RawMessage `json:"creation_content"`
	InitialState    []initialState             `json:"initial_state"`
	Preset          string                     `json:"preset"`
	IsDirect        bool                       `json:"is_direct"`
	PowerLevels     map[string]json.RawMessage `json:"power_level_content_override"`
}

type initialState struct {
	Type     *string         `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

func (a *API) create(ctx context.Context, r *httpx.Request) (any, error) {
	var body createBody
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	q, err := a.createRequest(r.Caller.UserID, &body)
	if err != nil {
		return nil, err
	}
	for _, who := range body.Invite3PID {
		if err := a.checkAddress(who); err != nil {
			return nil, err
		}
	}
	v := a.o.Services.ByID(r.Caller.AppService)
	if q.Alias != "" && (a.o.Services.AliasTaken(q.Alias, r.Caller.AppService) || v != nil && !v.OwnsAlias(q.Alias)) {
		return nil, matrixerr.Exclusive("This alias belongs to an application service, or is not in the namespaces of yours; choose another")
	}
	id, err := a.s.Create(ctx, q)
	if id == "" {
		return nil, failCreate(err)
	}
	if err != nil {
		// The room stands; without its id the client would make another one.
		a.o.Log.WithError(err).WithField("room", id).Info("Not everybody could be invited to a new room")
		a.inviteOthers(ctx, id, q)
	}
	a.inviteAddresses(ctx, id, q, body.Invite3PID)
	a.carryOver(ctx, q.Creator, id)
	return roomID(id), nil
}

// inviteOthers invites those who follow one that could not be invited.
func (a *API) inviteOthers(ctx context.Context, room string, q roomserver.CreateRequest) {
	skipped := false
	for _, user := range q.Invite {
		if m, err := a.s.Membership(ctx, room, user); err != nil || m.State != store.NoMembership {
			continue
		}
		if !skipped {
			skipped = true
			continue
		}
		_, err := a.s.SetMembership(ctx, roomserver.MembershipRequest{RoomID: room, Sender: q.Creator, Target: user, Membership: "invite", IsDirect: q.IsDirect})
		if err != nil {
			a.o.Log.WithError(err).WithField("room", room).Info("A user could not be invited to a new room")
		}
	}
}

func failCreate(err error) error {
	var refused *roomserver.NotAllowed
	switch {
	case errors.As(err, &refused):
		return matrixerr.InvalidRoomState("The room cannot begin in this state: " + refused.Reason + ".").With(err)
	case errors.Is(err, roomserver.ErrTooLarge):
		return matrixerr.InvalidRoomState("A state event of the new room is too large; an event may have 65,536 bytes at most.").With(err)
	}
	return failWrite(err)
}

// createRequest checks the body against the specification's rules.
func (a *API) createRequest(user string, b *createBody) (q roomserver.CreateRequest, err error) {
	switch {
	case !slices.Contains([]string{"", "public", "private"}, b.Visibility):
		err = matrixerr.BadJSON(`"visibility" must be "public" or "private"`)
	case !slices.Contains([]string{"", "private_chat", "trusted_private_chat", "public_chat"}, b.Preset):
		err = matrixerr.BadJSON(`"preset" must be "private_chat", "trusted_private_chat" or "public_chat"`)
	case len(b.Invite3PID) > maxAddresses:
		err = matrixerr.InvalidParam(fmt.Sprintf("At most %d addresses can be invited with a new room; invite the others afterwards", maxAddresses))
	}
	if err != nil {
		return q, err
	}
	if b.Version != "" {
		if _, ok := event.GetVersion(b.Version); !ok {
			return q, matrixerr.UnsupportedRoomVersion(b.Version)
		}
	}
	q = roomserver.CreateRequest{
		Creator: user, Version: b.Version, Preset: b.Preset, Public: b.Visibility == "public", Name: b.Name, Topic: b.Topic,
		IsDirect: b.IsDirect, CreationContent: b.CreationContent, PowerLevelOverride: b.PowerLevels,
	}
	if q.Alias, err = a.newAlias(b.AliasName); err != nil {
		return q, err
	}
	if q.Invite, err = invitees(user, b.Invite); err != nil {
		return q, err
	}
	if err := checkCreators(b.CreationContent["additional_creators"]); err != nil {
		return q, err
	}
	q.InitialState, err = initialStateOf(b.InitialState)
	return q, err
}

func (a *API) newAlias(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	alias := "#" + name + ":" + a.o.ServerName
	if strings.ContainsAny(name, ": \t\r\n\x00") || !event.ValidAlias(alias) {
		return "", matrixerr.InvalidParam(`"room_alias_name" must be the part of an alias between "#" and ":", without spaces, and the whole alias at most 255 bytes`)
	}
	return alias, nil
}

// invitees checks a list of users; the creator and repetitions are left out.
func invitees(creator string, list []string) ([]string, error) {
	if len(list) > maxInvites {
		return nil, matrixerr.InvalidParam(fmt.Sprintf("At most %d users can be invited with a new room; invite the others afterwards", maxInvites))
	}
	var out []string
	for _, user := range list {
		if !event.ValidUserID(user) {
			return nil, matrixerr.InvalidParam(`"invite" must list user ids, such as @alice:example.org`)
		}
		if user != creator && !slices.Contains(out, user) {
			out = append(out, user)
		}
	}
	return out, nil
}

func checkCreators(raw json.RawMessage) error {
	if raw == nil {
		return nil
	}
	var list []string
	if json.Unmarshal(raw, &list) != nil || slices.ContainsFunc(list, func(id string) bool { return !event.ValidUserID(id) }) {
		return matrixerr.InvalidParam(`"additional_creators" must be a list of user ids`)
	}
	return nil
}

func initialStateOf(list []initialState) ([]roomserver.StateEvent, error) {
	if len(list) > maxInitialState {
		return nil, matrixerr.InvalidParam(fmt.Sprintf(`"initial_state" can have at most %d events`, maxInitialState))
	}
	out := make([]roomserver.StateEvent, len(list))
	for i, ev := range list {
		switch {
		case ev.Type == nil || *ev.Type == "":
			return nil, matrixerr.BadJSON(`Each event of "initial_state" needs a "type"`)
		case len(ev.Content) == 0 || ev.Content[0] != '{':
			return nil, matrixerr.BadJSON(`Each event of "initial_state" needs an object as its "content"`)
		case *ev.Type == "m.room.create" || *ev.Type == "m.room.member":
			return nil, matrixerr.InvalidRoomState(`"initial_state" cannot set ` + *ev.Type + `; use "creation_content" and "invite"`)
		}
		out[i] = roomserver.StateEvent{Type: *ev.Type, StateKey: ev.StateKey, Content: ev.Content}
	}
	return out, nil
}
