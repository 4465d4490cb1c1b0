package ephemeral

import (
	"container/list"
	"sync"
	"time"

	"knock/internal/clock"
	"knock/internal/matrixerr"
)

// Values of presence.
const (
	Online      = "online"
	Unavailable = "unavailable"
	Offline     = "offline"
)

// Times and bounds of presence (Client-Server API, "Presence").
const (
	idleAfter    = 5 * time.Minute  // online without activity becomes unavailable
	currentFor   = time.Minute      // after activity a user is currently active
	offlineAfter = 30 * time.Second // after the last /sync ended
	presenceTick = time.Second
	maxStatus    = 1024   // bytes
	maxRemote    = 50_000 // other servers' users
	maxPush      = 1000   // users in one EDU
)

// State is a user's presence.
type State struct {
	User            string
	Presence        string
	Status          string // "" for none
	LastActive      int64  // milliseconds since 1970; 0 when unknown
	CurrentlyActive bool
}

// Content is the state as the content of m.presence and of GET status, at a time
// in milliseconds.
func (s State) Content(now int64) Content {
	c := Content{Presence: s.Presence, Status: s.Status, CurrentlyActive: s.CurrentlyActive}
	if s.LastActive > 0 {
		ago := max(0, now-s.LastActive)
		c.LastActiveAgo = &ago
	}
	return c
}

// Content is what clients and servers are told of a user's presence.
type Content struct {
	Presence        string `json:"presence"`
	LastActiveAgo   *int64 `json:"last_active_ago,omitempty"`
	Status          string `json:"status_msg,omitempty"`
	CurrentlyActive bool   `json:"currently_active,omitempty"`
}

// Sharing tells who sees whom.
type Sharing interface {
	Waker
	WakeUser(user string, eph int64)
	JoinedRooms(user string) []string
	IsJoined(user, room string) bool
	ShareRoom(a, b string) bool
}

// PresenceOptions are what a Presence needs.
type PresenceOptions struct {
	Enabled bool
	Hub     Sharing
	Outbox  Outbox                     // nil: nobody
	Clock   clock.Clock                // nil: the system's
	Rooms   func(user string) []string // rooms with local members that another server's user is in; nil: none
}

// Presence knows who is online. It forgets at a restart.
type Presence struct {
	o  PresenceOptions
	mu sync.Mutex

	users  map[string]*list.Element // of *entry
	order  list.List                // newest change last
	remote int                      // entries of other servers' users
	dirty  map[string]*entry        // changed since the last flush
}

type entry struct {
	State
	remote bool
	device string // the one that was last active
	idle   bool   // unavailable because nothing happened, not by the client's wish
	seq    int64
	syncs  int   // /sync requests under way
	synced int64 // when the last one ended
}

// NewPresence returns a Presence; Run lets users go idle and offline, and tells
// others.
func NewPresence(o PresenceOptions) *Presence {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Outbox == nil {
		o.Outbox = silent{}
	}
	if o.Rooms == nil {
		o.Rooms = func(string) []string { return nil }
	}
	return &Presence{o: o, users: map[string]*list.Element{}, dirty: map[string]*entry{}}
}

// Enabled reports whether this server has presence.
func (p *Presence) Enabled() bool { return p.o.Enabled }

// Present returns the states of those of our users who are not offline; none when presence is switched off.
func (p *Presence) Present(users []string) (list []State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, user := range users {
		if el := p.users[user]; el != nil {
			if e := el.Value.(*entry); !e.remote && e.Presence != Offline {
				list = append(list, e.State)
			}
		}
	}
	return list
}

func valid(presence string) bool {
	return presence == Online || presence == Unavailable || presence == Offline
}

