package event

import "strconv"

// reader goes through the members of an event; the first error stays.
type reader struct {
	e          *Event
	seen       uint
	auth, prev []byte
	err        error
}

// Required keys, as bits of reader.seen.
const (
	hasAuth = 1 << iota
	hasPrev
	hasContent
	hasDepth
	hasHashes
	hasTS
	hasSender
	hasSignatures
	hasType
	hasRoom
	hasEventID
)

// required are the keys that every event has, and their names for errors.
var required = [...]string{"auth_events", "prev_events", "content", "depth", "hashes", "origin_server_ts",
	"sender", "signatures", "type"}

// read fills the event from its members. Checked reading is for events from
// outside.
func (e *Event) read(list []field, check bool) error {
	r := reader{e: e}
	for _, f := range list {
		r.field(view(e.json[f.name:f.nameTo]), f)
	}
	if r.err != nil {
		return r.err
	}
	for i, name := range required {
		if r.seen&(1<<i) == 0 {
			return badField(name)
		}
	}
	e.oversized = max(len(e.typ), len(e.stateKey), len(e.sender), len(e.room)) > maxID
	e.readRedacts()
	if err := e.readRefs(r.auth, r.prev); err != nil {
		return err
	}
	if !check {
		return nil
	}
	return e.check(r.seen)
}

func (r *reader) field(key string, f field) {
	e := r.e
	val := e.json[f.val:f.end]
	at := rawValue{int32(f.val), int32(f.end)}
	switch key {
	case "auth_events":
		r.auth = r.kind(key, hasAuth, val, '[')
	case "prev_events":
		r.prev = r.kind(key, hasPrev, val, '[')
	case "content":
		r.kind(key, hasContent, val, '{')
		e.raw.content = at
	case "hashes":
		r.kind(key, hasHashes, val, '{')
	case "signatures":
		r.kind(key, hasSignatures, val, '{')
	case "depth":
		e.depth = r.integer(key, hasDepth, val)
	case "origin_server_ts":
		e.ts = r.integer(key, hasTS, val)
	case "sender":
		e.sender, e.raw.sender = r.text(key, hasSender, val), at
	case "type":
		e.typ, e.raw.typ = r.text(key, hasType, val), at
	case "room_id":
		e.room, e.raw.room = r.text(key, hasRoom, val), at
	case "event_id":
		if !e.v.HashIDs() {
			e.id = r.text(key, hasEventID, val)
		}
	case "state_key":
		e.stateKey, e.raw.stateKey = r.text(key, 0, val), at
		e.isState = true
	case "redacts":
		e.raw.redacts = at
	case stickyKey:
		e.raw.sticky = at
	}
}

func (r *reader) fail(key string) {
	if r.err == nil {
		r.err = badField(key)
	}
}

func (r *reader) kind(key string, bit uint, val []byte, open byte) []byte {
	r.seen |= bit
	if val[0] != open {
		r.fail(key)
		return nil
	}
	return val
}

func (r *reader) integer(key string, bit uint, val []byte) int64 {
	r.seen |= bit
	n, err := strconv.ParseInt(view(val), 10, 64)
	if err != nil {
		r.fail(key)
	}
	return n
}

func (r *reader) text(key string, bit uint, val []byte) string {
	r.seen |= bit
	s, ok := stringValue(val)
	if !ok {
		r.fail(key)
	}
	return s
}

// readRedacts finds what a redaction redacts. Elsewhere the key means nothing.
func (e *Event) readRedacts() {
	if e.typ != "m.room.redaction" {
		return
	}
	val := e.value(e.raw.redacts)
	if e.v.RedactsInContent {
		val = lookup(e.ContentJSON(), "redacts")
	}
	if id, ok := stringValue(val); ok && ValidEventID(id) {
		e.redacts = id
	}
}
