package event

import "unicode/utf8"

// maxPrev and maxAuth bound prev_events and auth_events.
const maxPrev, maxAuth = 20, 10

// check holds an event from outside against the format of its room version.
func (e *Event) check(seen uint) error {
	if err := e.checkIDs(seen); err != nil {
		return err
	}
	if e.depth < 0 {
		return badField("depth")
	}
	if !e.v.References && len(e.refs)-e.auths > maxPrev {
		return badField("prev_events")
	}
	if !e.v.References && e.auths > maxAuth {
		return badField("auth_events")
	}
	if err := checkSize("type", e.typ); err != nil {
		return err
	}
	return checkSize("state_key", e.stateKey)
}

func (e *Event) checkIDs(seen uint) error {
	if err := e.checkRoom(seen&hasRoom != 0); err != nil {
		return err
	}
	if !userIDForm(e.sender) {
		return badField("sender")
	}
	if !e.v.HashIDs() && (!sigilForm(e.id, '$') || len(e.id) > maxID) {
		return badField("event_id")
	}
	return checkSize("sender", e.sender)
}

// checkRoom: from version 12 on the create event makes the room id and has none.
func (e *Event) checkRoom(has bool) error {
	ok := has && roomIDForm(e.room)
	if e.v.DomainlessRoomIDs {
		create := e.typ == "m.room.create" && e.StateKeyEquals("")
		ok = has != create && (create || hashRoomID(e.room))
	}
	if !ok {
		return badField("room_id")
	}
	return checkSize("room_id", e.room)
}

// checkSize refuses what is over 255 codepoints. What is over 255 bytes only makes
// the event oversized.
func checkSize(name, s string) error {
	if len(s) > maxID && utf8.RuneCountInString(s) > maxID {
		return tooLarge(name)
	}
	return nil
}
