// Package stream owns positions in memory: which position is published, the
// newest position that concerns each local user and room, who shares a room,
// and whom a change wakes. It holds nothing that is not also in the database
// or worthless after a restart.
package stream

import (
	"context"
	"sync"
	"sync/atomic"
)

// Hub is the change bus. Writers call its Touch methods from the database
// writer's goroutine, in commit order, and Advance after each batch; waiting
// syncs wake only then, so a sync never sees half a batch.
type Hub struct {
	published atomic.Int64
	ephemeral atomic.Int64
	boot      int64

	mu    sync.RWMutex
	users map[string]*user
	rooms map[string]*room

	pendingMu sync.Mutex
	pending   []*user

	subsMu sync.Mutex
	subs   []*Subscription

	watchers []Watcher // set before there is anything to watch
}

// user is one local user's entry. Its rooms are guarded by Hub.mu.
type user struct {
	last  atomic.Int64 // newest durable position that concerns the user
	own   atomic.Int64 // newest one that concerns the user beside what happens in joined rooms
	eph   atomic.Int64 // newest ephemeral sequence that concerns the user
	rooms map[string]*room

	mu   sync.Mutex
	wake chan struct{} // closed to wake; nil when nobody waits
}

// room is one room with local members. Its users are guarded by Hub.mu.
type room struct {
	last  atomic.Int64 // newest timeline or state position
	users map[string]*user
}

// New returns a hub whose published position is pos, the highest committed one.
func New(pos int64) *Hub {
	h := &Hub{boot: pos, users: map[string]*user{}, rooms: map[string]*room{}}
	h.published.Store(pos)
	return h
}

// Published returns the published position: everything at or below it is
// committed and visible in every in-memory index.
func (h *Hub) Published() int64 { return h.published.Load() }

// Advance raises the published position and wakes whom the touches since the
// last call concern.
func (h *Hub) Advance(pos int64) {
	h.published.Store(pos)
	h.pendingMu.Lock()
	woken := h.pending
	h.pending = nil
	h.pendingMu.Unlock()
	for _, u := range woken {
		u.signal()
	}
}

// SetJoined records that a local user joined or left a room.
func (h *Hub) SetJoined(userID, roomID string, joined bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	u, r := h.userLocked(userID), h.roomLocked(roomID)
	if was := u.rooms[roomID] != nil; was != joined {
		for _, w := range h.watchers {
			w.Moved(userID, roomID, joined)
		}
	}
	if joined {
		u.rooms[roomID], r.users[userID] = r, u
		return
	}
	delete(u.rooms, roomID)
	delete(r.users, userID)
}

// JoinedRooms returns the rooms that a local user has joined, in no order.
func (h *Hub) JoinedRooms(userID string) []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	u := h.users[userID]
	if u == nil {
		return nil
	}
	rooms := make([]string, 0, len(u.rooms))
	for id := range u.rooms {
		rooms = append(rooms, id)
	}
	return rooms
}

// ChangedRooms returns the joined rooms of a local user whose timeline or state
// may have changed after the given position.
func (h *Hub) ChangedRooms(userID string, after int64) []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	u := h.users[userID]
	if u == nil {
		return nil
	}
	var rooms []string
	for id, r := range u.rooms {
		if r.last.Load() > after {
			rooms = append(rooms, id)
		}
	}
	return rooms
}

// JoinedUsers returns the local users who have joined a room, in no order.
func (h *Hub) JoinedUsers(roomID string) []string {
	h.mu.RLock()
	defer h.mu.RUnlock()
	r := h.rooms[roomID]
	if r == nil {
		return nil
	}
	users := make([]string, 0, len(r.users))
	for id := range r.users {
		users = append(users, id)
	}
	return users
}

// JoinedCount returns how many local users have joined a room.
func (h *Hub) JoinedCount(roomID string) int {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r := h.rooms[roomID]; r != nil {
		return len(r.users)
	}
	return 0
}

// IsJoined reports whether a local user has joined a room.
func (h *Hub) IsJoined(userID, roomID string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	u := h.users[userID]
	return u != nil && u.rooms[roomID] != nil
}

// ShareRoom reports whether two local users have joined a common room.
func (h *Hub) ShareRoom(a, b string) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	ua, ub := h.users[a], h.users[b]
	if ua == nil || ub == nil {
		return false
	}
	if len(ua.rooms) > len(ub.rooms) {
		ua, ub = ub, ua
	}
	for id := range ua.rooms {
		if ub.rooms[id] != nil {
			return true
		}
	}
	return false
}

// TouchTimeline records that a room's timeline or state changed at pos.
func (h *Hub) TouchTimeline(roomID string, pos int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r := h.rooms[roomID]; r != nil {
		raise(&r.last, pos)
		h.touchMembers(r, pos)
	}
}

