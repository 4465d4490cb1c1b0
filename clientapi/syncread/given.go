package syncread

import "sync"

// Given remembers which member events a client that loads members lazily has
// been given, so that they are not given again. It may forget: then a member
// event is redundant, which is allowed. What an answer gives counts once the
// client has come back with that answer's token; a client that comes back with
// another one, as after a crash, is taken to remember nothing. The methods of a
// nil Given do nothing.
type Given[T comparable] struct {
	mu        sync.Mutex
	table     []uint32 // fingerprints of (room, member, event), each at a place of its own
	confirmed T        // with which the client came last
	offered   T        // next token of the newest answer
	pending   []uint64 // given with that answer
}

const (
	givenSlots = 2048
	maxPending = 4 * givenSlots
)

// Begin says that the client came with a token, the zero token when it has none.
func (g *Given[T]) Begin(since T) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var none T
	switch {
	case since != none && since == g.offered:
		for _, h := range g.pending {
			g.put(h)
		}
	case since == none || since != g.confirmed:
		g.table = nil
	}
	g.confirmed, g.offered, g.pending = since, none, nil
}

func (g *Given[T]) put(h uint64) {
	if g.table == nil {
		g.table = make([]uint32, givenSlots)
	}
	g.table[h%givenSlots] = uint32(h >> 32)
}

// Has reports whether the client has a member event, by its MemberHash.
func (g *Given[T]) Has(h uint64) bool {
	if g == nil {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.table != nil && g.table[h%givenSlots] == uint32(h>>32)
}

// Offer notes what an answer gives.
func (g *Given[T]) Offer(next T, given []uint64) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.offered, g.pending = next, given[:min(len(given), maxPending)]
}

// MemberHash mixes the numbers of a room, a member's tuple and an event. It is
// never 0 in its upper half, which stands for nothing.
func MemberHash(room, tuple, event int64) uint64 {
	h := uint64(room)*0x9e3779b97f4a7c15 ^ uint64(tuple)*0xc2b2ae3d27d4eb4f ^ uint64(event)*0x165667b19e3779f9
	h ^= h >> 31
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 29
	return h | 1<<32
}
