package pushrules

import (
	"encoding/json"
	"fmt"

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

// parseActions returns the outcome of a rule's actions and the actions without
// the historical ones. Errors are for the client.
func parseActions(raw json.RawMessage) (Outcome, json.RawMessage, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		return Outcome{}, nil, matrixerr.BadJSON("actions must be an array")
	}
	var o Outcome
	kept := make([]json.RawMessage, 0, len(list))
	for _, action := range list {
		keep, err := o.apply(action)
		if err != nil {
			return Outcome{}, nil, err
		}
		if keep {
			kept = append(kept, action)
		}
	}
	o.Highlight = o.Highlight && o.Notify
	clean, err := json.Marshal(kept)
	return o, clean, err
}

// apply adds one action to the outcome. It reports false for the historical
// actions, which are dropped.
func (o *Outcome) apply(action json.RawMessage) (bool, error) {
	var name string
	if json.Unmarshal(action, &name) == nil {
		switch name {
		case "notify":
			o.Notify = true
			return true, nil
		case "dont_notify", "coalesce":
			return false, nil
		}
		return false, matrixerr.InvalidParam(fmt.Sprintf("%q is not an action; use \"notify\" or an object with set_tweak", name))
	}
	var tweak struct {
		Name  string          `json:"set_tweak"`
		Value json.RawMessage `json:"value"`
	}
	if json.Unmarshal(action, &tweak) != nil || tweak.Name == "" {
		return false, matrixerr.InvalidParam("An action must be a string or an object with a set_tweak string")
	}
	o.setTweak(tweak.Name, tweak.Value)
	return true, nil
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
