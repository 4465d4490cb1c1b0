package sync

import (
	"slices"
	"strconv"

	"knock/clientapi/syncread"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// summarise makes the room's summary when something in it may have changed.
func (c *stateChange) summarise(changes []state.Entry, names map[int64]store.Tuple) error {
	if c.left != nil {
		return nil
	}
	if err := c.arrivals(changes, names); err != nil {
		return err
	}
	if !c.full && !c.learnt && !slices.ContainsFunc(changes, func(e state.Entry) bool { return namesRoom(names[e.Tuple]) }) {
		return nil
	}
	named, err := c.named()
	if err != nil {
		return err
	}
	b := []byte(`"summary":{`)
	if !named {
		if c.heroes, err = c.a.reader.Heroes(c.tx, c.key.NID, c.after.State.Set, c.a.q.user); err != nil {
			return err
		}
		b = append(syncread.AppendStrings(append(b, `"m.heroes":`...), c.heroes), ',')
	}
	b = strconv.AppendInt(append(b, `"m.joined_member_count":`...), int64(c.after.Joined), 10)
	b = strconv.AppendInt(append(b, `,"m.invited_member_count":`...), int64(c.after.Invited), 10)
	c.summary = append(b, "},"...)
	return nil
}

func namesRoom(t store.Tuple) bool {
	return t.Type == typeMember || t.Key == "" && (t.Type == typeName || t.Type == typeAlias)
}

// named reports whether the room has a name or an alias to show.
func (c *stateChange) named() (bool, error) {
	for _, s := range [][2]string{{typeName, "name"}, {typeAlias, "alias"}} {
		e, err := c.a.o.Rooms.StateEvent(c.tx, c.after, s[0], "")
		if err != nil || e != nil && e.Event.ContentString(s[1]) != "" {
			return err == nil, err
		}
	}
	return false, nil
}