// Set is a local user's own word, on a device (PUT /presence/{userId}/status). A
// nil status leaves it as it was. Errors: M_FORBIDDEN (switched off),
// M_INVALID_PARAM.
func (p *Presence) Set(user, device, presence string, status *string) error {
	switch {
	case !p.o.Enabled:
		return matrixerr.Forbidden("Presence is switched off on this server")
	case !valid(presence):
		return matrixerr.InvalidParam("presence must be online, unavailable or offline")
	case status != nil && len(*status) > maxStatus:
		return matrixerr.InvalidParam("status_msg may have at most 1024 bytes")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entry(user)
	e.synced = p.o.Clock.Millis()
	now := e.State
	now.Presence, now.LastActive = presence, e.synced
	if status != nil {
		now.Status = *status
	}
	e.device, e.idle = device, false
	p.update(e, now)
	return nil
}

// Active says that a local user did something on a device, such as sending a
// message.
func (p *Presence) Active(user, device string) {
	if !p.o.Enabled {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entry(user)
	now := e.State
	now.Presence, now.LastActive = Online, p.o.Clock.Millis()
	e.device, e.idle, e.synced = device, false, now.LastActive
	p.update(e, now)
}

// Sync says that a local user's device syncs with a set_presence value ("" is
// online); call done when the request ends. "offline" changes nothing.
func (p *Presence) Sync(user, device, presence string) (done func()) {
	if presence == "" {
		presence = Online
	}
	if !p.o.Enabled || presence == Offline || !valid(presence) {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entry(user)
	e.syncs++
	p.synced(e, device, presence)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		e.syncs--
		e.synced = p.o.Clock.Millis()
	}
}

// synced takes a syncing client's wish. A client that says it is online does not
// undo idleness: that takes activity.
func (p *Presence) synced(e *entry, device, presence string) {
	now := e.State
	switch {
	case presence == Unavailable && e.CurrentlyActive && e.device != device: // another device is in use
	case presence == Unavailable:
		now.Presence, e.idle = Unavailable, false
	case presence == Online && e.Presence == Offline:
		now.Presence, now.LastActive, e.device = Online, p.o.Clock.Millis(), device
	case presence == Online && e.Presence == Unavailable && !e.idle:
		now.Presence = Online
	}
	p.update(e, now)
}

// Get returns a user's presence as another may see it.
// Errors: M_FORBIDDEN when they share no room, or presence is switched off.
func (p *Presence) Get(viewer, user string) (State, error) {
	if !p.o.Enabled {
		return State{}, matrixerr.Forbidden("Presence is switched off on this server")
	}
	p.mu.Lock()
	el := p.users[user]
	s := State{User: user, Presence: Offline}
	if el != nil {
		s = el.Value.(*entry).State
	}
	p.mu.Unlock()
	if !p.visible(viewer, user) {
		return State{}, matrixerr.Forbidden("You are not allowed to see their presence")
	}
	return s, nil
}

// visible reports whether a local user shares a room with another user.
func (p *Presence) visible(viewer, user string) bool {
	if viewer == user || p.o.Hub.ShareRoom(viewer, user) {
		return true
	}
	for _, room := range p.o.Rooms(user) {
		if p.o.Hub.IsJoined(viewer, room) {
			return true
		}
	}
	return false
}

// Since returns the presence of the users visible to viewer that changed in
// (from, to] of the ephemeral sequence, oldest change first. From 0 it leaves out
// who is offline.
func (p *Presence) Since(viewer string, from, to int64) []State {
	var out []State
	for _, s := range p.Changed(from, to) {
		if (from > 0 || s.Presence != Offline) && p.visible(viewer, s.User) {
			out = append(out, s)
		}
	}
	return out
}

// Changed returns the presence of all users that changed in (from, to] of the ephemeral sequence, oldest change first,
// whoever may see it.
func (p *Presence) Changed(from, to int64) []State {
	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.order.Back()
	if first == nil || first.Value.(*entry).seq <= from {
		return nil
	}
	for prev := first.Prev(); prev != nil && prev.Value.(*entry).seq > from; prev = prev.Prev() {
		first = prev
	}
	var out []State
	for el := first; el != nil && el.Value.(*entry).seq <= to; el = el.Next() {
		out = append(out, el.Value.(*entry).State)
	}
	return out
}

// entry returns a user's entry, a new one when there is none.
func (p *Presence) entry(user string) *entry {
	if el := p.users[user]; el != nil {
		return el.Value.(*entry)
	}
	e := &entry{State: State{User: user, Presence: Offline}}
	p.users[user] = p.order.PushFront(e)
	return e
}

// update is change for a local user: activity within the minute is not news.
func (p *Presence) update(e *entry, now State) {
	now.CurrentlyActive = now.Presence == Online && p.o.Clock.Millis()-now.LastActive < currentFor.Milliseconds()
	if now.Presence == e.Presence && now.Status == e.Status && now.CurrentlyActive == e.CurrentlyActive {
		e.State = now
		return
	}
	p.change(e, now)
}

func (p *Presence) change(e *entry, now State) {
	e.State = now
	e.seq = p.o.Hub.NextEphemeral()
	p.order.MoveToBack(p.users[e.User])
	p.dirty[e.User] = e
}
