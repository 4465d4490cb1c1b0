package pushrules

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"knock/internal/matrixerr"
)

// Outcome is what an event is to a user.
type Outcome struct {
	Notify    bool
	Highlight bool
	Sound     string                     // "" for none
	Tweaks    map[string]json.RawMessage // all tweaks, as a push gateway wants them
	Rule      string                     // id of the rule that decided; "" when none matched
}

// Actions are the outcome as the actions of a rule.
func (o *Outcome) Actions() json.RawMessage {
	actions := []any{}
	if o.Notify {
		actions = append(actions, "notify")
	}
	for _, name := range slices.Sorted(maps.Keys(o.Tweaks)) {
		actions = append(actions, map[string]any{"set_tweak": name, "value": o.Tweaks[name]})
	}
	raw, err := json.Marshal(actions)
	if err != nil {
		return json.RawMessage("[]") // the tweaks were JSON: it cannot be
	}
	return raw
}

// Flags of an outcome, as stored.
const (
	flagNotify    = 1
	flagHighlight = 2
)

func (o *Outcome) flags() int64 {
	switch {
	case o == nil || !o.Notify:
		return 0
	case o.Highlight:
		return flagNotify | flagHighlight
	}
	return flagNotify
}

// parseActions returns the outcome of a rule's actions. Errors are for the client.
func parseActions(raw json.RawMessage) (Outcome, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return Outcome{}, matrixerr.BadJSON("actions must be an array")
	}
	var o Outcome
	for _, action := range list {
		if err := o.apply(action); err != nil {
			return Outcome{}, err
		}
	}
	o.Highlight = o.Highlight && o.Notify
	return o, nil
}

// checkActions returns the actions as they are stored: all that were given, the
// historical ones too, which clients look for and which do nothing.
func checkActions(raw json.RawMessage) (json.RawMessage, error) {
	if _, err := parseActions(raw); err != nil {
		return nil, err
	}
	var compact bytes.Buffer
	err := json.Compact(&compact, raw)
	return compact.Bytes(), err
}

// apply adds one action to the outcome.
func (o *Outcome) apply(action json.RawMessage) error {
	var name string
	if json.Unmarshal(action, &name) == nil {
		switch name {
		case "notify":
			o.Notify = true
			return nil
		case "dont_notify", "coalesce":
			return nil
		}
		return matrixerr.InvalidParam(fmt.Sprintf("%q is not an action; use \"notify\" or an object with set_tweak", name))
	}
	var tweak struct {
		Name  string          `json:"set_tweak"`
		Value json.RawMessage `json:"value"`
	}
	if json.Unmarshal(action, &tweak) != nil || tweak.Name == "" {
		return matrixerr.InvalidParam("An action must be a string or an object with a set_tweak string")
	}
	o.setTweak(tweak.Name, tweak.Value)
	return nil
}

func (o *Outcome) setTweak(name string, value json.RawMessage) {
	if o.Tweaks == nil {
		o.Tweaks = map[string]json.RawMessage{}
	}
	switch name {
	case "highlight":
		if value == nil {
			value = json.RawMessage("true")
		}
		o.Highlight = string(value) == "true"
	case "sound":
		o.Sound = ""
		_ = json.Unmarshal(value, &o.Sound) // a sound that is no string is none
	}
	if value == nil {
		value = json.RawMessage("null")
	}
	o.Tweaks[name] = value
}
