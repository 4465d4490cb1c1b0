package sync

import (
	"context"

	"knock/clientapi/syncread"
	"knock/roomserver/event"
)

// maxNewcomers bounds the users whose whole profiles an answer adds because the client sees them since now.
const maxNewcomers = 200

// shareProfiles finds what to tell of the profiles of local users (MSC4429): what changed in those of the people whom
// the user sees, and all of those whom they see since now.
func (a *answer) shareProfiles(ctx context.Context) (err error) {
	fields := a.q.filter.profiles
	if len(fields) == 0 {
		return nil
	}
	a.profiles, err = a.o.Accounts.ProfileNews(ctx, a.q.user, a.from, a.at.pos, a.newcomers(), fields)
	return err
}

// newcomers are the users who came into the user's rooms, and the local ones of rooms that the user came into.
func (a *answer) newcomers() []string {
	if a.from == 0 {
		return nil // everybody is told of
	}
	users := a.arrived
	for _, room := range a.newlyJoined() {
		users = append(users, a.o.Hub.JoinedUsers(room)...)
	}
	return users[:min(len(users), maxNewcomers)]
}

func (a *answer) appendProfiles(b []byte) []byte {
	if len(a.profiles) == 0 {
		return b
	}
	b = append(b, `"org.matrix.msc4429.users":{`...)
	for user, fields := range a.profiles {
		b = append(event.AppendString(b, user), `:{"profile_updates":{`...)
		for field, value := range fields {
			b = append(event.AppendString(b, field), ':')
			if value == nil {
				b = append(b, "null"...)
			}
			b = append(append(b, value...), ',')
		}
		b = append(syncread.Closed(b, '}'), "},"...)
	}
	return append(syncread.Closed(b, '}'), ',')
}
