package event

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

const (
	// MaxSize is the largest event in canonical JSON with its signatures, in bytes.
	MaxSize = 65536
	// maxRaw bounds what Parse looks at: white space, escapes and unsigned, which
	// the event does not keep, may make a text larger than MaxSize.
	maxRaw = 16 * MaxSize
	// maxPrev and maxAuth bound prev_events and auth_events.
	maxPrev, maxAuth = 20, 10
)

// Parse reads an event from outside: strict JSON, exact keys, no key twice, sizes
// and grammar checked. What does not belong to it (unsigned and keys that some
// servers leave behind) is dropped. When the content hash does not match, the
// result is the redacted copy. Signatures are not checked. Errors are *ParseError.
func Parse(v *Version, raw []byte) (*Event, error) {
	if len(raw) > maxRaw {
		return nil, tooLarge("")
	}
	// Room for the id, which is cut from the same memory.
	b, err := canonicalObject(make([]byte, 0, len(raw)+2*hashIDLen), raw, v.StrictJSON, v.drops)
	if err != nil {
		return nil, &ParseError{Err: err}
	}
	var buf [24]field
	list, _ := fieldsOf(buf[:0], b)
	e := &Event{v: v, json: b[:len(b):len(b)]}
	if err := e.read(list, true); err != nil {
		return nil, err
	}
	if !e.hashMatches(list) {
		return e.redactUnproven(list)
	}
	if len(b) > MaxSize {
		return nil, tooLarge("")
	}
	if v.HashIDs() {
		e.setHashID(b, referenceHash(v, b, list, e.typ))
	}
	return e, nil
}

// drops names the top-level keys that are no part of an event. Some servers have
// let their own bookkeeping slip into what they send.
func (v *Version) drops(name []byte) bool {
	switch string(name) {
	case "unsigned", "outlier", "destinations", "age_ts":
		return true
	case "event_id":
		return v.HashIDs()
	}
	return false
}

// redactUnproven makes the redacted copy of an event whose content hash does not
// match, before it has an id.
func (e *Event) redactUnproven(list []field) (*Event, error) {
	b := make([]byte, 0, len(e.json)+2*hashIDLen)
	b = e.v.redaction.appendRedacted(b, e.json, list, e.typ, true)
	if len(b) > MaxSize {
		return nil, tooLarge("")
	}
	list, _ = fieldsOf(list[:0], b)
	r := &Event{v: e.v, json: b[:len(b):len(b)], redacted: true}
	if err := r.read(list, true); err != nil {
		return nil, err
	}
	if e.v.HashIDs() {
		r.setHashID(b, referenceHash(e.v, b, list, r.typ))
	}
	return r, nil
}

// FromStored makes an event of canonical JSON that an Event gave us before, and
// keeps it: canonical must not change afterwards. Only what is needed to read it
// is checked.
func FromStored(v *Version, id string, canonical []byte) (*Event, error) {
	var buf [24]field
	list, ok := fieldsOf(buf[:0], canonical)
	if !ok {
		return nil, &ParseError{Err: ErrSyntax}
	}
	e := &Event{v: v, json: canonical[:len(canonical):len(canonical)]}
	if err := e.read(list, false); err != nil {
		return nil, err
	}
	e.id = id
	if e.room == "" && id != "" {
		e.room = "!" + id[1:]
	}
	return e, nil
}

// hashIDLen is the length of event ids that are hashes.
const hashIDLen = 44

// setHashID writes the id behind the JSON in memory if there is room for it, and
// the room id of a create event that is named by it.
func (e *Event) setHashID(b []byte, h [32]byte) {
	if cap(b)-len(b) < 2*hashIDLen {
		b = make([]byte, 0, 2*hashIDLen)
	}
	n := len(b)
	b = e.v.encoding().AppendEncode(append(b, '$'), h[:])
	e.id = view(b[n:])
	if e.room == "" {
		n = len(b)
		b = append(append(b, '!'), e.id[1:]...)
		e.room = view(b[n:])
	}
}

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

// check holds an event from outside against the format of its room version.
func (e *Event) check(seen uint) error {
	if err := e.checkIDs(seen); err != nil {
		return err
	}
	if e.depth < 0 {
		return badField("depth")
	}
	if !e.v.References && len(e.refs)-e.auths > maxPrev {
		return badField("prev_events")
	}
	if !e.v.References && e.auths > maxAuth {
		return badField("auth_events")
	}
	if err := checkSize("type", e.typ); err != nil {
		return err
	}
	return checkSize("state_key", e.stateKey)
}

func (e *Event) checkIDs(seen uint) error {
	if err := e.checkRoom(seen&hasRoom != 0); err != nil {
		return err
	}
	if !userIDForm(e.sender) {
		return badField("sender")
	}
	if !e.v.HashIDs() && (!sigilForm(e.id, '$') || len(e.id) > maxID) {
		return badField("event_id")
	}
	return checkSize("sender", e.sender)
}

// checkRoom: from version 12 on the create event makes the room id and has none.
func (e *Event) checkRoom(has bool) error {
	ok := has && roomIDForm(e.room)
	if e.v.DomainlessRoomIDs {
		create := e.typ == "m.room.create" && e.StateKeyEquals("")
		ok = has != create && (create || hashRoomID(e.room))
	}
	if !ok {
		return badField("room_id")
	}
	return checkSize("room_id", e.room)
}

// checkSize refuses what is over 255 codepoints. What is over 255 bytes only makes
// the event oversized.
func checkSize(name, s string) error {
	if len(s) > maxID && utf8.RuneCountInString(s) > maxID {
		return tooLarge(name)
	}
	return nil
}

// hashMatches compares the content hash with the event.
func (e *Event) hashMatches(list []field) bool {
	claimed, ok := stringValue(lookup(find(e.json, list, "hashes"), "sha256"))
	if !ok {
		return false
	}
	var buf [48]byte
	want, err := decodeBase64(buf[:0], claimed)
	h := contentHash(e.json, list)
	return err == nil && bytes.Equal(want, h[:])
}
