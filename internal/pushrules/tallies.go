package pushrules

import (
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
)

// Bounds of what is kept of counts in memory.
const (
	logLength   = 256      // events of a room
	boardRooms  = 4096     // rooms
	seatBytes   = 32 << 20 // users' counts
	rollAfter   = 32       // newer events after which a user's counts are brought up to date
	movesLength = 1024     // read positions that moved lately, in all rooms
)

// tallies keep counts in memory, so that who asks again needs no statement: for
// each room the newest events that count, shared by all its members, and for
// each user how the counts stood at some position. A count at a later position
// is the sum of both.
//
// The writer tells of everything after its commit and before it is published, so
// whoever asks for a published position finds all of it here.
type tallies struct {
	changed func(user string)

	mu     sync.Mutex
	boards *cache.Cache[int64, *board] // by room; guarded by mu like what they hold
	seats  *cache.Cache[userRoom, *seat]
	newest int64  // position of the newest event that counted
	moves  []move // by commit
	lost   int64  // commit of the newest move that is not in moves any more
}

// board holds a room's events that count, all those after floor.
type board struct {
	floor int64
	log   []logged // by position
}

// logged is what counts of one event.
type logged struct {
	pos     int64
	thread  string
	class   Class
	ignored string // the sender, when somebody here ignored them
	others  []exception
}

// move is a read position that moved.
type move struct {
	commit int64
	key    readKey
	pos    int64
}

// seat is how a user's counts stood at a position. It is immutable.
type seat struct {
	member  bool  // there is a read position
	at      int64 // n counts up to here
	read    int64 // unthreaded read position
	threads map[string]int64
	ignored string // whom the counts leave out
	n       tally
}

// tallyKey is one kind of unread events: those of a class, or those with flags
// of the user's own.
type tallyKey struct {
	thread string
	class  Class
	flags  int64 // byClass: what the rules say of the class
}

const byClass = -1

type tally map[tallyKey]int64

func newTallies(reg prometheus.Registerer) *tallies {
	return &tallies{
		changed: func(string) {},
		boards:  cache.New(cache.Options[int64, *board]{Name: "push_rooms", Entries: boardRooms, Registerer: reg}),
		seats: cache.New(cache.Options[userRoom, *seat]{Name: "push_counts", Entries: 1 << 20, Bytes: seatBytes, Registerer: reg,
			Cost: func(k userRoom, s *seat) int64 {
				return int64(256 + len(k.user) + len(s.ignored) + 128*len(s.n) + 96*len(s.threads))
			}}),
	}
}

// count returns a user's counts in a room at a position. ok is false when they
// are not known here. The result is shared.
func (t *tallies) count(user string, room, at int64, ignored []string, names string) (n tally, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := userRoom{user, room}
	s, ok := t.seats.Get(k)
	if !ok || s.ignored != names {
		return nil, false
	}
	b, ok := t.boards.Get(room)
	if !ok || s.at < b.floor {
		return nil, false
	}
	if at < s.at {
		return nil, len(s.n) == 0 // what was read up to a later position was read up to this one
	}
	if !s.member {
		return nil, true
	}
	newer := b.between(s.at, at)
	if len(newer) == 0 {
		return s.n, true
	}
	n = maps.Clone(s.n)
	if n == nil {
		n = tally{}
	}
	for i := range newer {
		n.add(s, &newer[i], user, ignored)
	}
	if len(newer) > rollAfter {
		next := *s
		next.at, next.n = at, n
		t.seats.Put(k, &next)
	}
	return n, true
}

// between returns the events in (from, to].
func (b *board) between(from, to int64) []logged {
	lo, _ := slices.BinarySearchFunc(b.log, from+1, byPosition)
	hi, _ := slices.BinarySearchFunc(b.log, to+1, byPosition)
	return b.log[lo:max(lo, hi)]
}

func byPosition(e logged, pos int64) int { return int(e.pos - pos) }

