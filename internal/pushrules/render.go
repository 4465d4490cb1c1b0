package pushrules

import "encoding/json"

// Rule is a push rule in the API's shape (definitions/push_rule.yaml).
type Rule struct {
	ID         string          `json:"rule_id"`
	Default    bool            `json:"default"`
	Enabled    bool            `json:"enabled"`
	Conditions json.RawMessage `json:"conditions,omitempty"` // override and underride only
	Pattern    *string         `json:"pattern,omitempty"`    // content only
	Actions    json.RawMessage `json:"actions"`
}

// Ruleset is all of a user's rules by kind, in the order in which they are
// checked (definitions/push_ruleset.yaml).
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Global is the content of m.push_rules and of GET /pushrules/.
type Global struct {
	Global Ruleset `json:"global"`
}

func (st *stored) render(user string) Global {
	return Global{Ruleset{
		Override:  st.rules(Override, user),
		Content:   st.rules(Content, user),
		Room:      st.rules(Room, user),
		Sender:    st.rules(Sender, user),
		Underride: st.rules(Underride, user),
	}}
}

func (st *stored) rules(k Kind, user string) []Rule {
	out := []Rule{}
	if k == Override {
		out = append(out, st.defaultRule(&defaultRules[0], user))
	}
	for i := range st.Custom[k] {
		out = append(out, st.Custom[k][i].render(k))
	}
	for i := range defaultRules {
		if d := &defaultRules[i]; d.kind == k && d.id != master {
			out = append(out, st.defaultRule(d, user))
		}
	}
	return out
}

// rule returns one rule; false when there is none.
func (st *stored) rule(k Kind, id, user string) (Rule, bool) {
	if d := findDefault(k, id); d != nil {
		return st.defaultRule(d, user), true
	}
	if at := st.find(k, id); at >= 0 {
		return st.Custom[k][at].render(k), true
	}
	return Rule{}, false
}

func (st *stored) defaultRule(d *defaultRule, user string) Rule {
	r := Rule{ID: d.id, Default: true, Enabled: st.enabled(d),
		Conditions: d.conditionsFor(user), Actions: json.RawMessage(d.actions)}
	if changed := st.Default[d.id].Actions; changed != nil {
		r.Actions = changed
	}
	return r
}

func (c *customRule) render(k Kind) Rule {
	r := Rule{ID: c.ID, Enabled: !c.Off, Actions: c.Actions, Conditions: c.Conditions, Pattern: c.Pattern}
	if k.conditional() && r.Conditions == nil {
		r.Conditions = json.RawMessage("[]")
	}
	return r
}
