package pushers

import (
	"context"

	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Occurrence is a stored event as the push rules see it, with the room as view
// shows it. What of the room's state the rules ask is read when they ask; what
// cannot be read is as if it were not there.
func Occurrence(ctx context.Context, rooms *roomserver.Server, hub *stream.Hub, server, room string, e *store.Stored, view roomserver.View) *pushrules.Occurrence {
	read := func(fn func(tx *sqldb.Tx) error) bool { return rooms.Store.DB.Read(ctx, fn) == nil }
	return &pushrules.Occurrence{
		Room: room, RoomNID: e.Room, EventID: e.Event.EventID(), Sender: e.Event.Sender(), JSON: e.Event.JSON(), Members: view.Joined,
		Local:        func(user string) bool { return event.ServerOf(user) == server },
		IsMember:     func(user string) bool { return hub.IsJoined(user, room) },
		LocalMembers: func() []string { return hub.JoinedUsers(room) },
		CanNotify: func(key string) (may bool) {
			return read(func(tx *sqldb.Tx) error {
				powers, err := rooms.Powers(tx, view)
				if err == nil {
					may = powers.UserLevel(e.Event.Sender()) >= powers.Notification(key)
				}
				return err
			}) && may
		},
		DisplayName: func(user string) (name string) {
			read(func(tx *sqldb.Tx) error {
				member, err := rooms.StateEvent(tx, view, "m.room.member", user)
				if member != nil {
					name = member.Event.ContentString("displayname")
				}
				return err
			})
			return name
		},
	}
}
