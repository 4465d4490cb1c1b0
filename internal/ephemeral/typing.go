package ephemeral

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"knock/internal/clock"
	"knock/internal/matrixerr"
)

// Bounds of typing notifications.
const (
	minTyping     = time.Second
	maxTyping     = 2 * time.Minute
	defaultTyping = 30 * time.Second
	remoteTyping  = time.Minute // other servers' users, whose EDUs say no time
	repeatTyping  = 25 * time.Second
	maxTypists    = 200  // in a room
	maxQuietRooms = 4096 // remembered after the last one stopped
	typingTick    = 500 * time.Millisecond
)

// Waker wakes syncs for changes that are not in the database.
type Waker interface {
	NextEphemeral() int64
	WakeRoom(room string, eph int64)
}

// TypingOptions are what a Typing needs.
type TypingOptions struct {
	Hub    Waker
	Clock  clock.Clock                  // nil: the system's
	Outbox Outbox                       // nil: nobody
	Member func(room, user string) bool // whether another server's user is joined; nil: always
	Local  func(room string) bool       // whether a room has local members; nil: always
}

// Typing knows who is typing where (Client-Server API, "Typing Notifications").
type Typing struct {
	o  TypingOptions
	mu sync.Mutex

	rooms map[string]*typingRoom
	last  int64 // newest change
	floor int64 // newest change of a room that is no longer remembered
}

type typingRoom struct {
	users map[string]*typist
	seq   int64 // newest change
}

type typist struct {
	until time.Time
	sent  time.Time // when other servers were told; zero for their own users
}

// NewTyping returns a Typing; Run ends what times out.
func NewTyping(o TypingOptions) *Typing {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Outbox == nil {
		o.Outbox = silent{}
	}
	return &Typing{o: o, rooms: map[string]*typingRoom{}}
}

// Set says that a local user, who is joined to the room, types for a time
// (0 means 30 s), or stopped.
func (t *Typing) Set(room, user string, typing bool, timeout time.Duration) {
	if timeout == 0 {
		timeout = defaultTyping
	}
	timeout = min(max(timeout, minTyping), maxTyping)
	tell, wake := t.set(room, user, typing, timeout, true)
	if tell {
		t.o.Outbox.Typing(room, user, typing, timeout)
	}
	t.wake(room, wake)
}

// Remote is Set for another server's user.
func (t *Typing) Remote(origin, room, user string, typing bool) error {
	if err := checkRemote(origin, user); err != nil {
		return err
	}
	if len(room) > maxID || t.o.Local != nil && !t.o.Local(room) {
		return matrixerr.NotFound("This server is not in the room")
	}
	if t.o.Member != nil && !t.o.Member(room, user) {
		return matrixerr.Forbidden("The user is not in the room")
	}
	_, wake := t.set(room, user, typing, remoteTyping, false)
	t.wake(room, wake)
	return nil
}

// EDU takes the content of an m.typing EDU.
func (t *Typing) EDU(origin string, content json.RawMessage) error {
	var c struct {
		Room   string `json:"room_id"`
		User   string `json:"user_id"`
		Typing bool   `json:"typing"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return matrixerr.BadJSON("m.typing has the wrong shape").With(err)
	}
	return t.Remote(origin, c.Room, c.User, c.Typing)
}

// set returns whether other servers should hear of it, and the number to wake
// the room with, 0 when nothing changed for its members.
func (t *Typing) set(room, user string, typing bool, timeout time.Duration, local bool) (tell bool, seq int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil {
		if !typing {
			return false, 0
		}
		r = &typingRoom{users: map[string]*typist{}}
		t.rooms[room] = r
	}
	was := r.users[user]
	if !typing {
		if was == nil {
			return false, 0
		}
		delete(r.users, user)
		return true, t.changed(r)
	}
	now := t.o.Clock()
	if was == nil {
		if len(r.users) >= maxTypists {
			return false, 0
		}
		r.users[user] = &typist{until: now.Add(timeout), sent: now}
		return true, t.changed(r)
	}
	was.until = now.Add(timeout)
	if tell = local && now.Sub(was.sent) >= repeatTyping; tell {
		was.sent = now
	}
	return tell, 0
}

func (t *Typing) changed(r *typingRoom) int64 {
	r.seq = t.o.Hub.NextEphemeral()
	t.last = r.seq
	return r.seq
}

func (t *Typing) wake(room string, seq int64) {
	if seq != 0 {
		t.o.Hub.WakeRoom(room, seq)
	}
}

// Since returns who is typing, sorted, for those rooms where it changed in
// (from, to] of the ephemeral sequence; nobody is an empty list. From 0 it leaves
// out rooms where nobody types.
func (t *Typing) Since(rooms []string, from, to int64) map[string][]string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last <= from {
		return nil
	}
	out := map[string][]string{}
	for _, id := range rooms {
		r := t.rooms[id]
		switch {
		case r == nil && from > 0 && from < t.floor:
			out[id] = []string{}
		case r == nil, r.seq <= from, r.seq > to, from == 0 && len(r.users) == 0:
		default:
			out[id] = r.names()
		}
	}
	return out
}

func (r *typingRoom) names() []string {
	names := make([]string, 0, len(r.users))
	for u := range r.users {
		names = append(names, u)
	}
	slices.Sort(names)
	return names
}

// Run ends what times out, until ctx ends.
func (t *Typing) Run(ctx context.Context) error {
	tick := time.NewTicker(typingTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			t.expire()
		}
	}
}

// expire ends what timed out and forgets quiet rooms when there are too many.
// Other servers time out by themselves.
func (t *Typing) expire() {
	for room, seq := range t.expired() {
		t.wake(room, seq)
	}
}

func (t *Typing) expired() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, wake, quiet := t.o.Clock(), map[string]int64{}, 0
	for id, r := range t.rooms {
		before := len(r.users)
		for u, typist := range r.users {
			if !now.Before(typist.until) {
				delete(r.users, u)
			}
		}
		if len(r.users) < before {
			wake[id] = t.changed(r)
		}
		if len(r.users) == 0 {
			quiet++
		}
	}
	if quiet > maxQuietRooms {
		t.forget()
	}
	return wake
}

// forget drops the rooms where nobody types. A sync from before the newest of
// their changes is told again that nobody does.
func (t *Typing) forget() {
	for id, r := range t.rooms {
		if len(r.users) == 0 {
			t.floor = max(t.floor, r.seq)
			delete(t.rooms, id)
		}
	}
}
