package slidingsync

import (
	"encoding/json"
	"slices"
	"strings"

	"knock/roomserver/store"
)

const typeMember = "m.room.member"

// pattern matches pieces of state. A nil part matches all.
type pattern struct {
	Type *string `json:"t,omitempty"`
	Key  *string `json:"k,omitempty"`
}

func (p pattern) matches(t store.Tuple) bool {
	return (p.Type == nil || *p.Type == t.Type) && (p.Key == nil || *p.Key == t.Key)
}

// required is the state that one list or subscription asks for. With Lazy,
// members are given only where events show them, or where a pattern names the
// type of their events.
type required struct {
	Include []pattern `json:"i,omitempty"`
	Exclude []pattern `json:"x,omitempty"`
	Lazy    bool      `json:"l,omitempty"`
}

func (q *required) matches(t store.Tuple) bool {
	for _, p := range q.Include {
		if !p.matches(t) || q.Lazy && t.Type == typeMember && p.Type == nil && p.Key == nil {
			continue
		}
		for _, x := range q.Exclude {
			if x.matches(t) {
				return false
			}
		}
		return true
	}
	return false
}

// allMembers reports whether all members' events are asked for.
func (q *required) allMembers() bool {
	return slices.ContainsFunc(q.Include, func(p pattern) bool {
		return p.Key == nil && (p.Type == nil && !q.Lazy || p.Type != nil && *p.Type == typeMember)
	})
}

// union is the state that all lists and subscriptions that match a room ask for
// together. Its text is the same for equal unions.
type union struct {
	text  string
	parts []required
	lazy  bool
	wide  bool // patterns match more than can be looked up by name
	all   bool // all members among it
}

func newUnion(parts []required, text string) *union {
	u := &union{text: text, parts: parts}
	for i := range parts {
		u.lazy = u.lazy || parts[i].Lazy
		u.all = u.all || parts[i].allMembers()
		for _, p := range parts[i].Include {
			u.wide = u.wide || p.Type == nil || p.Key == nil
		}
	}
	u.lazy = u.lazy && !u.all
	return u
}

func (u *union) matches(t store.Tuple) bool {
	for i := range u.parts {
		if u.parts[i].matches(t) {
			return true
		}
	}
	return false
}

// names are the pieces of state that are asked for by their full name, and the
// members by whom a key stands for any type.
func (u *union) names() (out []store.Tuple) {
	for i := range u.parts {
		for _, p := range u.parts[i].Include {
			switch {
			case p.Key == nil:
			case p.Type != nil:
				out = append(out, store.Tuple{Type: *p.Type, Key: *p.Key})
			case strings.HasPrefix(*p.Key, "@"):
				out = append(out, store.Tuple{Type: typeMember, Key: *p.Key})
			}
		}
	}
	return out
}

// canonical is the text of a required, the same whatever the order of patterns.
func (q *required) canonical() string {
	for _, list := range []*[]pattern{&q.Include, &q.Exclude} {
		slices.SortFunc(*list, comparePatterns)
		*list = slices.CompactFunc(*list, func(a, b pattern) bool { return comparePatterns(a, b) == 0 })
	}
	b, err := json.Marshal(q)
	if err != nil {
		return "" // it is of strings and a boolean: it cannot be
	}
	return string(b)
}

func comparePatterns(a, b pattern) int {
	if c := compareParts(a.Type, b.Type); c != 0 {
		return c
	}
	return compareParts(a.Key, b.Key)
}

func compareParts(a, b *string) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return strings.Compare(*a, *b)
}

// unionText joins canonical texts of which the newest may be there already.
func unionText(texts []string) string {
	slices.Sort(texts)
	return "[" + strings.Join(slices.Compact(texts), ",") + "]"
}

func parseUnion(text string) (*union, error) {
	var parts []required
	if err := json.Unmarshal([]byte(text), &parts); err != nil {
		return nil, err
	}
	return newUnion(parts, text), nil
}
