package node

import (
	"context"
	"encoding/json"
	"errors"
	"mime"

	"github.com/sirupsen/logrus"

	"knock/clientapi/admin"
	"knock/clientapi/directory"
	"knock/federationapi/client"
	"knock/federationapi/send"
	"knock/internal/account"
	"knock/internal/delayed"
	"knock/internal/ephemeral"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/mediaapi"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// The types here stand between parts that do not know each other.

// destinations are the sender's as administrators see them.
type destinations struct {
	sender *send.Sender
	remote *client.Client
}

func (d destinations) Destinations(after string, limit int) []admin.Destination {
	list := d.sender.Destinations(after, limit)
	out := make([]admin.Destination, len(list))
	for i, r := range list {
		out[i] = admin.Destination(r)
	}
	return out
}

func (d destinations) Destination(ctx context.Context, server string) (admin.Destination, bool, error) {
	r, ok, err := d.sender.Destination(ctx, server)
	return admin.Destination(r), ok, err
}

func (d destinations) Retry(server string) bool {
	d.remote.Alive(server)
	return d.sender.Retry(server)
}

// remoteDirectory is the federation client as the directory wants it.
type remoteDirectory struct{ *client.Client }

func (r remoteDirectory) PublicRooms(ctx context.Context, server string, q directory.RemoteQuery) (json.RawMessage, error) {
	return r.Client.PublicRooms(ctx, server, client.PublicRoomsQuery(q))
}

// passing tells the sender what it has to say again.
type passing struct {
	*ephemeral.Receipts
	presence *ephemeral.Presence
}

func (p passing) Present(users []string) []ephemeral.State { return p.presence.Present(users) }

// whereabouts tells in which rooms other servers' users are.
type whereabouts struct {
	s   *roomserver.Server
	log *logrus.Entry
}

func (w whereabouts) member(room, user string) bool {
	in, err := w.s.IsMember(context.Background(), room, user)
	if err != nil {
		w.log.WithError(err).Warn("A membership could not be read")
	}
	return in && err == nil
}

func (w whereabouts) rooms(user string) []string {
	rooms, err := w.s.RoomsOf(context.Background(), user)
	if err != nil {
		w.log.WithError(err).Warn("A user's rooms could not be read")
	}
	return rooms
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
	_, err := m.accounts.Profile(ctx, userID) // asks application services about users that are not here yet
	return err == nil
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
	if a.Event.Dummy() { // whoever it was sent as has read nothing by that
		return nil
	}
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

// takeAlong gives a user's notification settings, tags and direct chat of a room to the one that replaces it (Client-Server API,
// "Room Upgrades").
func (n *Node) takeAlong(ctx context.Context, user, old, room string) error {
	return errors.Join(n.parts.push.CopyRoom(ctx, user, old, room), n.parts.account.CopyTags(ctx, user, old, room), n.takeDirect(ctx, user, old, room))
}

// takeDirect makes the room that replaces a direct chat one with the same person. Only the old room can say by what it is
// replaced: any room can claim to replace it.
func (n *Node) takeDirect(ctx context.Context, user, old, room string) error {
	tombstone, err := n.parts.rooms.CurrentState(ctx, old, "m.room.tombstone", "")
	if errors.Is(err, roomserver.ErrUnknownRoom) || err == nil && (tombstone == nil || tombstone.Event.ContentString("replacement_room") != room) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.parts.account.CopyDirect(ctx, user, old, room)
}

// deviceHooks are all parts that keep something of a device.
type deviceHooks []account.DeviceHook

func (h deviceHooks) DevicesDeleted(tx *sqldb.Tx, pos int64, userID string, deviceIDs []string) (committed func(), err error) {
	return h.each(func(hook account.DeviceHook) (func(), error) { return hook.DevicesDeleted(tx, pos, userID, deviceIDs) })
}

func (h deviceHooks) DeviceRenamed(tx *sqldb.Tx, pos int64, userID, deviceID string) (committed func(), err error) {
	return h.each(func(hook account.DeviceHook) (func(), error) { return hook.DeviceRenamed(tx, pos, userID, deviceID) })
}

func (h deviceHooks) each(call func(account.DeviceHook) (func(), error)) (func(), error) {
	var all []func()
	for _, hook := range h {
		fn, err := call(hook)
		if err != nil {
			return nil, err
		}
		if fn != nil {
			all = append(all, fn)
		}
	}
	return func() {
		for _, fn := range all {
			fn()
		}
	}, nil
}

// deactivations are the parts that hear of accounts that end.
type deactivations struct {
	*roomserver.Server
	delayed *delayed.Service
}

func (d deactivations) UserDeactivating(tx *sqldb.Tx, userID string) error {
	if err := d.delayed.UserDeactivating(tx, userID); err != nil {
		return err
	}
	return d.Server.UserDeactivating(tx, userID)
}

// presentMembers tells the push rules who is still in a room.
type presentMembers struct {
	hub   *stream.Hub
	store *store.Store
}

func (p presentMembers) Joined(tx *sqldb.Tx, room int64) ([]string, error) {
	key, err := p.store.RoomByNID(tx, room)
	return p.hub.JoinedUsers(key.ID), err
}
