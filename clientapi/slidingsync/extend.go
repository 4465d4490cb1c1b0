package slidingsync

import (
	"context"
	"slices"

	"knock/clientapi/syncread"
	"knock/roomserver/event"
)

// scope is the rooms that an extension is wanted for.
type scope struct {
	lists bits
	subs  bool // all subscriptions
	rooms []string
}

func (a *answer) scope(x *extension) scope {
	s := scope{subs: x.rooms == nil || slices.Contains(*x.rooms, "*")}
	for i := range a.q.lists {
		if x.lists == nil || slices.Contains(*x.lists, a.q.lists[i].key) || slices.Contains(*x.lists, "*") {
			s.lists.add(i)
		}
	}
	if x.rooms != nil {
		s.rooms = *x.rooms
	}
	return s
}

func (s *scope) has(t *target) bool {
	for i, b := range s.lists {
		if b&t.lists[i] != 0 {
			return true
		}
	}
	return t.sub && s.subs || slices.Contains(s.rooms, t.e.key.ID)
}

// group is the rooms in the scope of an extension, by what the client knows.
type group struct {
	live  []string // everything up to the token
	stale []string // everything up to an earlier position, at least lowest
	fresh []string // nothing
	from  map[string]int64
}

func (g *group) empty() bool { return len(g.live) == 0 && !g.behind() }

// behind reports whether there are rooms of which something older is unknown.
func (g *group) behind() bool { return len(g.stale)+len(g.fresh) > 0 }

// lowest is the position from which something of the stale rooms may be unknown.
func (g *group) lowest() int64 {
	lowest := int64(0)
	for _, id := range g.stale {
		if from := g.from[id]; lowest == 0 || from < lowest {
			lowest = from
		}
	}
	return lowest
}

// group finds the rooms of an extension and notes that they will have been told.
// Those that are live are left out unless something of them may be new.
func (a *answer) group(x *extension, mark marks, joinedOnly, live bool) *group {
	g := &group{from: map[string]int64{}}
	if !x.enabled {
		return g
	}
	s := a.scope(x)
	for i := range a.targets {
		t := &a.targets[i]
		if t.later || joinedOnly && t.e.kind() != joined || !s.has(t) {
			continue
		}
		t.now.marks |= mark
		switch id := t.e.key.ID; {
		case !t.found || t.before.marks&mark == 0 || t.room != nil && t.room.initial:
			g.fresh = append(g.fresh, id)
		case t.before.upto != 0:
			g.stale, g.from[id] = append(g.stale, id), t.before.upto
		case live:
			g.live = append(g.live, id)
		}
	}
	return g
}

// extend reads what the extensions tell, but for receipts. It costs no SQL when
// nothing has happened since.
func (a *answer) extend(ctx context.Context) error {
	a.tellTyping()
	a.receipts = a.group(&a.q.ext.receipts, markReceipts, true, a.at.pos > a.q.since.pos)
	if err := a.tellData(ctx); err != nil {
		return err
	}
	if err := a.tellThreads(ctx); err != nil {
		return err
	}
	if a.o.Keys == nil {
		return nil
	}
	if err := a.tellMessages(ctx); err != nil {
		return err
	}
	return a.tellKeys(ctx)
}

// appendPart adds an extension's answer.
func (a *answer) appendPart(name string, content []byte) {
	a.parts = append(append(event.AppendString(a.parts, name), ':'), content...)
	a.parts = append(a.parts, ',')
}

// tellTyping tells who types. Who was told by another start of this node may
// believe of anybody that they still do, as may those for whom a room was out of
// view.
func (a *answer) tellTyping() {
	g := a.group(&a.q.ext.typing, markTyping, true, a.q.stale || a.at.eph > a.q.since.eph)
	if g.empty() {
		return
	}
	all := g.stale
	if a.q.stale {
		all = append(all, g.live...)
		g.live = nil
	}
	typing := map[string][]string{}
	for _, id := range all {
		typing[id] = []string{}
	}
	for _, part := range []map[string][]string{a.typingIn(all, 0), a.typingIn(g.fresh, 0), a.typingIn(g.live, a.q.since.eph)} {
		for id, users := range part {
			typing[id] = users
		}
	}
	if len(typing) == 0 {
		return
	}
	b := []byte(`{"rooms":{`)
	for id, users := range typing {
		users = slices.DeleteFunc(slices.Clone(users), a.q.ignores)
		b = append(append(event.AppendString(b, id), ':'), syncread.Typing(users)...)
		b = append(b, ',')
	}
	a.some = true
	a.appendPart("typing", append(syncread.Closed(b, '}'), '}'))
}

func (a *answer) typingIn(rooms []string, from int64) map[string][]string {
	if len(rooms) == 0 {
		return nil
	}
	return a.o.Typing.Since(rooms, from, a.at.eph)
}
