package sync

import (
	"slices"
	"strconv"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// heroList holds, for one state of a room, the first members in it and the first
// who are not any more (room summary, m.heroes), one more of each than an answer
// shows: nobody is a hero to themselves.
type heroList struct {
	set      *state.Set
	in, gone []string
}

const (
	maxHeroes   = 5
	heroChunk   = 32
	heroesTried = 2000 // member events that are looked at
)

// summarise makes the room's summary when something in it may have changed.
func (c *stateChange) summarise(changes []state.Entry, names map[int64]store.Tuple) error {
	if c.left != nil {
		return nil
	}
	if err := c.arrivals(changes, names); err != nil {
		return err
	}
	if !c.full && !slices.ContainsFunc(changes, func(e state.Entry) bool { return namesRoom(names[e.Tuple]) }) {
		return nil
	}
	named, err := c.named()
	if err != nil {
		return err
	}
	b := []byte(`"summary":{`)
	if !named {
		if c.heroes, err = c.findHeroes(); err != nil {
			return err
		}
		b = append(b, `"m.heroes":[`...)
		for _, user := range c.heroes {
			b = append(event.AppendString(b, user), ',')
		}
		b = append(closed(b, ']'), ',')
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

func (c *stateChange) findHeroes() ([]string, error) {
	list, ok := c.a.heroes.Get(c.key.NID)
	if set := c.after.State.Set; !ok || list.set != set {
		var err error
		if list, err = c.a.scanHeroes(c.tx, c.key.NID, set); err != nil {
			return nil, err
		}
		c.a.heroes.Put(c.key.NID, list)
	}
	if in := c.a.firstOthers(list.in); len(in) > 0 {
		return in, nil
	}
	return c.a.firstOthers(list.gone), nil
}

// firstOthers returns the first five who are not the user.
func (a *answer) firstOthers(list []string) []string {
	out := make([]string, 0, maxHeroes)
	for _, user := range list {
		if user != a.q.user && len(out) < maxHeroes {
			out = append(out, user)
		}
	}
	return out
}

// scanHeroes looks at the member events of a state in the order in which they
// came.
func (a *answer) scanHeroes(tx *sqldb.Tx, room int64, set *state.Set) (heroList, error) {
	list := heroList{set: set}
	nids, err := a.memberEvents(tx, room, set)
	if err != nil {
		return list, err
	}
	for chunk := range slices.Chunk(nids[:min(len(nids), heroesTried)], heroChunk) {
		events, err := a.o.Rooms.Store.InOrder(tx, chunk)
		if err != nil {
			return list, err
		}
		for _, e := range events {
			list.add(e)
		}
		if len(list.in) > maxHeroes {
			break
		}
	}
	return list, nil
}

func (l *heroList) add(e *store.Stored) {
	user, _ := e.Event.Key()
	to := &l.gone
	if m := auth.Membership(e.Event); m == auth.Join || m == auth.Invite {
		to = &l.in
	}
	if len(*to) <= maxHeroes {
		*to = append(*to, user)
	}
}

// memberEvents returns the numbers of a state's member events, oldest first.
func (a *answer) memberEvents(tx *sqldb.Tx, room int64, set *state.Set) ([]int64, error) {
	plain, err := a.plainState(tx, room, set)
	if err != nil {
		return nil, err
	}
	other := make(map[int64]bool, len(plain))
	for _, e := range plain {
		other[e.Tuple] = true
	}
	nids := make([]int64, 0, max(0, set.Len()-len(plain)))
	set.Each(func(e state.Entry) bool {
		if !other[e.Tuple] {
			nids = append(nids, e.Event)
		}
		return true
	})
	slices.Sort(nids)
	return nids, nil
}
