package slidingsync

import (
	"context"

	"knock/clientapi/syncread"
	"knock/internal/account"
	"knock/roomserver/event"
)

// maxProfiles bounds the users whose whole profiles an answer tells because it shows a room for the first time.
const maxProfiles = 200

// firstShown are the joined rooms in the scope of the profiles extension that the answer is to show for the first time.
func (a *answer) firstShown() []*room {
	x := &a.q.ext.profiles
	if !x.enabled {
		return nil
	}
	var rooms []*room
	s := a.scope(&x.extension)
	for _, r := range a.todo {
		if r.initial && r.e.kind() == joined && s.has(r.target) {
			rooms = append(rooms, r)
		}
	}
	return rooms
}

// tellProfiles tells what changed in the profiles of local users whom the user sees, and in rooms that are shown for
// the first time all there is of the members: with lazy members, of those who sent what the timeline shows (MSC4262).
func (a *answer) tellProfiles(ctx context.Context, shown []*room) error {
	x := &a.q.ext.profiles
	if !x.enabled {
		return nil
	}
	from := a.q.since.pos
	if a.q.initial {
		from = a.at.pos // rooms come with their members' profiles
	}
	news, err := a.o.Accounts.ProfileNews(ctx, a.q.user, from, a.at.pos, a.membersOf(shown), x.fields)
	if err != nil || len(news) == 0 {
		return err
	}
	a.some = true
	a.appendPart("org.matrix.msc4262.profiles", appendProfiles(nil, news))
	return nil
}

// membersOf returns local members of rooms, each once.
func (a *answer) membersOf(rooms []*room) []string {
	seen := map[string]bool{}
	for _, r := range rooms {
		var members []string
		if r.want.union.lazy && !r.want.union.all {
			for _, e := range r.events {
				members = append(members, e.Event.Sender())
			}
		} else {
			members = a.o.Hub.JoinedUsers(r.e.key.ID)
		}
		for _, user := range members {
			if len(seen) < maxProfiles {
				seen[user] = true
			}
		}
	}
	users := make([]string, 0, len(seen))
	for user := range seen {
		users = append(users, user)
	}
	return users
}

func appendProfiles(b []byte, news account.ProfileNews) []byte {
	b = append(b, `{"users":{`...)
	for user, fields := range news {
		var updated, removed []byte
		for field, value := range fields {
			if value == nil {
				removed = append(event.AppendString(removed, field), ',')
				continue
			}
			updated = append(append(event.AppendString(updated, field), ':'), value...)
			updated = append(updated, ',')
		}
		b = append(event.AppendString(b, user), ":{"...)
		if len(updated) > 0 {
			b = append(syncread.Closed(append(append(b, `"updated":{`...), updated...), '}'), ',')
		}
		if len(removed) > 0 {
			b = append(syncread.Closed(append(append(b, `"removed":[`...), removed...), ']'), ',')
		}
		b = append(syncread.Closed(b, '}'), ',')
	}
	return append(syncread.Closed(b, '}'), '}')
}
