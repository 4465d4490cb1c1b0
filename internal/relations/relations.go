// Package relations owns which event relates to which (Client-Server API, "Forming relationships between events"): the
// rows that say so, written with each event, and what is read from them: bundled aggregations, the children of an event
// and the threads of a room. Whether a child counts is decided when it is read, by the event's own row: it must have a
// place in the same room's history and must not be redacted. So nothing has to be undone here.
package relations

import (
	"crypto/sha256"
	"slices"

	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// Types of relation that the server knows more about.
const (
	Annotation = "m.annotation"
	Replace    = "m.replace"
	Reference  = "m.reference"
	Thread     = "m.thread"
)

const maxRelType = 255 // bytes

// Relation is the m.relates_to of an event, as far as it has a rel_type.
type Relation struct {
	Type   string // rel_type
	Parent string // event_id
	Key    string // of annotations
}

// Of reads the relation of an event; ok is false when it has none that is valid.
func Of(e *event.Event) (r Relation, ok bool) { return parse(e.ContentField("m.relates_to")) }

// MaxNamed is how many rel_types or senders a filter may name.
const MaxNamed = 100

// HasType reports whether the rel_type of an event is one of only, nil being all, and none of not (MSC3874). Events
// without a relation have none: they are left out when only is given.
func HasType(e *event.Event, only, not []string) bool {
	if only == nil && len(not) == 0 {
		return true
	}
	r, _ := Of(e)
	return !slices.Contains(not, r.Type) && (only == nil || slices.Contains(only, r.Type))
}

func parse(relatesTo []byte) (r Relation, ok bool) {
	fields := gjson.ParseBytes(relatesTo)
	if !fields.IsObject() {
		return r, false
	}
	r = Relation{Type: text(fields, "rel_type"), Parent: text(fields, "event_id")}
	if r.Type == Annotation {
		r.Key = text(fields, "key")
	}
	return r, r.Type != "" && len(r.Type) <= maxRelType && event.ValidEventID(r.Parent)
}

func text(object gjson.Result, name string) string {
	if v := object.Get(name); v.Type == gjson.String {
		return v.Str
	}
	return ""
}

// keyOf is an event id as the id column of events has it; nil for one that the room version cannot have.
func keyOf(v *event.Version, id string) []byte {
	if !v.HashIDs() {
		return []byte(id)
	}
	if h, ok := event.HashOf(v, id); ok {
		return h[:]
	}
	return nil
}

// idOf is the inverse of keyOf.
func idOf(v *event.Version, key []byte) string {
	if v.HashIDs() && len(key) == 32 {
		return event.IDOf(v, [32]byte(key))
	}
	return string(key)
}

// mark is what two annotations have in common when one repeats the other.
func (r Relation) mark(sender, eventType string) []byte {
	if r.Type != Annotation {
		return []byte{}
	}
	h := sha256.New()
	for _, part := range []string{sender, eventType, r.Key} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return h.Sum(nil)[:16]
}