// TouchRoom records that something other than the timeline, such as receipts,
// changed in a room at pos.
func (h *Hub) TouchRoom(roomID string, pos int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r := h.rooms[roomID]; r != nil {
		h.touchMembers(r, pos)
		for _, w := range h.watchers {
			w.RoomTouched(roomID, pos)
		}
	}
}

// TouchUser records that something at pos concerns one local user.
func (h *Hub) TouchUser(userID string, pos int64) {
	u := h.user(userID)
	raise(&u.own, pos)
	h.touch(u, pos)
	for _, w := range h.watchers {
		w.UserTouched(userID, pos)
	}
}

// TouchReader records that something of others whom a local user sees, such as
// their profiles, changed at pos.
func (h *Hub) TouchReader(userID string, pos int64) { h.touch(h.user(userID), pos) }

// TouchPeople is TouchReader for those who share a room with a local user, and
// for that user, as far as they are wanted.
func (h *Hub) TouchPeople(userID string, pos int64, wanted func(userID string) bool) {
	if wanted(userID) {
		h.TouchReader(userID, pos)
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	u := h.users[userID]
	if u == nil {
		return
	}
	for _, r := range u.rooms {
		for id, other := range r.users {
			if wanted(id) {
				h.touch(other, pos)
			}
		}
	}
}

// LastPersonal returns the highest position given to TouchUser for the user;
// after a start it is the position at that start.
func (h *Hub) LastPersonal(userID string) int64 { return h.user(userID).own.Load() }

// LastUser returns the highest position that concerns the user. After a start
// it is the position at that start, since older ones are not known.
func (h *Hub) LastUser(userID string) int64 { return h.user(userID).last.Load() }

func (h *Hub) touchMembers(r *room, pos int64) {
	for _, u := range r.users {
		h.touch(u, pos)
	}
}

func (h *Hub) touch(u *user, pos int64) {
	raise(&u.last, pos)
	if !u.waiting() {
		return
	}
	h.pendingMu.Lock()
	h.pending = append(h.pending, u)
	h.pendingMu.Unlock()
}

// NextEphemeral takes the next number of the ephemeral sequence of this start.
func (h *Hub) NextEphemeral() int64 { return h.ephemeral.Add(1) }

// Ephemeral returns the newest number of the ephemeral sequence.
func (h *Hub) Ephemeral() int64 { return h.ephemeral.Load() }

// WakeRoom wakes a room's local members for an ephemeral change.
func (h *Hub) WakeRoom(roomID string, eph int64) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if r := h.rooms[roomID]; r != nil {
		for _, u := range r.users {
			u.wakeEphemeral(eph)
		}
		for _, w := range h.watchers {
			w.RoomTouched(roomID, 0)
		}
	}
}

// WakeUser wakes one local user for an ephemeral change.
func (h *Hub) WakeUser(userID string, eph int64) {
	h.user(userID).wakeEphemeral(eph)
	for _, w := range h.watchers {
		w.UserTouched(userID, 0)
	}
}

// Wait returns true as soon as something newer than the durable position pos or
// the ephemeral sequence eph concerns the user, and false when ctx ends first.
// It may return true for a change that the caller then filters out.
func (h *Hub) Wait(ctx context.Context, userID string, pos, eph int64) bool {
	u := h.user(userID)
	for {
		woken := u.channel()
		if h.ready(u, pos, eph) {
			return true
		}
		select {
		case <-woken:
		case <-ctx.Done():
			return false
		}
	}
}

// Ready reports what Wait would return at once.
func (h *Hub) Ready(userID string, pos, eph int64) bool { return h.ready(h.user(userID), pos, eph) }

func (h *Hub) ready(u *user, pos, eph int64) bool {
	return u.eph.Load() > eph || u.last.Load() > pos && h.published.Load() > pos
}

func (h *Hub) user(id string) *user {
	h.mu.RLock()
	u := h.users[id]
	h.mu.RUnlock()
	if u != nil {
		return u
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.userLocked(id)
}

func (h *Hub) userLocked(id string) *user {
	u := h.users[id]
	if u == nil {
		u = &user{rooms: map[string]*room{}}
		u.last.Store(h.boot)
		u.own.Store(h.boot)
		h.users[id] = u
	}
	return u
}

func (h *Hub) roomLocked(id string) *room {
	r := h.rooms[id]
	if r == nil {
		r = &room{users: map[string]*user{}}
		r.last.Store(h.boot)
		h.rooms[id] = r
	}
	return r
}

func (u *user) wakeEphemeral(eph int64) {
	raise(&u.eph, eph)
	u.signal()
}

func (u *user) waiting() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.wake != nil
}

func (u *user) channel() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wake == nil {
		u.wake = make(chan struct{})
	}
	return u.wake
}

func (u *user) signal() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.wake != nil {
		close(u.wake)
		u.wake = nil
	}
}

// raise sets v to n unless it is higher already.
func raise(v *atomic.Int64, n int64) {
	for {
		old := v.Load()
		if old >= n || v.CompareAndSwap(old, n) {
			return
		}
	}
}
