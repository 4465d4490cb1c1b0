package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"slices"

	"knock/roomserver/event"
	"knock/roomserver/state"
)

// block is the conflicting events of one type and state key.
type block struct {
	tuple  int64
	evType string
	events []dated
}

// dated is an event with what orders it in v1.
type dated struct {
	id    int64
	depth int64
	hash  [sha1.Size]byte
}

// resolveV1 is state resolution v1. Blocks of one pass do not see one another's outcome.
func (r *resolver) resolveV1(p *partition) (*state.Set, error) {
	blocks, err := r.blocks(p)
	if err != nil {
		return nil, err
	}
	room := newRoom(r, p.unconflicted)
	for _, pass := range []string{"m.room.power_levels", "m.room.join_rules", "m.room.member", ""} {
		outcome := map[int64]int64{}
		for _, b := range blocks {
			if b.pass() != pass {
				continue
			}
			if pass == "" {
				outcome[b.tuple], err = room.pickNewest(b)
			} else {
				outcome[b.tuple], err = room.pickLastAllowed(b)
			}
			if err != nil {
				return nil, err
			}
		}
		for tuple, id := range outcome {
			room.changes[tuple] = id
		}
	}
	return room.onTopOf(p.unconflicted), nil
}

// pass names the pass that settles the block.
func (b *block) pass() string {
	switch b.evType {
	case "m.room.power_levels", "m.room.join_rules", "m.room.member":
		return b.evType
	}
	return ""
}

// blocks collects the conflicting events by tuple, ascending by depth, then descending by the hash of the event id.
func (r *resolver) blocks(p *partition) ([]*block, error) {
	byTuple := map[int64]*block{}
	var blocks []*block
	for _, id := range p.conflicted() {
		e, err := r.event(id)
		if err != nil {
			return nil, err
		}
		b := byTuple[r.src.Tuple(id)]
		if b == nil {
			b = &block{tuple: r.src.Tuple(id), evType: e.Type()}
			byTuple[b.tuple] = b
			blocks = append(blocks, b)
		}
		b.events = append(b.events, date(id, e))
	}
	for _, b := range blocks {
		slices.SortFunc(b.events, func(x, y dated) int {
			return cmp.Or(cmp.Compare(x.depth, y.depth), bytes.Compare(y.hash[:], x.hash[:]))
		})
	}
	return blocks, nil
}

func date(id int64, e *event.Event) dated {
	return dated{id: id, depth: e.Depth(), hash: sha1.Sum([]byte(e.EventID()))}
}

// pickLastAllowed starts from the oldest event and goes on as long as each is allowed with the one before in the state.
func (s *room) pickLastAllowed(b *block) (int64, error) {
	defer delete(s.changes, b.tuple)
	picked := b.events[0].id
	for _, next := range b.events[1:] {
		s.changes[b.tuple] = picked
		allowed, err := s.allows(next.id, false)
		if err != nil {
			return 0, err
		}
		if !allowed {
			break
		}
		picked = next.id
	}
	return picked, nil
}

// pickNewest picks the newest event that the state allows. The specification leaves open what holds when none is; the
// oldest does, as on other servers.
func (s *room) pickNewest(b *block) (int64, error) {
	for _, candidate := range slices.Backward(b.events) {
		allowed, err := s.allows(candidate.id, false)
		if err != nil {
			return 0, err
		}
		if allowed {
			return candidate.id, nil
		}
	}
	return b.events[0].id, nil
}
