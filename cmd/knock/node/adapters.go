package node

import (
	"context"
	"encoding/json"
	"mime"

	"knock/federationapi/client"
	"knock/internal/account"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/mediaapi"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// The types here stand between parts that do not know each other.

// remote is the federation client as the room server wants it.
type remote struct{ *client.Client }

var _ roomserver.Remote = remote{}

func (r remote) SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, into roomserver.JoinSink) error {
	return r.Client.SendJoin(ctx, server, roomID, eventID, e, client.JoinSink(into))
}

// remoteMedia is the federation client as the media store wants it.
type remoteMedia struct{ *client.Client }

func (r remoteMedia) FetchMedia(ctx context.Context, server, mediaID string, maxBytes int64) (*mediaapi.RemoteMedia, error) {
	m, err := r.Download(ctx, server, mediaID, maxBytes)
	if err != nil {
		return nil, err
	}
	file := &mediaapi.RemoteMedia{ContentType: m.ContentType, Body: m.Body}
	if _, params, err := mime.ParseMediaType(m.ContentDisposition); err == nil {
		file.Filename = params["filename"]
	}
	return file, nil
}

// remoteProfiles is the federation client as the account endpoints want it.
type remoteProfiles struct{ *client.Client }

func (r remoteProfiles) Profile(ctx context.Context, server, userID, field string) (map[string]json.RawMessage, error) {
	return r.QueryProfile(ctx, server, userID, field)
}

// memberProfiles tells the room server what member events say about local users.
type memberProfiles struct{ accounts *account.Service }

func (m memberProfiles) MemberProfile(ctx context.Context, userID string) (displayName, avatarURL string, err error) {
	profile, err := m.accounts.Profile(ctx, userID)
	if err != nil {
		return "", "", err
	}
	return text(profile[account.FieldDisplayName]), text(profile[account.FieldAvatarURL]), nil
}

func (m memberProfiles) Exists(ctx context.Context, userID string) bool {
	ok, err := m.accounts.Exists(ctx, userID)
	return ok && err == nil
}

// text is a JSON string's value; "" for anything else.
func text(raw json.RawMessage) (s string) {
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// counters is the part of the push rules in each event's transaction.
type counters struct {
	push   *pushrules.Service
	hub    *stream.Hub
	server string // our name
}

func (c counters) Load(context.Context, int64) error { return nil }
func (c counters) Forget(int64)                      {}

func (c counters) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	return c.push.Prepare(context.Background(), &pushrules.Occurrence{
		Room: a.RoomID, RoomNID: a.RoomNID, EventID: a.Event.EventID(), Sender: a.Event.Sender(), JSON: a.Event.JSON(), Members: a.JoinedMembers,
		Local: func(user string) bool { return event.ServerOf(user) == c.server }, IsMember: a.IsLocalMember,
		LocalMembers: func() []string { return c.hub.JoinedUsers(a.RoomID) },
		CanNotify: func(key string) bool {
			powers := auth.PowerLevels(a.State)
			return powers.UserLevel(a.Event.Sender()) >= powers.Notification(key)
		},
		DisplayName: func(user string) string {
			if member := a.State.Lookup("m.room.member", user); member != nil {
				return member.ContentString("displayname")
			}
			return ""
		},
	})
}
