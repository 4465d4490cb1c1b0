package pushrules

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"
)

// person is the user for whom a rule is evaluated.
type person struct{ id string }

// condition is one compiled condition of a rule.
type condition interface {
	match(s *subject, who person) bool
}

// never is an unrecognised or malformed condition.
type never struct{}

func (never) match(*subject, person) bool { return false }

// eventMatch is the condition event_match, and the pattern of a content rule.
type eventMatch struct {
	property property
	glob     glob
}

func (c *eventMatch) match(s *subject, _ person) bool {
	text, ok := s.text(c.property)
	return ok && c.glob.match(text)
}

// ownerMatch is event_match with the user's id as its pattern.
type ownerMatch struct{ property property }

func (c *ownerMatch) match(s *subject, who person) bool {
	text, ok := s.text(c.property)
	return ok && text == strings.ToLower(who.id)
}

// propertyIs is the condition event_property_is.
type propertyIs struct {
	property property
	value    gjson.Result
}

func (c *propertyIs) match(s *subject, _ person) bool {
	v, ok := s.property(c.property.path)
	return ok && same(v, c.value)
}

// propertyContains is the condition event_property_contains.
type propertyContains struct {
	property property
	value    gjson.Result
	owner    bool // the value is the user's id
}

func (c *propertyContains) match(s *subject, who person) bool {
	v, ok := s.property(c.property.path)
	if !ok || !v.IsArray() {
		return false
	}
	want := c.value
	if c.owner {
		want = gjson.Result{Type: gjson.String, Str: who.id}
	}
	found := false
	v.ForEach(func(_, element gjson.Result) bool {
		found = same(element, want)
		return !found
	})
	return found
}

// same compares two values exactly; compound values and numbers that canonical
// JSON does not know equal nothing.
func same(a, b gjson.Result) bool {
	if a.Type != b.Type {
		return false
	}
	switch a.Type {
	case gjson.String:
		return a.Str == b.Str
	case gjson.Number:
		x, okX := integer(a)
		y, okY := integer(b)
		return okX && okY && x == y
	case gjson.True, gjson.False, gjson.Null:
		return true
	}
	return false
}

// integer is a number in canonical JSON's range.
func integer(v gjson.Result) (int64, bool) {
	n, err := strconv.ParseInt(v.Raw, 10, 64)
	const limit = 1<<53 - 1
	return n, err == nil && n >= -limit && n <= limit
}

// displayName is the condition contains_display_name.
type displayName struct{}

func (displayName) match(s *subject, who person) bool {
	name := s.DisplayName(who.id)
	body, ok := s.text(bodyProperty)
	if !ok || name == "" {
		return false
	}
	// The name is matched as it is: its asterisks are not wildcards.
	return findLiteral(body, strings.ToLower(name))
}

func findLiteral(text, name string) bool {
	for from := 0; ; from++ {
		skip := strings.Index(text[from:], name)
		if skip < 0 {
			return false
		}
		from += skip
		if startsWord(text, from) && endsWord(text, from+len(name)) {
			return true
		}
	}
}

// memberCount is the condition room_member_count, as a range.
type memberCount struct{ min, max int }

func (c memberCount) match(s *subject, _ person) bool {
	return s.Members >= c.min && s.Members <= c.max
}

func parseMemberCount(is string) (memberCount, bool) {
	digits := strings.TrimLeft(is, "=<>")
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || digits[0] == '+' {
		return memberCount{}, false
	}
	switch is[:len(is)-len(digits)] {
	case "", "==":
		return memberCount{n, n}, true
	case "<":
		return memberCount{0, n - 1}, true
	case "<=":
		return memberCount{0, n}, true
	case ">":
		return memberCount{min(n, math.MaxInt-1) + 1, math.MaxInt}, true
	case ">=":
		return memberCount{n, math.MaxInt}, true
	}
	return memberCount{}, false
}

// notificationPermission is the condition sender_notification_permission.
type notificationPermission struct{ key string }

func (c notificationPermission) match(s *subject, _ person) bool { return s.CanNotify(c.key) }

var bodyProperty = newProperty("content.body")

// wireCondition is a condition in the API's shape.
type wireCondition struct {
	Kind    string          `json:"kind"`
	Key     *string         `json:"key"`
	Pattern *string         `json:"pattern"`
	Is      *string         `json:"is"`
	Value   json.RawMessage `json:"value"`
}

// compile returns the condition; never when it is malformed or unknown.
func (w *wireCondition) compile() condition {
	switch w.Kind {
	case "contains_display_name":
		return displayName{}
	case "room_member_count":
		if w.Is != nil {
			if c, ok := parseMemberCount(*w.Is); ok {
				return c
			}
		}
	case "event_match", "event_property_is", "event_property_contains", "sender_notification_permission":
		if w.Key != nil {
			return w.compileKeyed()
		}
	}
	return never{}
}

func (w *wireCondition) compileKeyed() condition {
	if w.Kind == "sender_notification_permission" {
		return notificationPermission{*w.Key}
	}
	p := newProperty(*w.Key)
	if w.Kind == "event_match" {
		if w.Pattern == nil {
			return never{}
		}
		return &eventMatch{p, newGlob(*w.Pattern, p.key == bodyProperty.key)}
	}
	value := gjson.ParseBytes(w.Value)
	if !value.Exists() || value.Type == gjson.JSON {
		return never{}
	}
	if w.Kind == "event_property_is" {
		return &propertyIs{p, value}
	}
	return &propertyContains{property: p, value: value}
}

// known reports whether the condition's kind is one of the specification's.
func (w *wireCondition) known() bool {
	switch w.Kind {
	case "contains_display_name", "room_member_count", "event_match", "event_property_is",
		"event_property_contains", "sender_notification_permission":
		return true
	}
	return false
}

// forOwner replaces the placeholder for the user's id; for default rules only.
func forOwner(c condition) condition {
	switch c := c.(type) {
	case *eventMatch:
		if len(c.glob.segments) == 1 && c.glob.segments[0] == strings.ToLower(owner) {
			return &ownerMatch{c.property}
		}
	case *propertyContains:
		c.owner = c.value.Str == owner
	}
	return c
}
