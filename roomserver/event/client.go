package event

import (
	"encoding/json"
	"strconv"
)

// ClientOptions say what an event gets on its way to a client beyond its own
// fields: "room_id" and the parts of "unsigned" (client-server API, Room event
// format). What is empty is left out. Raw values must be valid JSON.
type ClientOptions struct {
	RoomID          bool // include room_id
	Age             int64
	HasAge          bool
	TransactionID   string
	PrevContent     json.RawMessage
	PrevSender      string
	ReplacesState   string
	Membership      string // of the user who asks, at the event
	RedactedBecause json.RawMessage
	Relations       json.RawMessage // m.relations, bundled aggregations
	Extra           []Field         // more keys of unsigned, none of the above
}

// Field is a key with a value that is JSON already.
type Field struct {
	Key   string
	Value json.RawMessage
}

// AppendClient appends the event in the client format, cut from its canonical
// bytes. A redaction shows what it redacts both at the top and in its content,
// whatever its room version.
func (e *Event) AppendClient(dst []byte, o ClientOptions) []byte {
	dst = e.appendClientContent(append(dst, `{"content":`...))
	dst = AppendString(append(dst, `,"event_id":`...), e.id)
	if e.raw.sticky.to > 0 {
		dst = append(append(AppendString(append(dst, ','), stickyKey), ':'), e.value(e.raw.sticky)...)
	}
	dst = strconv.AppendInt(append(dst, `,"origin_server_ts":`...), e.ts, 10)
	if e.redacts != "" {
		dst = AppendString(append(dst, `,"redacts":`...), e.redacts)
	}
	if o.RoomID {
		dst = AppendString(append(dst, `,"room_id":`...), e.room)
	}
	dst = append(append(dst, `,"sender":`...), e.value(e.raw.sender)...)
	if e.isState {
		dst = append(append(dst, `,"state_key":`...), e.value(e.raw.stateKey)...)
	}
	dst = append(append(dst, `,"type":`...), e.value(e.raw.typ)...)
	return append(o.appendUnsigned(dst), '}')
}

// appendClientContent gives redactions of older room versions "redacts" in the
// content as well.
func (e *Event) appendClientContent(dst []byte) []byte {
	content := e.ContentJSON()
	if e.redacts == "" || e.v.RedactsInContent || lookup(content, "redacts") != nil {
		return append(dst, content...)
	}
	dst = AppendString(append(dst, `{"redacts":`...), e.redacts)
	if len(content) > len("{}") {
		dst = append(dst, ',')
	}
	return append(dst, content[1:]...)
}

func (o *ClientOptions) appendUnsigned(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, `,"unsigned":{`...)
	if o.HasAge {
		dst = append(strconv.AppendInt(append(dst, `"age":`...), o.Age, 10), ',')
	}
	dst = appendText(dst, "transaction_id", o.TransactionID)
	dst = appendRaw(dst, "prev_content", o.PrevContent)
	dst = appendText(dst, "prev_sender", o.PrevSender)
	dst = appendText(dst, "replaces_state", o.ReplacesState)
	dst = appendText(dst, "membership", o.Membership)
	dst = appendRaw(dst, "redacted_because", o.RedactedBecause)
	dst = appendRaw(dst, "m.relations", o.Relations)
	for _, f := range o.Extra {
		dst = appendRaw(dst, f.Key, f.Value)
	}
	if dst[len(dst)-1] == '{' {
		return dst[:start]
	}
	return closeObject(dst)
}

// appendText and appendRaw append a member and a comma, or nothing.
func appendText(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	return append(AppendString(append(AppendString(dst, key), ':'), s), ',')
}

func appendRaw(dst []byte, key string, val json.RawMessage) []byte {
	if len(val) == 0 {
		return dst
	}
	return append(append(append(AppendString(dst, key), ':'), val...), ',')
}

// AppendStripped appends the event as stripped state: content, sender, state_key
// and type (client-server API, Stripped state).
func (e *Event) AppendStripped(dst []byte) []byte {
	dst = append(append(dst, `{"content":`...), e.ContentJSON()...)
	dst = append(append(dst, `,"sender":`...), e.value(e.raw.sender)...)
	if e.isState {
		dst = append(append(dst, `,"state_key":`...), e.value(e.raw.stateKey)...)
	}
	dst = append(append(dst, `,"type":`...), e.value(e.raw.typ)...)
	return append(dst, '}')
}
