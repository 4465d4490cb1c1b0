package federationapi

import (
	"context"
	"errors"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/store"
)

// maxConditions bounds the conditions of a join rule that are looked at.
const maxConditions = 100

// restricted says why a user may not join a restricted room through us, where another server might let them in
// (Server-Server API, "Restricted rooms"). Any other error is returned as it is.
func (a *API) restricted(ctx context.Context, roomID, user string, err error) error {
	var refused *roomserver.NotAllowed
	if !errors.As(err, &refused) {
		return err
	}
	rules, lookErr := a.o.Rooms.CurrentState(ctx, roomID, "m.room.join_rules", "")
	if lookErr != nil || rules == nil {
		return err
	}
	content := gjson.ParseBytes(rules.Event.ContentJSON())
	if rule := content.Get("join_rule").Str; rule != "restricted" && rule != "knock_restricted" {
		return err
	}
	if m, lookErr := a.o.Rooms.Membership(ctx, roomID, user); lookErr != nil || m.State == store.Ban {
		return err
	}
	conditions := content.Get("allow").Array()
	blind := len(conditions) > 0
	for i, allow := range conditions {
		if i == maxConditions {
			break
		}
		known, in := a.condition(ctx, allow, user)
		if in {
			return matrixerr.UnableToGrantJoin("Nobody here may invite to the room; ask another server that is in it").With(err)
		}
		blind = blind && !known
	}
	if blind {
		return matrixerr.UnableToAuthoriseJoin("This server is in none of the rooms whose members may join; ask another server").With(err)
	}
	return err
}

// condition reports whether we can tell who is in a condition's room, and whether the user is.
func (a *API) condition(ctx context.Context, allow gjson.Result, user string) (known, in bool) {
	room := allow.Get("room_id")
	if allow.Get("type").Str != "m.room_membership" || room.Type != gjson.String {
		return false, false
	}
	if known, err := a.o.Rooms.IsResident(ctx, room.Str); err != nil || !known {
		return false, false
	}
	m, err := a.o.Rooms.Membership(ctx, room.Str, user)
	return err == nil, err == nil && m.State == store.Join
}
