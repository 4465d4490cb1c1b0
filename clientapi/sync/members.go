package sync

import (
	"sync"
)

// device remembers which member events a device that loads members lazily has
// been given, so that they are not given again. It may forget: then a member
// event is redundant, which is allowed. What an answer gives counts once the
// client has come back with that answer's token; a client that comes back with
// another one, as after a crash, is taken to remember nothing.
type device struct {
	mu        sync.Mutex
	table     []uint32 // fingerprints of (room, member, event), each at a place of its own
	confirmed token    // with which the client came last
	offered   token    // next_batch of the newest answer
	pending   []uint64 // given with that answer
}

const (
	deviceSlots = 2048
	maxPending  = 4 * deviceSlots
)

// deviceOf returns what a device that loads members lazily remembers; nil for others.
func (s *Sync) deviceOf(q *request) *device {
	if !q.filter.state.lazy || q.filter.state.redundant {
		return nil
	}
	key := q.user + " " + q.device
	d, ok := s.devices.Get(key)
	if !ok {
		d = &device{}
		s.devices.Put(key, d)
	}
	d.begin(q)
	return d
}

func (d *device) begin(q *request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !q.initial && q.since == d.offered:
		for _, h := range d.pending {
			d.put(h)
		}
	case q.initial || q.since != d.confirmed:
		d.table = nil
	}
	d.confirmed, d.offered, d.pending = q.since, token{}, nil
}

func (d *device) put(h uint64) {
	if d.table == nil {
		d.table = make([]uint32, deviceSlots)
	}
	d.table[h%deviceSlots] = uint32(h >> 32)
}

// has reports whether the device has a member event.
func (d *device) has(h uint64) bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.table != nil && d.table[h%deviceSlots] == uint32(h>>32)
}

// offer notes what an answer gives.
func (d *device) offer(next token, given []uint64) {
	if d == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.offered, d.pending = next, given[:min(len(given), maxPending)]
}

// memberHash mixes the numbers of a room, a member's tuple and an event. It is
// never 0 in its upper half, which stands for nothing.
func memberHash(room, tuple, event int64) uint64 {
	h := uint64(room)*0x9e3779b97f4a7c15 ^ uint64(tuple)*0xc2b2ae3d27d4eb4f ^ uint64(event)*0x165667b19e3779f9
	h ^= h >> 31
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 29
	return h | 1<<32
}
