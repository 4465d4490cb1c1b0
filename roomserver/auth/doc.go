// Package auth owns the authorisation rules of room versions 1 to 12, the selection of auth events, power levels, and
// room history visibility. Everything here is a pure function of events: no storage, no network, no time.
//
// Signatures of events are not checked here. Rule "join_authorised_via_users_server must be signed by that user's
// server" is part of the signature check on receipt, where the keys are. The signatures inside a third-party invite, whose
// keys are in the room state, are checked here.
package auth

import (
	"fmt"
	"strings"

	"knock/roomserver/event"
)

// Event types that the rules know.
const (
	typeCreate           = "m.room.create"
	typeMember           = "m.room.member"
	typePowerLevels      = "m.room.power_levels"
	typeJoinRules        = "m.room.join_rules"
	typeThirdPartyInvite = "m.room.third_party_invite"
	typeAliases          = "m.room.aliases"
	typeRedaction        = "m.room.redaction"
)

// Memberships, the values of content.membership in m.room.member.
const (
	Join   = "join"
	Invite = "invite"
	Leave  = "leave"
	Ban    = "ban"
	Knock  = "knock"
)

// NotAllowed says which rule refused an event. It is the only error that the checks of this package return.
type NotAllowed struct{ Reason string }

func (n *NotAllowed) Error() string { return "not allowed: " + n.Reason }

func refuse(format string, args ...any) error {
	return &NotAllowed{Reason: fmt.Sprintf(format, args...)}
}

// State gives the state event of a type and state key, nil when absent. For rooms of version 12 and later it must know
// m.room.create although events do not cite it.
type State interface {
	Lookup(evType, stateKey string) *event.Event
}

// looksLikeUserID is the validity of user ids that servers apply to power levels. It is wider than the grammar of server
// names: a stricter reading here would split rooms whose levels name odd ids.
func looksLikeUserID(id string) bool {
	return strings.HasPrefix(id, "@") && strings.Contains(id, ":")
}
