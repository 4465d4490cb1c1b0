package pushrules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"knock/internal/matrixerr"
)

// Limits of what a user may store.
const (
	maxRules    = 5000
	maxRowBytes = 512 << 10
	maxIDBytes  = 512
	maxPattern  = 512
)

// stored is what differs from the default rules: a user's row. The member names
// are short because every mute of every user has them.
type stored struct {
	Custom  [kinds][]customRule `json:"c,omitzero"` // by kind, most important first
	Default map[string]change   `json:"d,omitempty"`
}

// customRule is a rule of the user's own.
type customRule struct {
	ID         string          `json:"i"`
	Off        bool            `json:"o,omitempty"`
	Actions    json.RawMessage `json:"a"`
	Conditions json.RawMessage `json:"c,omitempty"`
	Pattern    *string         `json:"p,omitempty"`
}

// change is what the user changed in a default rule.
type change struct {
	Enabled *bool           `json:"e,omitempty"`
	Actions json.RawMessage `json:"a,omitempty"`
}

func decode(data []byte) (*stored, error) {
	st := &stored{}
	if len(data) == 0 {
		return st, nil
	}
	if err := json.Unmarshal(data, st); err != nil {
		return nil, fmt.Errorf("stored push rules: %w", err)
	}
	return st, nil
}

// encode returns the row, an error for the client when it is too large.
func (st *stored) encode() ([]byte, error) {
	n := 0
	for _, rules := range st.Custom {
		n += len(rules)
	}
	data, err := json.Marshal(st)
	if err == nil && (n > maxRules || len(data) > maxRowBytes) {
		err = matrixerr.TooLarge("You have too many push rules; delete some first")
	}
	return data, err
}

// enabled reports whether a default rule is on.
func (st *stored) enabled(d *defaultRule) bool {
	if on := st.Default[d.id].Enabled; on != nil {
		return *on
	}
	return !d.disabled
}

func (st *stored) find(k Kind, id string) int {
	return slices.IndexFunc(st.Custom[k], func(c customRule) bool { return c.ID == id })
}

// Definition is the body of a request that makes or changes a rule
// (PUT /pushrules/global/{kind}/{ruleId}).
type Definition struct {
	Actions    json.RawMessage `json:"actions"`
	Conditions json.RawMessage `json:"conditions"`
	Pattern    *string         `json:"pattern"`
}

// check returns the rule that the definition makes. Errors are for the client.
func (d *Definition) check(k Kind, id string) (customRule, error) {
	c := customRule{ID: id}
	if err := checkID(id); err != nil {
		return c, err
	}
	if d.Actions == nil {
		return c, matrixerr.MissingParam("actions is missing")
	}
	var err error
	if c.Actions, err = checkActions(d.Actions); err != nil {
		return c, err
	}
	switch {
	case k == Content && d.Pattern == nil:
		return c, matrixerr.MissingParam("A content rule needs a pattern")
	case k == Content && len(*d.Pattern) > maxPattern:
		return c, matrixerr.InvalidParam(fmt.Sprintf("A pattern may have at most %d bytes", maxPattern))
	case k == Content:
		c.Pattern = d.Pattern
	case k.conditional() && d.Conditions != nil && string(d.Conditions) != "null":
		c.Conditions = d.Conditions
		return c, checkConditions(d.Conditions)
	}
	return c, nil
}

