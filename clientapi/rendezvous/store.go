package rendezvous

import (
	"container/list"
	"crypto/rand"
	"strconv"
	"sync"
	"time"
)

const (
	lifetime    = 2 * time.Minute
	maxSessions = 1000
	maxData     = 4 << 10 // bytes
)

// session is what one device left for the other.
type session struct {
	id      string
	data    string
	kind    string // of content, of the older form
	version int64
	changed time.Time
	ends    time.Time
}

// tag names the version.
func (s session) tag() string { return strconv.FormatInt(s.version, 36) }

// sessions are in memory: they are good for two minutes. When there are too many the oldest goes.
type sessions struct {
	now  func() time.Time
	mu   sync.Mutex
	byID map[string]*list.Element
	all  *list.List // of *session, oldest first
	last int64      // version, of all sessions
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, byID: map[string]*list.Element{}, all: list.New()}
}

func (s *sessions) create(data, kind string) session {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for front := s.all.Front(); front != nil && (s.all.Len() >= maxSessions || !now.Before(front.Value.(*session).ends)); front = s.all.Front() {
		s.remove(front)
	}
	s.last++
	one := &session{id: rand.Text(), data: data, kind: kind, version: s.last, changed: now, ends: now.Add(lifetime)}
	s.byID[one.id] = s.all.PushBack(one)
	return *one
}

func (s *sessions) remove(el *list.Element) {
	delete(s.byID, el.Value.(*session).id)
	s.all.Remove(el)
}

// find is the live session of an id; the sessions are locked.
func (s *sessions) find(id string) *session {
	el, ok := s.byID[id]
	if !ok || !s.now().Before(el.Value.(*session).ends) {
		return nil
	}
	return el.Value.(*session)
}

func (s *sessions) get(id string) (session, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if one := s.find(id); one != nil {
		return *one, true
	}
	return session{}, false
}

// put replaces what a session holds if tag names its version. found and fresh tell what happened.
func (s *sessions) put(id, tag, data, kind string) (now session, found, fresh bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.find(id)
	if one == nil {
		return session{}, false, false
	}
	if tag != one.tag() {
		return *one, true, false
	}
	s.last++
	one.data, one.kind, one.version, one.changed = data, kind, s.last, s.now()
	return *one, true, true
}

func (s *sessions) end(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(id) == nil {
		return false
	}
	s.remove(s.byID[id])
	return true
}
