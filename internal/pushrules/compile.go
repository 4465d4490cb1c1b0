package pushrules

import (
	"encoding/json"

	"github.com/tidwall/gjson"
)

// compileDefault compiles a default rule with the user's changes to it.
func compileDefault(d *defaultRule, actions json.RawMessage) *compiled {
	r := &compiled{id: d.id, scope: scopeClass, class: d.class}
	if d.conditions == "[]" {
		r.scope = scopeAll
	}
	for _, c := range compileConditions(json.RawMessage(d.conditions)) {
		r.conditions = append(r.conditions, forOwner(c))
	}
	r.outcome = outcomeOf(d.id, actions)
	return r
}

func compileConditions(raw json.RawMessage) []condition {
	if len(raw) == 0 {
		return nil
	}
	var wire []wireCondition
	if json.Unmarshal(raw, &wire) != nil {
		return []condition{never{}}
	}
	out := make([]condition, len(wire))
	for i := range wire {
		out[i] = wire[i].compile()
	}
	return out
}

func outcomeOf(id string, actions json.RawMessage) *Outcome {
	o, err := parseActions(actions)
	if err != nil {
		o = Outcome{}
	}
	o.Rule = id
	return &o
}

// compileCustom compiles a rule of the user's own.
func compileCustom(k Kind, c *customRule) *compiled {
	r := &compiled{id: c.ID, scope: scopeEvent, outcome: outcomeOf(c.ID, c.Actions)}
	switch k {
	case Content:
		pattern := ""
		if c.Pattern != nil {
			pattern = *c.Pattern
		}
		r.conditions = []condition{&eventMatch{bodyProperty, newGlob(pattern, true)}}
	case Room:
		r.scope, r.conditions = scopeRoom, []condition{&propertyIs{newProperty("room_id"), gjson.Result{Type: gjson.String, Str: c.ID}}}
	case Sender:
		r.conditions = []condition{&propertyIs{newProperty("sender"), gjson.Result{Type: gjson.String, Str: c.ID}}}
	default:
		r.conditions = compileConditions(c.Conditions)
		r.scope = scopeOf(r.conditions)
	}
	return r
}

func scopeOf(conditions []condition) scope {
	if len(conditions) == 0 {
		return scopeAll
	}
	for _, c := range conditions {
		if m, ok := c.(*eventMatch); !ok || m.property.key != "room_id" {
			return scopeEvent
		}
	}
	return scopeRoom
}

// addCustom adds what the index must know of a rule of the user's own.
func (k *keys) addCustom(kind Kind, c *customRule, r *compiled) {
	switch {
	case kind == Content:
		k.addToken(c.Pattern)
	case kind == Sender:
		k.senders = append(k.senders, c.ID)
	case r.scope == scopeEvent:
		k.every = true
	case !r.outcome.Notify: // events without a countable class do not notify anyway
	case kind == Room:
		k.rooms = append(k.rooms, c.ID)
	default:
		k.every = true
	}
}

func (k *keys) addToken(pattern *string) {
	if pattern == nil {
		return
	}
	if token := indexToken(*pattern); token != "" {
		k.tokens = append(k.tokens, token)
		return
	}
	k.every = true
}

// addDefault notes default rules that notify of events without a countable class.
func (k *keys) addDefault(r *compiled) {
	if r.outcome.Notify && (r.scope == scopeAll || r.class != 0 && !r.class.countable()) {
		k.every = true
	}
}

// compile returns a user's rules in order: the master rule, then for each kind
// the user's own and the default ones.
func compile(st *stored) *ruleset {
	rs := &ruleset{}
	rs.addDefaults(st, func(d *defaultRule) bool { return d.id == master })
	for k := Override; k < kinds; k++ {
		for i := range st.Custom[k] {
			c := &st.Custom[k][i]
			if c.Off {
				continue
			}
			r := compileCustom(k, c)
			rs.rules = append(rs.rules, r)
			rs.keys.addCustom(k, c, r)
		}
		rs.addDefaults(st, func(d *defaultRule) bool { return d.kind == k && d.id != master })
	}
	return rs
}

func (rs *ruleset) addDefaults(st *stored, which func(*defaultRule) bool) {
	for i := range defaultRules {
		d := &defaultRules[i]
		if !which(d) || !st.enabled(d) {
			continue
		}
		r := shared[i]
		if change := st.Default[d.id]; change.Actions != nil {
			r = compileDefault(d, change.Actions)
		}
		rs.rules = append(rs.rules, r)
		rs.keys.addDefault(r)
	}
}

// shared are the default rules as they come, compiled once for everybody, and
// unchanged is the ruleset of a user who changed nothing.
var (
	shared = func() []*compiled {
		out := make([]*compiled, len(defaultRules))
		for i := range defaultRules {
			out[i] = compileDefault(&defaultRules[i], json.RawMessage(defaultRules[i].actions))
		}
		return out
	}()
	unchanged = compile(&stored{})
)

// classify returns the default rules that the event matches.
func classify(s *subject) Class {
	var c Class
	for _, r := range shared {
		if r.class != 0 && r.match(s, person{}) {
			c |= r.class
		}
	}
	return c
}
