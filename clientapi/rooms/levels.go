package rooms

import (
	"context"
	"encoding/json"
	"maps"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// object is a JSON object whose members are looked at one by one.
type object map[string]json.RawMessage

// int returns a member that is a power level. Room versions before 10 took
// strings, too.
func (o object) int(key string, def int64) int64 {
	if n, ok := level(o[key]); ok {
		return n
	}
	return def
}

func level(raw json.RawMessage) (int64, bool) {
	text := string(raw)
	var quoted string
	if json.Unmarshal(raw, &quoted) == nil {
		text = strings.TrimSpace(quoted)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// levels returns a member that maps names to levels; what is none is left out.
func (o object) levels(key string) map[string]int64 {
	var raw map[string]json.RawMessage
	_ = json.Unmarshal(o[key], &raw) // older room versions are lenient about its shape
	out := make(map[string]int64, len(raw))
	for name, value := range raw {
		if n, ok := level(value); ok {
			out[name] = n
		}
	}
	return out
}

// checkLevels refuses power levels that list creators, who rank above all (room
// version 12).
func (a *API) checkLevels(ctx context.Context, user, room string, content json.RawMessage) error {
	if !a.o.Hub.IsJoined(user, room) {
		return notIn
	}
	create, err := a.s.CurrentState(ctx, room, "m.room.create", "")
	if err != nil || create == nil {
		return fail(err)
	}
	users := gjson.GetBytes(content, "users")
	for _, creator := range auth.Creators(create.Event) {
		if users.Get(gjson.Escape(creator)).Exists() {
			return matrixerr.InvalidParam(creator + " is a creator of the room and ranks above all power levels; leave them out of \"users\"")
		}
	}
	return nil
}

// newLevels are the power levels of a room that replaces another.
type newLevels struct {
	first   json.RawMessage // lets the creator set up the room
	lowered json.RawMessage // those of the old room, where first goes beyond; else nil
}

var levelNames = []string{"ban", "events_default", "invite", "kick", "redact", "state_default", "users_default"}

// newLevels carries the power levels over in a form that the new version takes.
func (o *oldRoom) newLevels(v *event.Version, creators []string) newLevels {
	content := object{}
	_ = json.Unmarshal(o.or("m.room.power_levels", "{}"), &content) // a state event's content is an object
	for _, name := range levelNames {
		if raw, ok := content[name]; ok {
			delete(content, name)
			if n, ok := level(raw); ok {
				content[name] = encode(n)
			}
		}
	}
	users, events := content.levels("users"), content.levels("events")
	maps.DeleteFunc(users, func(user string, _ int64) bool { return !event.ValidUserID(user) })
	if _, ok := content["notifications"]; ok {
		content["notifications"] = encode(content.levels("notifications"))
	}
	top := o.highest(content, users, events)
	if v.PrivilegedCreators {
		for _, creator := range append([]string{o.user}, creators...) {
			delete(users, creator)
		}
		if events["m.room.tombstone"] <= content.int("state_default", 50) {
			events["m.room.tombstone"] = max(150, content.int("state_default", 50)+1)
		}
		content["users"], content["events"] = encode(users), encode(events)
		return newLevels{first: encode(content)}
	}
	if o.powers.UserLevel(o.user) == auth.Infinite || o.content("m.room.power_levels") == nil {
		users[o.user] = max(100, top) // a creator whose level is not in the old room's event
	}
	content["events"] = encode(events)
	content["users"] = encode(users)
	final := encode(content)
	if users[o.user] >= top {
		return newLevels{first: final}
	}
	users[o.user] = top
	content["users"] = encode(users)
	return newLevels{first: encode(content), lowered: final}
}

// highest is a level with which all state can be set and all bans be repeated.
func (o *oldRoom) highest(content object, users, events map[string]int64) int64 {
	top := max(50, content.int("state_default", 50), content.int("ban", 50))
	for _, n := range events {
		top = max(top, n)
	}
	for _, t := range o.order {
		if o.banned(t) {
			top = max(top, users[t.Key]+1)
		}
	}
	return top
}
