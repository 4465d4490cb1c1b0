package directory

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func pathAlias(r *httpx.Request) (string, error) {
	alias := r.Vars["roomAlias"]
	if !event.ValidAlias(alias) {
		return "", matrixerr.InvalidParam("A room alias must look like #name:server")
	}
	return alias, nil
}

func (a *API) alias(ctx context.Context, r *httpx.Request) (any, error) {
	alias, err := pathAlias(r)
	if err != nil {
		return nil, err
	}
	room, servers, err := a.s.ResolveAlias(ctx, alias)
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	return map[string]any{"room_id": room, "servers": servers}, nil
}

func (a *API) putAlias(ctx context.Context, r *httpx.Request) (any, error) {
	alias, err := pathAlias(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		RoomID string `json:"room_id"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch {
	case !a.s.IsLocal(alias):
		return nil, matrixerr.InvalidParam("This server can only make aliases that end in :" + a.o.ServerName)
	case body.RoomID == "":
		return nil, matrixerr.MissingParam(`"room_id" is missing`)
	case !event.ValidRoomID(body.RoomID):
		return nil, matrixerr.InvalidParam(`"room_id" must be a room id (!…)`)
	case !a.mayName(r, alias):
		return nil, matrixerr.Exclusive("This alias belongs to an application service, or is not in the namespaces of yours; choose another")
	case r.Caller.AppService == "" && !a.o.Hub.IsJoined(r.Caller.UserID, body.RoomID):
		return nil, matrixerr.Forbidden("You must be in the room to make an alias for it.")
	}
	err = a.s.AddAlias(ctx, store.Alias{Alias: alias, RoomID: body.RoomID, Creator: r.Caller.UserID})
	if errors.Is(err, roomserver.ErrAliasTaken) {
		return nil, matrixerr.Unknown(http.StatusConflict, "The alias "+alias+" exists already.").With(err)
	}
	return nil, roomserver.MatrixError(err)
}

// mayName says whether the namespaces of application services let the caller make or remove an alias.
func (a *API) mayName(r *httpx.Request, alias string) bool {
	v := a.o.Services.ByID(r.Caller.AppService)
	return !a.o.Services.AliasTaken(alias, r.Caller.AppService) && (v == nil || v.OwnsAlias(alias))
}

func (a *API) deleteAlias(ctx context.Context, r *httpx.Request) (any, error) {
	alias, err := pathAlias(r)
	if err != nil {
		return nil, err
	}
	row, err := a.s.LocalAlias(ctx, alias)
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	if !a.mayName(r, alias) {
		return nil, matrixerr.Exclusive("This alias belongs to an application service, or is not in the namespaces of yours")
	}
	if row.Creator != r.Caller.UserID && r.Caller.AppService == "" {
		if err := a.mayPublish(ctx, r, row.RoomID); err != nil {
			return nil, err
		}
	}
	if err := a.s.RemoveAlias(ctx, alias); err != nil {
		return nil, err
	}
	if err := a.dropCanonical(ctx, r.Caller.UserID, row); err != nil {
		a.o.Log.WithError(err).WithField("room", row.RoomID).Debug("A deleted alias stays in the room's m.room.canonical_alias")
	}
	return nil, nil
}

// dropCanonical takes a deleted alias out of its room's m.room.canonical_alias,
// if the user may change it.
func (a *API) dropCanonical(ctx context.Context, user string, row store.Alias) error {
	if !a.o.Hub.IsJoined(user, row.RoomID) {
		return nil
	}
	e, err := a.s.CurrentState(ctx, row.RoomID, "m.room.canonical_alias", "")
	if err != nil || e == nil {
		return err
	}
	next, changed := without(e.Event.ContentJSON(), row.Alias)
	if !changed {
		return nil
	}
	key := ""
	_, err = a.s.Send(ctx, roomserver.SendRequest{RoomID: row.RoomID, Sender: user, Type: "m.room.canonical_alias", StateKey: &key, Content: next})
	return err
}

// without returns the content of an m.room.canonical_alias event without an alias.
func without(content []byte, alias string) (next json.RawMessage, changed bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(content, &fields) != nil {
		return nil, false
	}
	if gjson.GetBytes(content, "alias").Str == alias {
		delete(fields, "alias")
		changed = true
	}
	var alt []string
	if json.Unmarshal(fields["alt_aliases"], &alt) == nil && slices.Contains(alt, alias) {
		alt = slices.DeleteFunc(alt, func(a string) bool { return a == alias })
		fields["alt_aliases"], _ = json.Marshal(alt) // strings always encode
		changed = true
	}
	next, err := json.Marshal(fields)
	return next, changed && err == nil
}

func (a *API) aliases(ctx context.Context, r *httpx.Request) (any, error) {
	room := r.Vars["roomId"]
	if !a.o.Hub.IsJoined(r.Caller.UserID, room) {
		sum, err := a.s.Summary(ctx, room)
		if err != nil && !errors.Is(err, roomserver.ErrUnknownRoom) {
			return nil, roomserver.MatrixError(err)
		}
		if !sum.WorldReadable {
			return nil, matrixerr.Forbidden("You are not in this room.")
		}
	}
	rows, err := a.s.Aliases(ctx, room)
	if err != nil {
		return nil, err
	}
	list := make([]string, len(rows))
	for i, row := range rows {
		list[i] = row.Alias
	}
	return map[string]any{"aliases": list}, nil
}
