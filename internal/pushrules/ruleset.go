package pushrules

// scope says what a rule asks of an event, which decides whether the rule's
// effect on counts follows from the event's class and room.
type scope uint8

const (
	scopeClass scope = iota // a default rule: matches the classes with its bit
	scopeAll                // no conditions
	scopeRoom               // only the room id
	scopeEvent              // anything else: evaluated for each event
)

// compiled is one enabled rule, ready to be evaluated.
type compiled struct {
	id         string
	scope      scope
	class      Class
	conditions []condition
	outcome    *Outcome
}

func (r *compiled) match(s *subject, who person) bool {
	for _, c := range r.conditions {
		if !c.match(s, who) {
			return false
		}
	}
	return true
}

// matchClass is match for the events of a class in a room, as far as class and
// room alone decide.
func (r *compiled) matchClass(room *subject, class Class) bool {
	switch r.scope {
	case scopeClass:
		return r.class&class != 0
	case scopeAll:
		return true
	case scopeRoom:
		return r.match(room, person{})
	}
	return false
}

// ruleset is a user's enabled rules in the order in which they are checked, and
// the keys under which the index finds the user. It is immutable.
type ruleset struct {
	rules []*compiled
	keys  keys
}

// keys tell from which events a user may get an outcome that the event's class
// does not give.
type keys struct {
	tokens  []string // words of content rules
	senders []string // sender rules
	rooms   []string // rooms where events without a countable class may notify
	every   bool     // rules that nothing indexes
}

func (k *keys) empty() bool {
	return len(k.tokens) == 0 && len(k.senders) == 0 && len(k.rooms) == 0 && !k.every
}

// evaluate returns the outcome of the first rule that matches, or nil.
func (rs *ruleset) evaluate(s *subject, who person) *Outcome {
	for _, r := range rs.rules {
		if r.match(s, who) {
			return r.outcome
		}
	}
	return nil
}

// flags is the outcome of a countable class in a room, as flags.
func (rs *ruleset) flags(room *subject, class Class) int64 {
	if !class.countable() {
		return 0
	}
	return rs.outcome(room, class).flags()
}

// outcome is the outcome of a countable class in a room, when nothing but class
// and room decides.
func (rs *ruleset) outcome(room *subject, class Class) *Outcome {
	for _, r := range rs.rules {
		if r.matchClass(room, class) {
			return r.outcome
		}
	}
	return nil
}

// roomSubject is a subject of which only the room is known.
func roomSubject(room string) *subject {
	return newSubject(&Occurrence{Room: room, JSON: []byte("{}")})
}
