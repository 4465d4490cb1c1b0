package pushrules

import (
	"strings"

	"github.com/tidwall/gjson"
)

// Occurrence is an event on its way into a room's timeline, with what the rules
// ask about the room before it. The functions are called only while the method
// that the occurrence is given to runs.
type Occurrence struct {
	Room    string // room id
	RoomNID int64
	EventID string
	Sender  string
	JSON    []byte // the event without unsigned; valid JSON
	Members int    // joined members, those of other servers included

	Local        func(user string) bool                        // whether a user belongs to this server
	IsMember     func(user string) bool                        // whether a local user was joined before the event
	LocalMembers func() []string                               // the joined local users
	CanNotify    func(key string) bool                         // whether the sender's power level reaches notifications[key]
	DisplayName  func(user string) string                      // a local user's display name in the room
	Relation     func(eventID string) (relType, parent string) // the m.relates_to of an event of the room; may be nil
}

// subject is an occurrence with its properties, each looked up once.
type subject struct {
	*Occurrence
	root    map[string]gjson.Result
	content map[string]gjson.Result
	lower   map[string]string // by path: lower-cased strings
}

func newSubject(o *Occurrence) *subject {
	s := &subject{Occurrence: o, root: make(map[string]gjson.Result, 16), lower: map[string]string{}}
	gjson.ParseBytes(o.JSON).ForEach(func(k, v gjson.Result) bool {
		s.root[k.Str] = v
		return true
	})
	// The room id is not in every create event and the event id in few formats.
	s.root["room_id"] = gjson.Result{Type: gjson.String, Str: o.Room}
	s.root["event_id"] = gjson.Result{Type: gjson.String, Str: o.EventID}
	return s
}

// property returns the value at a path; false when there is none.
func (s *subject) property(path []string) (gjson.Result, bool) {
	v, ok := s.root[path[0]]
	if !ok || len(path) == 1 {
		return v, ok
	}
	if path[0] != "content" {
		return descend(v, path[1:])
	}
	if s.content == nil {
		s.content = members(v)
	}
	if v, ok = s.content[path[1]]; !ok {
		return v, false
	}
	return descend(v, path[2:])
}

// text returns the string at a path, lower-cased.
func (s *subject) text(p property) (string, bool) {
	if t, ok := s.lower[p.key]; ok {
		return t, true
	}
	v, ok := s.property(p.path)
	if !ok || v.Type != gjson.String {
		return "", false
	}
	t := strings.ToLower(v.Str)
	s.lower[p.key] = t
	return t, true
}

// str returns the string at a path, "" when there is none.
func (s *subject) str(path ...string) string {
	if v, ok := s.property(path); ok && v.Type == gjson.String {
		return v.Str
	}
	return ""
}

// members returns the members of an object; none when v is something else.
func members(v gjson.Result) map[string]gjson.Result {
	m := map[string]gjson.Result{}
	if v.IsObject() {
		v.ForEach(func(k, v gjson.Result) bool {
			m[k.Str] = v
			return true
		})
	}
	return m
}

// descend follows a path through objects only: arrays have no properties.
func descend(v gjson.Result, path []string) (gjson.Result, bool) {
	for _, name := range path {
		if !v.IsObject() {
			return v, false
		}
		found := false
		v.ForEach(func(k, member gjson.Result) bool {
			if k.Str == name {
				v, found = member, true
			}
			return !found
		})
		if !found {
			return v, false
		}
	}
	return v, true
}

// property is a dot-separated path, split (appendices, "Dot-separated property
// paths"). key is the path as written.
type property struct {
	key  string
	path []string
}

func newProperty(key string) property {
	p := property{key: key}
	var part strings.Builder
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			part.WriteByte(key[i])
		case c == '.':
			p.path = append(p.path, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	p.path = append(p.path, part.String())
	return p
}
