package event

import (
	"encoding/json"
	"strconv"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"
	"github.com/tidwall/gjson"
)

// Event is one room event. It never changes. Slices and pointers that it hands
// out are shared: do not write to them.
type Event struct {
	v    *Version
	json []byte // canonical, without unsigned; the strings below are cut from it
	id   string

	room, sender, typ, stateKey, redacts string

	ts, depth int64
	refs      []string // auth_events, then prev_events
	auths     int

	raw rawFields

	isState, redacted, oversized bool
}

// rawFields are the values, as they are encoded, that the client format needs.
type rawFields struct{ content, room, sender, stateKey, typ, redacts, sticky rawValue }

type rawValue struct{ from, to int32 }

func (e *Event) value(r rawValue) []byte { return e.json[r.from:r.to:r.to] }

// V returns the room version of the event.
func (e *Event) V() *Version { return e.v }

// Version is the id of the room version.
func (e *Event) Version() gomatrixserverlib.RoomVersion {
	return gomatrixserverlib.RoomVersion(e.v.ID)
}

// EventID returns the event id.
func (e *Event) EventID() string { return e.id }

// Room returns the room id. From version 12 on that of a create event is made
// from its event id.
func (e *Event) Room() string { return e.room }

// RoomID is Room in the type of gomatrixserverlib.
func (e *Event) RoomID() spec.RoomID {
	id, err := spec.NewRoomID(e.room)
	if err != nil { // cannot be: our grammar is the narrower one
		return spec.RoomID{}
	}
	return *id
}

// Sender returns the user id of the sender; it may be a historical one.
func (e *Event) Sender() string { return e.sender }

// SenderID is Sender in the type of gomatrixserverlib.
func (e *Event) SenderID() spec.SenderID { return spec.SenderID(e.sender) }

// Type returns the event type.
func (e *Event) Type() string { return e.typ }

// DummyType is the type of events that bring forward extremities together and say
// nothing, as Synapse names it. Clients are not shown them.
const DummyType = "org.matrix.dummy_event"

// Dummy reports whether the event says nothing to clients.
func (e *Event) Dummy() bool { return e.typ == DummyType && !e.isState }

// Key returns the state key and whether the event is a state event.
func (e *Event) Key() (key string, isState bool) { return e.stateKey, e.isState }

// IsState tells whether the event is a state event of type typ with the given key.
func (e *Event) IsState(typ, key string) bool {
	return e.isState && e.stateKey == key && e.typ == typ
}

// StateKey returns the state key, nil when the event is no state event.
func (e *Event) StateKey() *string {
	if !e.isState {
		return nil
	}
	return &e.stateKey
}

// StateKeyEquals tells whether the event is a state event with this key.
func (e *Event) StateKeyEquals(s string) bool { return e.isState && e.stateKey == s }

// TS returns origin_server_ts, milliseconds since 1970 by the sender's clock.
func (e *Event) TS() int64 { return e.ts }

// OriginServerTS is TS in the type of gomatrixserverlib; a negative time is 0.
func (e *Event) OriginServerTS() spec.Timestamp { return spec.Timestamp(max(e.ts, 0)) }

// Depth returns the depth that the sender claims.
func (e *Event) Depth() int64 { return e.depth }

// PrevEventIDs returns the ids in prev_events, never nil.
func (e *Event) PrevEventIDs() []string { return e.refs[e.auths:] }

// AuthRefs returns the ids in auth_events as they stand there, never nil.
func (e *Event) AuthRefs() []string { return e.refs[:e.auths:e.auths] }

// AuthEventIDs returns the ids in auth_events. From version 12 on, where the
// create event is implied, its id comes first.
func (e *Event) AuthEventIDs() []string {
	create := e.CreateID()
	if create == "" || create == e.id {
		return e.AuthRefs()
	}
	return append(append(make([]string, 0, e.auths+1), create), e.AuthRefs()...)
}

// CreateID returns the id of the room's create event, which the room id names
// from version 12 on; "" before.
func (e *Event) CreateID() string {
	if !e.v.DomainlessRoomIDs {
		return ""
	}
	return "$" + e.room[1:]
}

// MaxSticky is the longest time for which an event may be sticky (MSC4354), in
// milliseconds.
const MaxSticky = 3_600_000

// stickyKey is the top-level key of sticky events, under the proposal's prefix.
const stickyKey = "msc4354_sticky"

// Sticky returns for how many milliseconds the event asks to be sticky; false
// when it does not, or not rightly.
func (e *Event) Sticky() (ms int64, ok bool) {
	if e.raw.sticky.to == 0 || e.json[e.raw.sticky.from] != '{' {
		return 0, false
	}
	ms, err := strconv.ParseInt(string(lookup(e.value(e.raw.sticky), "duration_ms")), 10, 64)
	return ms, err == nil && ms >= 0 && ms <= MaxSticky
}

// RedactsID returns the id of the event that this m.room.redaction redacts,
// from where the room version has it; "" when there is none.
func (e *Event) RedactsID() string { return e.redacts }

// Redacts is RedactsID.
func (e *Event) Redacts() string { return e.redacts }

// Redacted tells whether this is a redacted copy: made by Redact, or by Parse
// because the content hash did not match.
func (e *Event) Redacted() bool { return e.redacted }

// Oversized tells whether an id, the type or the state key is over 255 bytes
// while not over 255 codepoints. Servers used to allow that, so such an event
// was parsed; it must not pass the auth rules.
func (e *Event) Oversized() bool { return e.oversized }

// JSON returns the canonical JSON of the event, without unsigned.
func (e *Event) JSON() []byte { return e.json }

// MarshalJSON returns a copy of JSON.
func (e *Event) MarshalJSON() ([]byte, error) { return append([]byte(nil), e.json...), nil }

// ContentJSON returns the content, an object in canonical JSON.
func (e *Event) ContentJSON() []byte { return e.value(e.raw.content) }

// ContentGet looks up a gjson path in the content. The path must be a constant
// of the program, never a text from outside.
func (e *Event) ContentGet(path string) gjson.Result {
	return gjson.Get(view(e.ContentJSON()), path)
}

// ContentString returns the string at a gjson path of the content; "" when
// there is something else or nothing.
func (e *Event) ContentString(path string) string {
	if r := e.ContentGet(path); r.Type == gjson.String {
		return r.Str
	}
	return ""
}

// ContentField returns the value of a key of the content in canonical JSON, nil
// when absent. The key is compared exactly and may come from outside.
func (e *Event) ContentField(key string) json.RawMessage { return lookup(e.ContentJSON(), key) }

// SignatureKeyIDs returns the ids of the ed25519 keys with which a server claims
// to have signed the event.
func (e *Event) SignatureKeyIDs(server string) []string {
	return signatureKeyIDs(lookup(e.json, "signatures"), server)
}
