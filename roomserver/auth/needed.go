package auth

import (
	"slices"

	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// Tuple names a piece of room state.
type Tuple struct{ Type, Key string }

// NeededFor selects the auth events of an event (server-server API, "Auth events selection"): the state that the rules
// may look at, without duplicates. Room version 12 omits m.room.create, which the rules still need: the room id implies
// it. stateKey is nil for events that are not state.
func NeededFor(v *event.Version, evType string, stateKey *string, sender string, content []byte) []Tuple {
	if evType == typeCreate {
		return nil
	}
	needed := make([]Tuple, 0, 6)
	if !v.DomainlessRoomIDs {
		needed = append(needed, Tuple{typeCreate, ""})
	}
	needed = append(needed, Tuple{typePowerLevels, ""}, Tuple{typeMember, sender})
	if evType == typeMember && stateKey != nil {
		needed = neededForMember(needed, v, *stateKey, content)
	}
	return needed
}

func neededForMember(needed []Tuple, v *event.Version, target string, content []byte) []Tuple {
	if t := (Tuple{typeMember, target}); !slices.Contains(needed, t) {
		needed = append(needed, t)
	}
	membership := gjson.GetBytes(content, "membership").Str
	if membership == Join || membership == Invite || membership == Knock {
		needed = append(needed, Tuple{typeJoinRules, ""})
	}
	if membership == Invite {
		token := field(field(gjson.GetBytes(content, "third_party_invite"), "signed"), "token")
		if token.Type == gjson.String {
			needed = append(needed, Tuple{typeThirdPartyInvite, token.Str})
		}
	}
	if membership == Join && v.Restricted {
		via := gjson.GetBytes(content, "join_authorised_via_users_server")
		if t := (Tuple{typeMember, via.Str}); via.Type == gjson.String && !slices.Contains(needed, t) {
			needed = append(needed, t)
		}
	}
	return needed
}

// NeededForEvent is NeededFor of an event that exists.
func NeededForEvent(e *event.Event) []Tuple {
	key, isState := e.Key()
	if !isState {
		return NeededFor(e.V(), e.Type(), nil, e.Sender(), nil)
	}
	return NeededFor(e.V(), e.Type(), &key, e.Sender(), e.ContentJSON())
}

// CheckAuthEvents applies the rule about an event's list of auth events to the events that it cites: no duplicates,
// nothing that the selection does not name, all of the same room, and up to room version 11 an m.room.create among them.
// Whether one of them was rejected is known to the caller alone. authEvents are exactly those of e.AuthRefs(): since
// version 12 m.room.create is not among them, and the caller adds it to the State for Check.
func CheckAuthEvents(e *event.Event, authEvents []*event.Event) error {
	needed := NeededForEvent(e)
	seen := make([]Tuple, 0, len(needed))
	for _, a := range authEvents {
		key, isState := a.Key()
		t := Tuple{a.Type(), key}
		switch {
		case !isState || !slices.Contains(needed, t):
			return refuse("the event cites %s, which does not belong to its auth events", a.Type())
		case slices.Contains(seen, t):
			return refuse("the event cites two auth events for %s", a.Type())
		case a.Room() != e.Room():
			return refuse("the event cites an auth event of another room")
		}
		seen = append(seen, t)
	}
	if !e.V().DomainlessRoomIDs && e.Type() != typeCreate && !slices.Contains(seen, Tuple{typeCreate, ""}) {
		return refuse("the event does not cite m.room.create")
	}
	return nil
}
