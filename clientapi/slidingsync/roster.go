package slidingsync

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"knock/roomserver/store"
)

// bumpTypes are the events that move a room up in a client's list.
var bumpTypes = []string{"m.room.create", "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start", "m.beacon_info"}

// roster is all rooms of a user as they were at a position, newest activity
// first. It is immutable; the next one shares the entries that did not change.
type roster struct {
	at     int64
	order  []*entry
	direct map[string]bool // rooms in m.direct
}

// entry is a room of a user.
type entry struct {
	entryData
	facts atomic.Pointer[facts] // found when a filter first needs them
}

type entryData struct {
	key    store.RoomKey
	row    store.MemberRow
	sender string // of the member event, unless joined
	ended  bool   // kicked or banned while they were in it
	last   int64  // position of the newest event, or of the membership of who is not joined
	bump   int64  // the same of bumpTypes
	seen   int64  // something may have happened in it up to this position
	dm     bool
	tags   []string
}

func (e *entry) kind() kind {
	switch e.row.State {
	case store.Join:
		return joined
	case store.Invite, store.Knock:
		return outside
	}
	return gone
}

// roster returns the rooms of a user at a position, or a later one that another
// request has seen published already.
func (s *Sync) roster(ctx context.Context, user string, at int64) (*roster, error) {
	old, ok := s.rosters.Get(user)
	if ok && old.at >= at {
		return old, nil
	}
	if !ok {
		old = &roster{}
	}
	u := &update{Sync: s, user: user, old: old, next: &roster{at: at, order: old.order, direct: old.direct}, changed: map[int64]*entry{}}
	if err := u.run(ctx); err != nil {
		return nil, err
	}
	s.rosters.Put(user, u.next)
	return u.next, nil
}

// merged returns the order with entries added or replaced. Rooms that the user
// has forgotten are left out.
func merged(order []*entry, changed map[int64]*entry) []*entry {
	moved := make([]*entry, 0, len(changed))
	for _, e := range changed {
		if !e.row.Forgotten {
			moved = append(moved, e)
		}
	}
	slices.SortFunc(moved, byActivity)
	out := make([]*entry, 0, len(order)+len(moved))
	for _, e := range order {
		if changed[e.key.NID] != nil {
			continue
		}
		for len(moved) > 0 && byActivity(moved[0], e) < 0 {
			out, moved = append(out, moved[0]), moved[1:]
		}
		out = append(out, e)
	}
	return append(out, moved...)
}

func byActivity(a, b *entry) int {
	return cmp.Or(cmp.Compare(b.last, a.last), cmp.Compare(b.key.NID, a.key.NID))
}
