package appservice

import (
	"sync"

	"knock/internal/e2ee"
)

// watch notes what changes beside events, for the links that want it, and how many users of each service are joined to
// each room now. It is the hub's stream.Watcher: its methods only write down.
type watch struct {
	reg   *registry
	links []*link // those that take more than events

	mu    sync.RWMutex
	rooms map[string]*attendance
}

// attendance are the joined users of services in one room.
type attendance struct {
	counts map[set]int
	in     set
}

// Moved implements stream.Watcher.
func (w *watch) Moved(user, room string, joined bool) {
	in := w.reg.user(user).in
	if in == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.rooms[room]
	if a == nil {
		a = &attendance{counts: map[set]int{}}
		w.rooms[room] = a
	}
	w.reg.each(in, func(v *Service) {
		if joined {
			a.counts[v.bit]++
		} else {
			a.counts[v.bit]--
		}
		a.in &^= v.bit
		if a.counts[v.bit] > 0 {
			a.in |= v.bit
		}
	})
	if a.in == 0 {
		delete(w.rooms, room)
	}
}

// RoomTouched implements stream.Watcher.
func (w *watch) RoomTouched(room string, pos int64) {
	for _, l := range w.links {
		l.marks.room(room, pos)
		if pos == 0 {
			l.signal()
		}
	}
}

// UserTouched implements stream.Watcher.
func (w *watch) UserTouched(user string, pos int64) {
	in := w.reg.user(user).in
	if in == 0 {
		return
	}
	for _, l := range w.links {
		if in&l.v.bit == 0 {
			continue
		}
		l.marks.user(user, pos)
		if pos == 0 {
			l.signal()
		}
	}
}

// keysChanged hears of one-time keys that became more or fewer.
func (w *watch) keysChanged(d e2ee.Device) {
	in := w.reg.user(d.User).in
	for _, l := range w.links {
		if in&l.v.bit != 0 && l.v.Encryption {
			l.marks.device(d)
			l.signal()
		}
	}
}

// published wakes the links for which something is noted up to a position.
func (w *watch) published(pos int64) {
	for _, l := range w.links {
		if l.marks.due(pos) {
			l.signal()
		}
	}
}

// attended are the services with a user in a room.
func (w *watch) attended(room string) set {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if a := w.rooms[room]; a != nil {
		return a.in
	}
	return 0
}

// attendedBy are the rooms where a service has a user.
func (w *watch) attendedBy(v *Service) (rooms []string) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	for room, a := range w.rooms {
		if a.in&v.bit != 0 {
			rooms = append(rooms, room)
		}
	}
	return rooms
}

// marks are what changed for one service since it was last looked at. A value is the position of the newest change, 0
// for what has none.
type marks struct {
	mu      sync.Mutex
	all     bool // everything is to be looked at
	rooms   map[string]int64
	users   map[string]int64
	devices map[e2ee.Device]bool
	first   int64 // lowest position noted since the last look; 0: none
}

// maxMarks bounds each list; beyond it everything is looked at.
const maxMarks = 20_000

func newMarks() *marks {
	return &marks{all: true, rooms: map[string]int64{}, users: map[string]int64{}, devices: map[e2ee.Device]bool{}}
}

func (m *marks) room(id string, pos int64) { m.note(m.rooms, id, pos) }
func (m *marks) user(id string, pos int64) { m.note(m.users, id, pos) }

func (m *marks) note(in map[string]int64, id string, pos int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if pos > 0 && (m.first == 0 || pos < m.first) {
		m.first = pos
	}
	if len(in) < maxMarks {
		in[id] = max(in[id], pos)
	} else {
		m.all = true
	}
}

func (m *marks) device(d e2ee.Device) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.devices) < maxMarks {
		m.devices[d] = true
	} else {
		m.all = true
	}
}

func (m *marks) due(pos int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.first > 0 && m.first <= pos
}

// noted is what was taken from marks.
type noted struct {
	all     bool
	rooms   []string
	users   []string
	devices []e2ee.Device
}

// take takes what is published up to a position; the rest stays.
func (m *marks) take(pos int64) (n noted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n.all, m.all, m.first = m.all, false, 0
	n.rooms, n.users = m.taken(m.rooms, pos), m.taken(m.users, pos)
	for d := range m.devices {
		n.devices = append(n.devices, d)
	}
	clear(m.devices)
	return n
}

func (m *marks) taken(from map[string]int64, pos int64) (out []string) {
	for id, at := range from {
		if at <= pos {
			out = append(out, id)
			delete(from, id)
		} else if m.first == 0 || at < m.first {
			m.first = at
		}
	}
	return out
}

// putBack returns what could not be dealt with.
func (m *marks) putBack(n noted) {
	for _, id := range n.rooms {
		m.room(id, 0)
	}
	for _, id := range n.users {
		m.user(id, 0)
	}
	for _, d := range n.devices {
		m.device(d)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = m.all || n.all
}
