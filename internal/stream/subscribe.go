package stream

import "sync/atomic"

// Kind says what a change is about.
type Kind uint8

// The kinds of changes that subscribers hear of.
const (
	// Timeline is an event that entered a room's timeline.
	Timeline Kind = iota
	// Membership is a timeline event that changed who is in the room.
	Membership
	// OutOfBand is a membership of a local user in a room that this server is not in. Its event has no place in a
	// timeline.
	OutOfBand
)

// Change is one durable change for background readers such as the federation
// sender. It says where to look; the truth is in the database.
type Change struct {
	Pos      int64
	Room     string
	EventNID int64
	Kind     Kind
}

// Subscription delivers changes to one background reader. Its queue is bounded:
// a reader that falls behind loses changes and sees Overflowed, then it must
// read again from its own saved position.
type Subscription struct {
	C        <-chan Change
	c        chan Change
	overflow atomic.Bool
}

// Overflowed reports, once, whether changes were dropped since the last call.
func (s *Subscription) Overflowed() bool { return s.overflow.Swap(false) }

// Subscribe adds a background reader with room for capacity changes.
func (h *Hub) Subscribe(capacity int) *Subscription {
	c := make(chan Change, capacity)
	s := &Subscription{C: c, c: c}
	h.subsMu.Lock()
	h.subs = append(h.subs, s)
	h.subsMu.Unlock()
	return s
}

// Emit hands a committed change to every subscriber without blocking.
func (h *Hub) Emit(change Change) {
	h.subsMu.Lock()
	defer h.subsMu.Unlock()
	for _, s := range h.subs {
		select {
		case s.c <- change:
		default:
			s.overflow.Store(true)
		}
	}
}

// Watcher hears of what syncs are woken for, beside events: who joins and leaves, and that something of a room or of a
// local user changed. A pos of 0 says that the change has no position and can be read at once; any other is read once it
// is published. The methods run under locks of the hub: they return at once and do not call it.
type Watcher interface {
	Moved(userID, roomID string, joined bool)
	RoomTouched(roomID string, pos int64)
	UserTouched(userID string, pos int64)
}

// Watch adds a watcher. Call it before memberships are loaded.
func (h *Hub) Watch(w Watcher) { h.watchers = append(h.watchers, w) }
