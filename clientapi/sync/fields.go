package sync

import (
	"strings"

	"github.com/tidwall/gjson"

	"knock/clientapi/syncread"
	"knock/roomserver/event"
)

// fields is a tree of the members of an event that a client wants
// (event_fields). A node without children is wanted whole.
type fields struct{ kids map[string]*fields }

const maxFieldDepth = 32

// fields reads dot-separated property paths (Appendices, "Dot-separated property paths").
func (c *compiler) fields(paths []string) *fields {
	root := &fields{kids: map[string]*fields{}}
	for _, path := range c.list(&paths) {
		parts := splitPath(path)
		if len(parts) > maxFieldDepth {
			c.fail("A path in event_fields is too deep")
			return root
		}
		root.add(parts)
	}
	return root
}

func (f *fields) add(parts []string) {
	for i, part := range parts {
		kid := f.kids[part]
		if kid == nil {
			kid = &fields{}
			if i < len(parts)-1 {
				kid.kids = map[string]*fields{}
			}
			f.kids[part] = kid
		}
		if i == len(parts)-1 {
			kid.kids = nil
		}
		if kid.kids == nil {
			return
		}
		f = kid
	}
}

// splitPath splits at dots; a backslash takes the next dot or backslash as it is.
func splitPath(path string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(path); i++ {
		switch {
		case path[i] == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			b.WriteByte(path[i])
		case path[i] == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(path[i])
		}
	}
	return append(parts, b.String())
}

// pick appends the wanted members of a JSON object.
func (f *fields) pick(dst []byte, object gjson.Result) []byte {
	dst = append(dst, '{')
	object.ForEach(func(key, val gjson.Result) bool {
		kid := f.kids[key.Str]
		switch {
		case kid == nil:
		case kid.kids == nil:
			dst = append(append(event.AppendString(dst, key.Str), ':'), val.Raw...)
			dst = append(dst, ',')
		case val.IsObject():
			dst = append(kid.pick(append(event.AppendString(dst, key.Str), ':'), val), ',')
		}
		return true
	})
	return syncread.Closed(dst, '}')
}
