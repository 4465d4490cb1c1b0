package event

// redaction is the redaction algorithm of a room version: which keys survive.
type redaction struct {
	// legacyTop also keeps the top-level keys origin, membership and prev_state.
	legacyTop bool
	// content names the keys kept in the content of event types.
	content map[string][]string
	// wholeCreate keeps the content of m.room.create entirely.
	wholeCreate bool
	// signedInvite keeps third_party_invite of members, but only its key "signed".
	signedInvite bool
}

var powerKeys = []string{"ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default"}

func legacyContent(more map[string][]string) map[string][]string {
	keep := map[string][]string{
		"m.room.member":             {"membership"},
		"m.room.create":             {"creator"},
		"m.room.join_rules":         {"join_rule"},
		"m.room.power_levels":       powerKeys,
		"m.room.history_visibility": {"history_visibility"},
	}
	for typ, keys := range more {
		keep[typ] = append(keys, keep[typ]...)
	}
	return keep
}

// The algorithms, named after the room version that brought them.
var (
	redactionV1 = redaction{legacyTop: true, content: legacyContent(map[string][]string{"m.room.aliases": {"aliases"}})}
	redactionV6 = redaction{legacyTop: true, content: legacyContent(nil)}
	redactionV8 = redaction{legacyTop: true, content: legacyContent(map[string][]string{"m.room.join_rules": {"allow"}})}
	redactionV9 = redaction{legacyTop: true, content: legacyContent(map[string][]string{
		"m.room.join_rules": {"allow"},
		"m.room.member":     {"join_authorised_via_users_server"},
	})}
	redactionV11 = redaction{wholeCreate: true, signedInvite: true, content: legacyContent(map[string][]string{
		"m.room.join_rules":   {"allow"},
		"m.room.member":       {"join_authorised_via_users_server", "third_party_invite"},
		"m.room.power_levels": {"invite"},
		"m.room.redaction":    {"redacts"},
	})}
)

// keepsTop tells whether a top-level key survives.
func (r *redaction) keepsTop(key string) bool {
	switch key {
	case "event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures",
		"depth", "prev_events", "auth_events", "origin_server_ts":
		return true
	case "prev_state", "origin", "membership":
		return r.legacyTop
	}
	return false
}

// appendRedacted appends the redacted form of the canonical event b, whose
// members are list, with or without its signatures.
func (r *redaction) appendRedacted(dst, b []byte, list []field, typ string, signatures bool) []byte {
	dst = append(dst, '{')
	for _, f := range list {
		key := view(b[f.name:f.nameTo])
		if !r.keepsTop(key) || !signatures && key == "signatures" {
			continue
		}
		if key != "content" {
			dst = append(append(dst, b[f.name-1:f.end]...), ',')
			continue
		}
		dst = append(dst, `"content":`...)
		dst = append(r.appendContent(dst, b[f.val:f.end], typ), ',')
	}
	return closeObject(dst)
}

func (r *redaction) appendContent(dst, content []byte, typ string) []byte {
	keys := r.content[typ]
	if r.wholeCreate && typ == "m.room.create" {
		return append(dst, content...)
	}
	dst = append(dst, '{')
	if len(keys) == 0 || len(content) == 2 {
		return append(dst, '}')
	}
	var buf [16]field
	list, _ := fieldsOf(buf[:0], content)
	for _, f := range list {
		key := content[f.name:f.nameTo]
		if !oneOf(key, keys) {
			continue
		}
		val := content[f.val:f.end]
		if r.signedInvite && string(key) == "third_party_invite" {
			if val = signedOnly(val); val == nil {
				continue
			}
		}
		dst = append(append(dst, content[f.name-1:f.val]...), val...)
		dst = append(dst, ',')
	}
	return closeObject(dst)
}

// signedOnly is third_party_invite after redaction: an object with nothing but
// "signed". What is no object does not survive.
func signedOnly(invite []byte) []byte {
	if len(invite) < 2 || invite[0] != '{' {
		return nil
	}
	signed := lookup(invite, "signed")
	if signed == nil {
		return []byte("{}")
	}
	return append(append([]byte(`{"signed":`), signed...), '}')
}

func oneOf(key []byte, keys []string) bool {
	for _, k := range keys {
		if string(key) == k {
			return true
		}
	}
	return false
}

// closeObject replaces the comma after the last member, if any, by a bracket.
func closeObject(dst []byte) []byte {
	if dst[len(dst)-1] == ',' {
		dst[len(dst)-1] = '}'
		return dst
	}
	return append(dst, '}')
}

// Redact returns the event as it is after redaction. The id stays the same.
func (e *Event) Redact() *Event {
	var buf [24]field
	list, _ := fieldsOf(buf[:0], e.json)
	b := e.v.redaction.appendRedacted(make([]byte, 0, len(e.json)), e.json, list, e.typ, true)
	r, err := FromStored(e.v, e.id, b)
	if err != nil { // cannot be: all that read needs survives
		return e
	}
	r.redacted = true
	return r
}
