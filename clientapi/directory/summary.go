package directory

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// summaryBody is the answer of /room_summary. It has some members also under
// the names that they had before the specification took them up.
type summaryBody struct {
	roomserver.RoomSummary
	Encryption    string   `json:"encryption,omitempty"`
	OldEncryption string   `json:"im.nheko.summary.encryption,omitempty"`
	Version       string   `json:"room_version,omitempty"`
	OldVersion    string   `json:"im.nheko.summary.room_version,omitempty"`
	Allowed       []string `json:"allowed_room_ids,omitempty"`
	Membership    string   `json:"membership,omitempty"`
}

var errNoRoom = matrixerr.NotFound("The room was not found, or you may not see it.")

func (a *API) summary(ctx context.Context, r *httpx.Request) (any, error) {
	room := r.Vars["roomIdOrAlias"]
	switch {
	case event.ValidAlias(room):
		var err error
		if room, _, err = a.s.ResolveAlias(ctx, room); err != nil {
			return nil, roomserver.MatrixError(err)
		}
	case !event.ValidRoomID(room):
		return nil, matrixerr.InvalidParam(room + " is neither a room id (!…) nor an alias (#name:server)")
	}
	var m store.MemberRow
	if r.Caller.UserID != "" {
		var err error
		if m, err = a.s.Membership(ctx, room, r.Caller.UserID); err != nil && !errors.Is(err, roomserver.ErrUnknownRoom) {
			return nil, err
		}
	}
	sum, err := a.summaryFor(ctx, room, r.Caller.UserID, m)
	if err != nil {
		return nil, err
	}
	return summaryBody{RoomSummary: sum, Encryption: sum.Encryption, OldEncryption: sum.Encryption,
		Version: sum.Version, OldVersion: sum.Version, Allowed: sum.Allowed, Membership: m.State.String()}, nil
}

// summaryFor describes a room that this server is in to those who may see it,
// and any other room to whom it was shown with an invite.
func (a *API) summaryFor(ctx context.Context, room, user string, m store.MemberRow) (sum roomserver.RoomSummary, err error) {
	resident, err := a.s.IsResident(ctx, room)
	if err != nil {
		return sum, err
	}
	if !resident {
		if m.State != store.Invite && m.State != store.Knock {
			return sum, errNoRoom
		}
		return a.fromStripped(ctx, room, m)
	}
	sum, err = a.s.Summary(ctx, room)
	if err != nil {
		return sum, err
	}
	involved := m.State == store.Join || m.State == store.Invite || m.State == store.Knock
	admitted := func(room string) bool { return user != "" && a.o.Hub.IsJoined(user, room) }
	if !involved && !sum.Open() && !slices.ContainsFunc(sum.Allowed, admitted) {
		return sum, errNoRoom
	}
	return sum, nil
}

// fromStripped describes a room by the state that came with an invite or a knock.
func (a *API) fromStripped(ctx context.Context, room string, m store.MemberRow) (sum roomserver.RoomSummary, err error) {
	var list []json.RawMessage
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		list, err = a.s.Stripped(tx, m)
		return err
	})
	sum.RoomID = room
	fields := map[string]*string{
		"m.room.name/name": &sum.Name, "m.room.topic/topic": &sum.Topic, "m.room.avatar/url": &sum.AvatarURL,
		"m.room.canonical_alias/alias": &sum.CanonicalAlias, "m.room.join_rules/join_rule": &sum.JoinRule,
		"m.room.create/type": &sum.RoomType, "m.room.create/room_version": &sum.Version, "m.room.encryption/algorithm": &sum.Encryption,
	}
	for _, raw := range list {
		e := gjson.ParseBytes(raw)
		e.Get("content").ForEach(func(key, value gjson.Result) bool {
			if into := fields[e.Get("type").Str+"/"+key.Str]; into != nil && e.Get("state_key").Str == "" && value.Type == gjson.String {
				*into = value.Str
			}
			return true
		})
	}
	return sum, err
}
