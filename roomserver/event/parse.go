package event

import "bytes"

const (
	// MaxSize is the largest event in canonical JSON with its signatures, in bytes.
	MaxSize = 65536
	// maxRaw bounds what Parse looks at: white space, escapes and unsigned, which
	// the event does not keep, may make a text larger than MaxSize.
	maxRaw = 16 * MaxSize
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
