package slidingsync

import (
	"context"
	"slices"
	"strings"

	"knock/roomserver/store"
)

// bits is a set of lists.
type bits [2]uint64

func (b *bits) add(i int)     { b[i/64] |= 1 << (i % 64) }
func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

// target is a room that the request asks for, and why.
type target struct {
	e     *entry
	lists bits
	sub   bool
	want  *wanted

	found       bool   // the client was told of the room
	before, now record // what it was told, and will have been
	room        *room  // what may be told; nil: nothing
	later       bool   // left for the next answer
}

// from is the position after which the client knows nothing of the room.
func (t *target) from(since int64) int64 {
	if t.before.upto != 0 {
		return t.before.upto
	}
	return since
}

// wanted is what the lists and the subscription that match a room ask for
// together.
type wanted struct {
	limit int
	union *union
	index uint16 // of union in the draft; set by the first room that needs it
	known bool   // index is set
}

// sieve is a list's filter, made ready.
type sieve struct {
	*filter
	spaces map[string]bool // rooms in the wanted spaces; nil: no such filter
}

// match finds the rooms that the request asks for, newest activity first, and
// counts the lists.
func (a *answer) match(ctx context.Context) error {
	sieves, err := a.sieves(ctx)
	if err != nil {
		return err
	}
	a.counts = make([]int64, len(a.q.lists))
	wants := map[wantKey]*wanted{}
	var last target // most rooms are asked for as the one before
	for _, e := range a.roster.order {
		t := target{e: e}
		wanted := false
		if a.listed(e) {
			for i := range sieves {
				if !sieves[i].takes(e) {
					continue
				}
				wanted = true
				if a.q.lists[i].has(a.counts[i]) {
					t.lists.add(i)
				}
				a.counts[i]++
			}
		}
		if len(a.q.subs) > 0 && !a.hidden(e) {
			_, t.sub = a.q.subs[e.key.ID]
		}
		if wanted || t.sub {
			a.noteSticky(e)
		}
		switch {
		case !t.sub && t.lists == bits{}:
			continue
		case last.want != nil && !t.sub && !last.sub && t.lists == last.lists:
			t.want = last.want
		default:
			if t.want, err = a.combine(wants, &t); err != nil {
				return err
			}
		}
		last = t
		a.targets = append(a.targets, t)
	}
	return nil
}

// listed reports whether a room is in lists at all. Rooms that the user has left
// are until the client knows. Invites that the user does not want are not.
func (a *answer) listed(e *entry) bool {
	switch e.row.State {
	case store.Join, store.Knock:
		return true
	case store.Invite:
		return !a.hidden(e)
	}
	if e.ended {
		return true
	}
	i, ok := a.draft.base.find(e.key.NID)
	return ok && a.draft.base.rooms[i].kind != gone
}

// hidden reports whether a room is one to which the user does not want to be invited.
func (a *answer) hidden(e *entry) bool {
	return e.row.State == store.Invite && a.o.Accounts.HidesInvite(a.q.user, e.sender)
}

type wantKey struct {
	lists bits
	sub   string
}

// combine joins what is asked for of a room (MSC4186, "Combining room configs").
func (a *answer) combine(known map[wantKey]*wanted, t *target) (*wanted, error) {
	key := wantKey{lists: t.lists}
	if t.sub {
		key.sub = t.e.key.ID
	}
	if w := known[key]; w != nil {
		return w, nil
	}
	w := &wanted{}
	var texts []string
	add := func(c *config) {
		w.limit = max(w.limit, c.limit)
		texts = append(texts, c.text)
	}
	for i := range a.q.lists {
		if t.lists.has(i) {
			add(&a.q.lists[i].config)
		}
	}
	if c, ok := a.q.subs[t.e.key.ID]; ok && t.sub {
		add(&c)
	}
	text := unionText(texts)
	if a.unions[text] == nil {
		u, err := parseUnion(text)
		if err != nil {
			return nil, err
		}
		a.unions[text] = u
	}
	w.union = a.unions[text]
	known[key] = w
	return w, nil
}

// sieves gets the filters ready, with the facts that they need.
func (a *answer) sieves(ctx context.Context) ([]sieve, error) {
	out := make([]sieve, len(a.q.lists))
	facts, names := false, false
	for i := range a.q.lists {
		f := &a.q.lists[i].filter
		out[i].filter = f
		needs, name := f.needs()
		facts, names = facts || needs, names || name
		if f.spaces == nil {
			continue
		}
		out[i].spaces = map[string]bool{}
		for _, e := range a.roster.order {
			if e.row.State != store.Join || !slices.Contains(*f.spaces, e.key.ID) {
				continue
			}
			rooms, err := a.children(ctx, e)
			if err != nil {
				return nil, err
			}
			for id := range rooms {
				out[i].spaces[id] = true
			}
		}
	}
	if facts {
		return out, a.loadFacts(ctx, names)
	}
	return out, nil
}

// takes reports whether a room passes the filter.
func (s *sieve) takes(e *entry) bool {
	switch {
	case s.dm != nil && *s.dm != e.dm:
	case s.invited != nil && *s.invited != (e.row.State == store.Invite):
	case s.spaces != nil && !s.spaces[e.key.ID]:
	case s.tags != nil && !slices.ContainsFunc(*s.tags, e.tagged):
	case s.notTags != nil && slices.ContainsFunc(*s.notTags, e.tagged):
	default:
		return s.takesFacts(e.facts.Load())
	}
	return false
}

func (e *entry) tagged(tag string) bool { return slices.Contains(e.tags, tag) }

func (s *sieve) takesFacts(f *facts) bool {
	if needs, _ := s.needs(); !needs {
		return true
	}
	byState := s.encrypted != nil || s.types != nil || s.notTypes != nil
	sameType := func(t *string) bool { return t == nil && f.typ == nil || t != nil && f.typ != nil && *t == *f.typ }
	switch {
	case f == nil, byState && f.unknown:
	case s.encrypted != nil && *s.encrypted != f.encrypted:
	case s.types != nil && !slices.ContainsFunc(*s.types, sameType):
	case s.notTypes != nil && slices.ContainsFunc(*s.notTypes, sameType):
	default:
		return strings.Contains(f.name, s.name)
	}
	return false
}
