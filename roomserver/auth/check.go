package auth

import (
	"strings"

	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// check is one event under examination.
type check struct {
	e *event.Event
	s State
	p *Parsed
	v *event.Version
}

// Check applies the authorisation rules of the event's room version against the state. It returns *NotAllowed on
// refusal. The rule about the event's list of auth events is CheckAuthEvents.
func Check(e *event.Event, s State) error {
	return CheckParsed(e, s, parsedOf(s))
}

// CheckParsed is Check for callers that keep what Parse returned for the state.
func CheckParsed(e *event.Event, s State, p *Parsed) error {
	if e.Oversized() {
		return refuse("an id, the type or the state key is over 255 bytes")
	}
	if e.Type() == typeCreate {
		return checkCreate(e)
	}
	c := check{e: e, s: s, p: p, v: e.V()}
	if err := c.room(); err != nil {
		return err
	}
	switch {
	case e.Type() == typeAliases && c.v.AliasesAuth:
		return c.aliases()
	case e.Type() == typeMember:
		return c.member()
	}
	return c.send()
}

// checkCreate is rule 1.
func checkCreate(e *event.Event) error {
	v, content := e.V(), e.ContentJSON()
	if len(e.PrevEventIDs()) != 0 {
		return refuse("m.room.create has prev_events")
	}
	if v.DomainlessRoomIDs {
		if gjson.GetBytes(e.JSON(), "room_id").Exists() {
			return refuse("m.room.create has a room_id")
		}
	} else if d := event.ServerOf(e.Room()); d == "" || d != event.ServerOf(e.Sender()) {
		return refuse("the room id is not of the creator's server")
	}
	if version := gjson.GetBytes(content, "room_version"); version.Exists() {
		if _, known := event.GetVersion(version.Str); version.Type != gjson.String || !known {
			return refuse("the room version is not recognised")
		}
	}
	if !v.SenderIsCreator && !gjson.GetBytes(content, "creator").Exists() {
		return refuse("m.room.create names no creator")
	}
	if v.PrivilegedCreators {
		return checkAdditionalCreators(gjson.GetBytes(content, "additional_creators"))
	}
	return nil
}

func checkAdditionalCreators(list gjson.Result) error {
	if list.Exists() && !list.IsArray() {
		return refuse("additional_creators is not a list")
	}
	for _, user := range list.Array() {
		if user.Type != gjson.String || !event.ValidUserID(user.Str) {
			return refuse("additional_creators holds something else than user ids")
		}
	}
	return nil
}

// room is the rules about the room: there is an m.room.create, the event belongs to it, and m.federate lets it in.
func (c *check) room() error {
	create := c.p.create
	if create == nil {
		return refuse("the room has no m.room.create")
	}
	if create.Room() != c.e.Room() {
		return refuse("the event belongs to another room than its m.room.create")
	}
	if !c.p.federate && event.ServerOf(c.e.Sender()) != event.ServerOf(create.Sender()) {
		return refuse("the room does not federate")
	}
	return nil
}

// aliases is rule 4 of room versions 1 to 5.
func (c *check) aliases() error {
	key, isState := c.e.Key()
	if !isState || key != event.ServerOf(c.e.Sender()) {
		return refuse("m.room.aliases is not of the sender's server")
	}
	return nil
}

// membership is the user's membership in the state.
func (c *check) membership(user string) string {
	return Membership(c.s.Lookup(typeMember, user))
}

// send is the rules for everything but creation, aliases and memberships.
func (c *check) send() error {
	sender, evType := c.e.Sender(), c.e.Type()
	if c.membership(sender) != Join {
		return refuse("the sender is not in the room")
	}
	level := c.p.powers.UserLevel(sender)
	if evType == typeThirdPartyInvite {
		if level < c.p.powers.Invite() {
			return refuse("the sender may not invite")
		}
		return nil
	}
	key, isState := c.e.Key()
	if level < c.p.powers.EventLevel(evType, isState) {
		return refuse("the sender has level %d, %s needs %d", level, evType, c.p.powers.EventLevel(evType, isState))
	}
	if isState && strings.HasPrefix(key, "@") && key != sender {
		return refuse("the state key is another user's")
	}
	switch {
	case evType == typePowerLevels:
		return c.powerLevels(level)
	case evType == typeRedaction && c.v.RedactionAuth:
		return c.redaction(level)
	}
	return nil
}

// redaction is rule 11 of room versions 1 and 2.
func (c *check) redaction(level int64) error {
	if level >= c.p.powers.Redact() {
		return nil
	}
	if d := event.ServerOf(c.e.EventID()); d != "" && d == event.ServerOf(c.e.RedactsID()) {
		return nil
	}
	return refuse("the sender may not redact others' events")
}

// MayRedact says whether an accepted redaction takes effect on the event that it names ("Handling redactions"), given
// the powers before the redaction. In room versions 1 and 2 the rules decide that already.
func MayRedact(redaction, target *event.Event, powers Powers) bool {
	if target.Room() != redaction.Room() {
		return false
	}
	if redaction.V().RedactionAuth {
		return true
	}
	return powers.UserLevel(redaction.Sender()) >= powers.Redact() || event.ServerOf(redaction.Sender()) == event.ServerOf(target.Sender())
}
