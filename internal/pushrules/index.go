package pushrules

import "sync"

// index finds from an event to the users to whom it may be something else than
// its class says, without looking at a room's members. It holds the users of
// this server whose rules need it, whatever rooms they are in.
type index struct {
	mu      sync.RWMutex
	keys    map[string]keys
	tokens  map[string]map[string]bool // lower-cased word → users
	senders map[string]map[string]bool
	rooms   map[string]map[string]bool
	every   map[string]bool
}

func newIndex() *index {
	return &index{
		keys:    map[string]keys{},
		tokens:  map[string]map[string]bool{},
		senders: map[string]map[string]bool{},
		rooms:   map[string]map[string]bool{},
		every:   map[string]bool{},
	}
}

// set replaces a user's keys.
func (ix *index) set(user string, k keys) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	old := ix.keys[user]
	drop(ix.tokens, old.tokens, user)
	drop(ix.senders, old.senders, user)
	drop(ix.rooms, old.rooms, user)
	delete(ix.every, user)
	delete(ix.keys, user)
	if k.empty() {
		return
	}
	ix.keys[user] = k
	enter(ix.tokens, k.tokens, user)
	enter(ix.senders, k.senders, user)
	enter(ix.rooms, k.rooms, user)
	if k.every {
		ix.every[user] = true
	}
}

func enter(m map[string]map[string]bool, names []string, user string) {
	for _, n := range names {
		if m[n] == nil {
			m[n] = map[string]bool{}
		}
		m[n][user] = true
	}
}

func drop(m map[string]map[string]bool, names []string, user string) {
	for _, n := range names {
		if delete(m[n], user); len(m[n]) == 0 {
			delete(m, n)
		}
	}
}

// candidates calls add for each user whose rules may give an event another
// outcome than its class does. add may be called twice for a user.
func (ix *index) candidates(s *subject, class Class, add func(user string)) {
	ix.mu.RLock()
	defer ix.mu.RUnlock()
	each(ix.senders[s.Sender], add)
	if !class.countable() {
		each(ix.rooms[s.Room], add)
	}
	if body, ok := s.text(bodyProperty); ok && len(ix.tokens) > 0 {
		eachToken(body, func(t string) { each(ix.tokens[t], add) })
	}
	ix.eachEvery(s, add)
}

// eachEvery visits the smaller of two sets: the users whose rules nothing
// indexes, and the room's local members.
func (ix *index) eachEvery(s *subject, add func(user string)) {
	const few = 64
	if len(ix.every) <= few {
		each(ix.every, add)
		return
	}
	members := s.LocalMembers()
	if len(ix.every) < len(members) {
		each(ix.every, add)
		return
	}
	for _, user := range members {
		if ix.every[user] {
			add(user)
		}
	}
}

func each(users map[string]bool, add func(user string)) {
	for user := range users {
		add(user)
	}
}
