package roomserver

import (
	"context"
	"encoding/json"
)

// Remote is what roomserver asks of other servers; the federation client
// implements it. Answers are untrusted JSON, bounded in size.
type Remote interface {
	// Make asks for a template of a membership event: kind is "join", "leave" or
	// "knock"; versions are the room versions supported, for joins and knocks.
	Make(ctx context.Context, kind, server, roomID, userID string, versions []string) (version string, template json.RawMessage, err error)
	// SendJoin sends a signed join; state and auth events come one by one. omit lets
	// the server leave members out.
	SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, omit bool, into JoinSink) error
	// SendLeave sends a signed leave.
	SendLeave(ctx context.Context, server, roomID, eventID string, e json.RawMessage) error
	// SendKnock sends a signed knock and returns the room's stripped state.
	SendKnock(ctx context.Context, server, roomID, eventID string, e json.RawMessage) (stripped []json.RawMessage, err error)
	// Invite asks the invited user's server to sign an invite and returns it signed.
	Invite(ctx context.Context, server, roomID, eventID, version string, e json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error)

	// ExchangeInvite asks the server of who issued a third-party invite for an invite
	// of the user whom e, a partial m.room.member event, names.
	ExchangeInvite(ctx context.Context, server, roomID string, e json.RawMessage) error

	Event(ctx context.Context, server, eventID string) (json.RawMessage, error)
	EventAuth(ctx context.Context, server, roomID, eventID string) ([]json.RawMessage, error)
	MissingEvents(ctx context.Context, server, roomID string, earliest, latest []string, limit int, minDepth int64) ([]json.RawMessage, error)
	StateIDs(ctx context.Context, server, roomID, eventID string) (state, auth []string, err error)
	// State fetches the state before an event and its auth chain, one by one.
	State(ctx context.Context, server, roomID, eventID string, into JoinSink) error
	// Extremities asks for a server's forward extremities of a room; userID is a
	// user of ours in it.
	Extremities(ctx context.Context, server, roomID, userID string) ([]string, error)
	Backfill(ctx context.Context, server, roomID string, from []string, limit int) ([]json.RawMessage, error)
	// EventAtTime asks for the first event at or after a time in milliseconds, or
	// the last at or before it.
	EventAtTime(ctx context.Context, server, roomID string, ts int64, forward bool) (eventID string, at int64, err error)
	Alias(ctx context.Context, server, alias string) (roomID string, servers []string, err error)
	// PolicySignature asks a policy server for its signature over an event. The
	// error is a *PolicyRefusal when it says no.
	PolicySignature(ctx context.Context, server string, unstable bool, e json.RawMessage) (signature string, err error)
}

// JoinSink takes the answer of send_join or state as it is read.
type JoinSink struct {
	State func(raw json.RawMessage) error
	Auth  func(raw json.RawMessage) error
	// Event is the join as the resident server signed it, where it did.
	Event func(raw json.RawMessage) error
	// Omitted hears that the state lacks members, and which servers are in the room.
	Omitted func(servers []string) error
}
