package auth

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// Infinite is the power level of room creators since room version 12. No level in an event reaches it.
const Infinite int64 = math.MaxInt64

// The levels of an m.room.power_levels event that stand alone, in the order of rule "added, changed or removed".
const (
	usersDefault = iota
	eventsDefault
	stateDefault
	banLevel
	redactLevel
	kickLevel
	inviteLevel
	scalarCount
)

var scalarNames = [scalarCount]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

var scalarDefaults = [scalarCount]int64{stateDefault: 50, banLevel: 50, redactLevel: 50, kickLevel: 50}

// levels is the content of one m.room.power_levels event.
type levels struct {
	scalars                      [scalarCount]int64
	present                      [scalarCount]bool
	users, events, notifications map[string]int64
	creators                     map[string]bool // above all levels
	founder                      string          // level 100, only while the room has no power levels
}

// Powers answers who may do what. The zero value is not useful; PowerLevels and Parsed.Powers make it. It is immutable.
type Powers struct{ l *levels }

// PowerLevels returns the power levels of a state, with the defaults of a room that has no m.room.power_levels.
func PowerLevels(s State) Powers { return parsedOf(s).powers }

// ParsePowers returns the powers that the two events of one state give; both may be nil.
func ParsePowers(create, powerLevels *event.Event) Powers {
	var p Parsed
	p.readCreate(create)
	return powersOf(&p, powerLevels)
}

// powersOf reads the levels leniently: an event in the state passed the rules when it came.
func powersOf(p *Parsed, powerLevels *event.Event) Powers {
	l := &levels{founder: p.founder, creators: p.creators, scalars: scalarDefaults}
	if powerLevels != nil {
		l, _ = parseLevels(powerLevels)
		l.creators = p.creators
	}
	return Powers{l}
}

// UserLevel returns the user's level, Infinite for creators since room version 12.
func (p Powers) UserLevel(user string) int64 {
	if p.l.creators[user] {
		return Infinite
	}
	if level, ok := p.l.users[user]; ok {
		return level
	}
	if p.l.founder != "" && user == p.l.founder {
		return 100
	}
	return p.l.scalars[usersDefault]
}

// IsCreator says whether the user is a creator with infinite power (room version 12).
func (p Powers) IsCreator(user string) bool { return p.l.creators[user] }

// EventLevel returns the level that sending an event of the type needs.
func (p Powers) EventLevel(evType string, isState bool) int64 {
	if level, ok := p.l.events[evType]; ok {
		return level
	}
	if isState {
		return p.l.scalars[stateDefault]
	}
	return p.l.scalars[eventsDefault]
}

// Notification returns the level that a notification of the kind ("room") needs; 50 unless set.
func (p Powers) Notification(kind string) int64 {
	if level, ok := p.l.notifications[kind]; ok {
		return level
	}
	return 50
}

// Invite returns the invite level.
func (p Powers) Invite() int64 { return p.l.scalars[inviteLevel] }

// Kick returns the kick level.
func (p Powers) Kick() int64 { return p.l.scalars[kickLevel] }

// Ban returns the ban level.
func (p Powers) Ban() int64 { return p.l.scalars[banLevel] }

// Redact returns the level that redacting another server's events needs.
func (p Powers) Redact() int64 { return p.l.scalars[redactLevel] }

// parseLevels reads an m.room.power_levels event by its room version. With an error it still returns what was well-formed.
func parseLevels(e *event.Event) (*levels, error) {
	l, v := &levels{scalars: scalarDefaults}, e.V()
	var failure error
	note := func(err error) {
		if failure == nil {
			failure = err
		}
	}
	gjson.ParseBytes(e.ContentJSON()).ForEach(func(key, value gjson.Result) bool {
		name := key.String()
		if i := slices.Index(scalarNames[:], name); i >= 0 {
			if level, ok := parseLevel(value, v); ok {
				l.scalars[i], l.present[i] = level, true
			} else {
				note(refuse("power level %q is not an integer", name))
			}
			return true
		}
		var err error
		switch name {
		case "users":
			if l.users, err = parseLevelMap(name, value, v); err == nil {
				err = checkUserKeys(l.users)
			}
		case "events":
			l.events, err = parseLevelMap(name, value, v)
		case "notifications":
			if l.notifications, err = parseLevelMap(name, value, v); !v.NotificationLevels {
				err = nil
			}
		}
		if err != nil {
			note(err)
		}
		return true
	})
	return l, failure
}

func parseLevelMap(name string, value gjson.Result, v *event.Version) (map[string]int64, error) {
	if !value.IsObject() {
		return nil, refuse("%q in the power levels is not an object", name)
	}
	m := map[string]int64{}
	var err error
	value.ForEach(func(key, value gjson.Result) bool {
		level, ok := parseLevel(value, v)
		if ok {
			m[key.String()] = level
		} else if err == nil {
			err = refuse("a power level in %q is not an integer", name)
		}
		return true
	})
	return m, err
}

func checkUserKeys(users map[string]int64) error {
	for user := range users {
		if !looksLikeUserID(user) {
			return refuse("a key of \"users\" in the power levels is not a user id")
		}
	}
	return nil
}

// parseLevel reads one level: integers alone since room version 10; before that strings that hold an integer and floats,
// which are cut at the decimal point, too.
func parseLevel(value gjson.Result, v *event.Version) (int64, bool) {
	if value.Type == gjson.String && !v.IntegerPowerLevels {
		return parseStringLevel(value.Str)
	}
	if value.Type != gjson.Number {
		return 0, false
	}
	if level, err := strconv.ParseInt(value.Raw, 10, 64); err == nil {
		return clamp(level), true
	}
	if v.IntegerPowerLevels {
		return 0, false
	}
	f, err := strconv.ParseFloat(value.Raw, 64)
	if err != nil {
		return 0, false
	}
	return clampFloat(f), true
}

func parseStringLevel(s string) (int64, bool) {
	digits := strings.TrimSpace(s)
	negative := strings.HasPrefix(digits, "-")
	if negative || strings.HasPrefix(digits, "+") {
		digits = digits[1:]
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	level, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		level = math.MaxInt64
	}
	if negative {
		level = -level
	}
	return clamp(level), true
}

// Levels beyond any sense are cut, so that none equals Infinite and negation never overflows.
const levelLimit = 1 << 62

func clamp(level int64) int64 { return max(-levelLimit, min(levelLimit, level)) }

func clampFloat(f float64) int64 { return int64(max(-levelLimit, min(levelLimit, f))) }
