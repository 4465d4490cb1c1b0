package auth

import (
	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// Values of content.history_visibility.
const (
	WorldReadable = "world_readable"
	Shared        = "shared"
	Invited       = "invited"
	Joined        = "joined"
)

// Sight is how one user stood to one event when it was sent (client-server API, "Room history visibility").
type Sight struct {
	Visibility      string // history visibility before the event; "" and unknown values mean "shared"
	VisibilityAfter string // for m.room.history_visibility events: what they set; else ""
	Membership      string // the user's membership before the event, "" for none
	MembershipAfter string // for the user's own m.room.member events: what they set; else ""
	JoinedLater     bool   // the user joined, or was in the room, at any point after the event
}

// Visible says whether the user may see the event. A history visibility event shows by the rule before or after it, and
// so does a membership event to its own user.
func Visible(s Sight) bool {
	if seesAs(s.Visibility, s.Membership, s.JoinedLater) {
		return true
	}
	if s.MembershipAfter != "" && seesAs(s.Visibility, s.MembershipAfter, s.JoinedLater) {
		return true
	}
	if s.VisibilityAfter == "" {
		return false
	}
	return seesAs(s.VisibilityAfter, s.Membership, s.JoinedLater) ||
		s.MembershipAfter != "" && seesAs(s.VisibilityAfter, s.MembershipAfter, s.JoinedLater)
}

func seesAs(visibility, membership string, joinedLater bool) bool {
	if visibility == WorldReadable || membership == Join {
		return true
	}
	switch visibility {
	case Joined:
		return false
	case Invited:
		return membership == Invite
	}
	return joinedLater
}

// ServerSight is how the users of one server stood to one event when it was sent.
type ServerSight struct {
	Visibility      string   // as in Sight
	VisibilityAfter string   // as in Sight
	Memberships     []string // memberships of the server's users before the event, and what the event set for one of them
	JoinedLater     bool     // one of the server's users joined, or was in the room, at any point after the event
}

// VisibleToServer says whether a server may be given the event unredacted: when any of its users may see it.
func VisibleToServer(s ServerSight) bool {
	if Visible(Sight{Visibility: s.Visibility, VisibilityAfter: s.VisibilityAfter, JoinedLater: s.JoinedLater}) {
		return true
	}
	for _, m := range s.Memberships {
		if Visible(Sight{Visibility: s.Visibility, VisibilityAfter: s.VisibilityAfter, Membership: m, JoinedLater: s.JoinedLater}) {
			return true
		}
	}
	return false
}

// HistoryVisibility returns what an m.room.history_visibility event sets; "shared" for nil and for values that nobody
// understands.
func HistoryVisibility(e *event.Event) string {
	if e == nil {
		return Shared
	}
	switch v := gjson.GetBytes(e.ContentJSON(), "history_visibility").String(); v {
	case WorldReadable, Invited, Joined:
		return v
	}
	return Shared
}