// add counts an event, unless the user has read it.
func (n tally) add(s *seat, e *logged, user string, ignored []string) {
	if e.pos <= max(s.read, s.threads[e.thread]) {
		return
	}
	for i := range e.others {
		if e.others[i].user == user {
			n[tallyKey{e.thread, e.class, e.others[i].flags}]++
			return
		}
	}
	if e.class != 0 && (e.ignored == "" || !slices.Contains(ignored, e.ignored)) {
		n[tallyKey{e.thread, e.class, byClass}]++
	}
}

// keep stores what was read in a snapshot that holds everything up to s.at. From
// the first time on the room's events are kept too.
func (t *tallies) keep(user string, room int64, s *seat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, ok := t.boards.Get(room)
	if !ok {
		b = &board{floor: t.newest}
		t.boards.Put(room, b)
	}
	if s.at < b.floor || t.lost > s.at {
		return
	}
	k := userRoom{user, room}
	if old, ok := t.seats.Get(k); ok && old.at > s.at && old.ignored == s.ignored {
		return
	}
	for i := len(t.moves) - 1; i >= 0 && t.moves[i].commit > s.at; i-- {
		if m := &t.moves[i]; m.key.userRoom == k && s != nil {
			s = s.moved(b, m.key.user, m.key.thread, m.pos)
		}
	}
	if s != nil {
		t.seats.Put(k, s)
	}
}

// moved returns the seat after a read position moved, nil when what is needed is
// not known any more.
func (s *seat) moved(b *board, user, thread string, pos int64) *seat {
	if pos <= max(s.read, s.threads[thread]) && (s.member || thread != Unthreaded) {
		return s
	}
	if pos < b.floor {
		return nil
	}
	next := &seat{member: s.member, at: s.at, read: s.read, ignored: s.ignored, threads: map[string]int64{}, n: tally{}}
	if thread == Unthreaded {
		next.member, next.at, next.read = true, pos, pos
	}
	for id, at := range s.threads {
		if at > next.read {
			next.threads[id] = at
		}
	}
	if thread == Unthreaded {
		return next
	}
	next.threads[thread] = pos
	for k, n := range s.n {
		if k.thread != thread {
			next.n[k] = n
		}
	}
	var ignored []string
	if s.ignored != "" {
		ignored = splitNames(s.ignored)
	}
	for _, e := range b.between(pos, s.at) {
		if e.thread == thread {
			next.n.add(next, &e, user, ignored)
		}
	}
	return next
}

// committed takes what a transaction did. last is its last position.
func (t *tallies) committed(b *batch, last int64) {
	t.take(b, last)
	for k := range b.reads {
		t.changed(k.user)
	}
}

func (t *tallies) take(b *batch, last int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range b.logged {
		e := &b.logged[i]
		t.newest = max(t.newest, e.pos)
		if board, ok := t.boards.Get(e.room); ok {
			board.append(e.logged)
		}
	}
	for k, pos := range b.reads {
		t.remember(move{last, k, pos})
		s, ok := t.seats.Get(k.userRoom)
		if !ok {
			continue
		}
		var next *seat
		if board, ok := t.boards.Get(k.room); ok {
			next = s.moved(board, k.user, k.thread, pos)
		}
		switch next {
		case nil:
			t.seats.Delete(k.userRoom)
		case s:
		default:
			t.seats.Put(k.userRoom, next)
		}
	}
}

func (b *board) append(e logged) {
	if len(b.log) == logLength {
		const half = logLength / 2
		b.floor = b.log[half-1].pos
		b.log = append(b.log[:0:0], b.log[half:]...) // others may still look at the old one
	}
	b.log = append(b.log, e)
}

func (t *tallies) remember(m move) {
	if len(t.moves) == movesLength {
		const half = movesLength / 2
		t.lost = t.moves[half-1].commit
		t.moves = append(t.moves[:0:0], t.moves[half:]...)
	}
	t.moves = append(t.moves, m)
}

// forget drops a room.
func (t *tallies) forget(room int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.boards.Delete(room)
	t.seats.DeleteFunc(func(k userRoom, _ *seat) bool { return k.room == room })
}