func checkID(id string) error {
	switch {
	case id == "" || len(id) > maxIDBytes:
		return matrixerr.InvalidParam(fmt.Sprintf("A rule id must have from 1 to %d bytes", maxIDBytes))
	case id[0] == '.':
		return matrixerr.InvalidParam("Rule ids that start with a dot are reserved for server-default rules")
	case strings.ContainsAny(id, `/\`):
		return matrixerr.InvalidParam("A rule id must not contain slashes or backslashes")
	}
	return nil
}

// checkConditions refuses what could never match by mistake. Kinds of condition
// that this version does not know are stored, and do not match.
func checkConditions(raw json.RawMessage) error {
	var list []wireCondition
	if err := json.Unmarshal(raw, &list); err != nil {
		return matrixerr.BadJSON("conditions must be an array of objects").With(err)
	}
	for i := range list {
		w := &list[i]
		if w.Kind == "" {
			return matrixerr.MissingParam("A condition needs a kind")
		}
		if _, bad := w.compile().(never); bad && w.known() {
			return matrixerr.InvalidParam(fmt.Sprintf("A condition of kind %s has missing or wrong parameters", w.Kind))
		}
		if w.Pattern != nil && len(*w.Pattern) > maxPattern {
			return matrixerr.InvalidParam(fmt.Sprintf("A pattern may have at most %d bytes", maxPattern))
		}
	}
	return nil
}

// put adds or changes a rule. before and after name a rule of the user's next to
// which it goes; before wins (PUT /pushrules/global/{kind}/{ruleId}).
func (st *stored) put(k Kind, id string, def *Definition, before, after string) error {
	c, err := def.check(k, id)
	if err != nil {
		return err
	}
	old := st.find(k, id)
	if old >= 0 {
		c.Off = st.Custom[k][old].Off
		if before == "" && after == "" {
			st.Custom[k][old] = c
			return nil
		}
	}
	at, err := st.place(k, id, before, after)
	if err != nil {
		return err
	}
	st.Custom[k] = slices.Insert(st.Custom[k], at, c)
	if old >= at {
		old++ // where the old one is now
	}
	if old >= 0 {
		st.Custom[k] = slices.Delete(st.Custom[k], old, old+1)
	}
	return nil
}

// place returns the index for a rule that goes before or after another.
func (st *stored) place(k Kind, id, before, after string) (int, error) {
	anchor, step := before, 0
	if before == "" {
		anchor, step = after, 1
	}
	if anchor == "" {
		return 0, nil
	}
	at := st.find(k, anchor)
	if at < 0 || anchor == id {
		return 0, matrixerr.Unknown(400, "before/after rule not found: "+anchor)
	}
	return at + step, nil
}

var errNoRule = matrixerr.NotFound("The push rule was not found.")

// copyRoom gives a room the rule of another that it replaces, unless it has one.
// It reports whether there was anything to do.
func (st *stored) copyRoom(from, to string) bool {
	at := st.find(Room, from)
	if at < 0 || st.find(Room, to) >= 0 {
		return false
	}
	rule := st.Custom[Room][at]
	rule.ID = to
	st.Custom[Room] = slices.Insert(st.Custom[Room], at, rule)
	return true
}

func (st *stored) delete(k Kind, id string) error {
	if findDefault(k, id) != nil {
		return matrixerr.InvalidParam("A server-default rule cannot be deleted; disable it instead")
	}
	at := st.find(k, id)
	if at < 0 {
		return errNoRule
	}
	st.Custom[k] = slices.Delete(st.Custom[k], at, at+1)
	return nil
}

func (st *stored) setEnabled(k Kind, id string, on bool) error {
	if at := st.find(k, id); at >= 0 {
		st.Custom[k][at].Off = !on
		return nil
	}
	return st.changeDefault(k, id, func(c *change) { c.Enabled = &on })
}

func (st *stored) setActions(k Kind, id string, actions json.RawMessage) error {
	actions, err := checkActions(actions)
	if err != nil {
		return err
	}
	if at := st.find(k, id); at >= 0 {
		st.Custom[k][at].Actions = actions
		return nil
	}
	return st.changeDefault(k, id, func(c *change) { c.Actions = actions })
}

func (st *stored) changeDefault(k Kind, id string, fn func(*change)) error {
	if findDefault(k, id) == nil {
		return errNoRule
	}
	c := st.Default[id]
	fn(&c)
	if st.Default == nil {
		st.Default = map[string]change{}
	}
	st.Default[id] = c
	return nil
}
