// Package roomserver owns rooms: it is the only writer of events, state and
// memberships. Each room has a handle that holds its newest state in memory,
// builds or checks an event, and hands it to the database's writer; everybody
// else sees the event once it is committed and published.
package roomserver

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Options configure a Server. Remote, Verifier, Outbound and Profiles may be
// nil on a node without federation or accounts.
type Options struct {
	ServerName   string
	Signer       event.Signer
	Store        *store.Store
	Hub          *stream.Hub
	Remote       Remote
	Verifier     Verifier
	Outbound     Outbound
	Profiles     Profiles
	Participants []Participant
	Log          *logrus.Entry
	Clock        clock.Clock
	// UnknownAlias is asked about local aliases that are looked up and do not exist; true says that they may exist now.
	// It may be nil.
	UnknownAlias func(ctx context.Context, alias string) bool
	// AliasesChanged hears that local aliases were made, moved or removed. It must not block, and may be nil.
	AliasesChanged func()
	// BlocksInvite reports whether invites of a local user by inviter are to be refused. It may be nil.
	BlocksInvite func(user, inviter string) bool
	// Erased reports whether a user asked to be erased, and at which position, 0 if that is not known. It must be quick. It
	// may be nil.
	Erased func(userID string) (pos int64, erased bool)
	// KeyValid asks an identity server, at a URL, whether a key may still sign for third-party invites. It may be nil: keys
	// are not asked about.
	KeyValid func(ctx context.Context, validityURL, publicKey string) (bool, error)
	// PolicyRole makes this server the policy server of rooms that name it; nil: it is none.
	PolicyRole *PolicyRole
	// PolicyOptional lets events go on when a room's policy server gives no usable answer. What it refuses never goes on.
	PolicyOptional bool
	// DefaultVersion is the room version of new rooms.
	DefaultVersion string
	// Down tells of servers that failed lately, so that others are asked first. It may be nil.
	Down func(server string) bool
	// PartialJoins has rooms be used before all their members are known, where servers answer joins without them.
	PartialJoins bool
	// Inbound bounds what waits of other servers' events, and the work that they make.
	Inbound    InboundLimits
	Registerer prometheus.Registerer // nil: no metrics
}

// Accepted is an event that passed every check and is about to be written. The
// functions answer for the state before the event.
type Accepted struct {
	RoomID            string
	RoomNID, EventNID int64
	Event             *event.Event
	State             auth.State // holds at least the create and power levels events and the sender's and target's memberships
	JoinedMembers     int
	IsLocalMember     func(userID string) bool
}

// Participant writes rows of its own in the transaction of an event.
type Participant interface {
	// Load is called when a room is loaded, before its first Prepare.
	Load(ctx context.Context, roomNID int64) error
	// Prepare thinks, under the room's lock and in the order of events. What it
	// returns only executes, in the writer; nil when there is nothing to write.
	Prepare(a *Accepted) func(tx *sqldb.Tx, pos int64) error
	// Forget drops what Prepare assumed, after a write of the room failed.
	Forget(roomNID int64)
}

// Historian is a Participant that also writes with events of the history that is
// fetched later; they have no position.
type Historian interface {
	PrepareHistory(a *Accepted) func(tx *sqldb.Tx, pos int64) error
}

// Refuser is a Participant that also writes with events that the room's state
// refused when they came (soft failure).
type Refuser interface {
	PrepareRefused(a *Accepted) func(tx *sqldb.Tx) error
}

// Completer is a Participant that hears when all members of a room are known that was joined without them.
type Completer interface {
	// Completed thinks as Prepare does.
	Completed(c *Completed) func(tx *sqldb.Tx, pos int64) error
}

// Completed says what became known with the members of a room.
type Completed struct {
	RoomID        string
	RoomNID, Join int64    // Join is the join's event
	Servers       []string // others that were in the room meanwhile, and not named as such
	Gone          []string // users who were taken for members and are none
}

// Outbound hears of committed events that go to other servers. It must not block.
type Outbound interface {
	Send(pos int64, roomID string, e *event.Event, servers []string)
}

// Profiles tells what a local user's member events say about them.
type Profiles interface {
	MemberProfile(ctx context.Context, userID string) (displayName, avatarURL string, err error)
	Exists(ctx context.Context, userID string) bool
}

// Verifier checks the signatures of events from other servers: one error, or
// nil, for each event.
type Verifier interface {
	VerifyEvents(ctx context.Context, events []*event.Event) []error
}

// Server is the room server.
type Server struct {
	Options
	db *sqldb.DB

	mu       sync.Mutex
	rooms    map[int64]*room
	used     uint64 // counts uses, to evict the longest unused handle
	loading  map[int64]*loading
	invites  sync.Mutex // guards the creation of rows of rooms that are not resident
	intake   intake
	follows  followUps
	thinking thinking
	redeems  chan struct{} // wakes what works off redemptions
	joins    joins
	untidy   untidy
	resets   prometheus.Counter
	partials partials
	bounds   boundMetrics
	held     atomic.Int64 // bytes of large answers of other servers that are in memory

	policyTuples [len(policyTypes)]int64
	asking       singleflight.Group // sends of transactions that wait for a policy server
}

type loading struct {
	done chan struct{}
	r    *room
	err  error
}

// maxHandles bounds the rooms that are held in memory.
const maxHandles = 2_048

// New returns a server over an open store. Start must be called before use.
func New(o Options) *Server {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	if o.DefaultVersion == "" {
		o.DefaultVersion = event.DefaultVersion
	}
	s := &Server{
		Options: o, db: o.Store.DB, rooms: map[int64]*room{}, loading: map[int64]*loading{},
		redeems: make(chan struct{}, 1),
		follows: followUps{users: map[string]struct{}{}, wake: make(chan struct{}, 1)},
		intake: intake{rooms: map[int64]queuedRoom{}, busy: map[int64]string{}, left: map[int64][]leftOver{}, tried: map[int64]rowSet{},
			wake: make(chan struct{}, 1)},
	}
	s.Inbound = s.Inbound.orDefault()
	s.thinking = thinking{spent: map[string]account{}, perMinute: s.Inbound.Thinking}
	s.bounds.init(o.Registerer)
	s.joins.init(o.Registerer)
	s.untidy.init(o.Registerer)
	s.initResets(o.Registerer)
	s.partials.init(o.Registerer)
	return s
}

// Start loads the index of who is in which room. The database's writer must run.
func (s *Server) Start(ctx context.Context) error {
	if err := s.loadPolicyTuples(ctx); err != nil {
		return err
	}
	if err := s.loadPartials(ctx); err != nil {
		return err
	}
	return s.Store.EachLocalJoined(ctx, func(room, user string) { s.Hub.SetJoined(user, room, true) })
}

// IsLocal reports whether a user, alias or other id belongs to this server.
func (s *Server) IsLocal(id string) bool { return event.ServerOf(id) == s.ServerName }

// handle returns the room's handle, loading it when it is not in memory.
func (s *Server) handle(ctx context.Context, roomID string) (*room, error) {
	key, err := s.Store.Room(ctx, roomID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrUnknownRoom
	}
	if err != nil {
		return nil, err
	}
	return s.handleOf(ctx, key)
}

func (s *Server) handleOf(ctx context.Context, key store.RoomKey) (*room, error) {
	s.mu.Lock()
	if r := s.rooms[key.NID]; r != nil {
		s.used++
		r.used = s.used
		s.mu.Unlock()
		return r, nil
	}
	if l := s.loading[key.NID]; l != nil {
		s.mu.Unlock()
		select {
		case <-l.done:
			return l.r, l.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l := &loading{done: make(chan struct{})}
	s.loading[key.NID] = l
	s.mu.Unlock()

	l.r, l.err = s.load(context.WithoutCancel(ctx), key)
	s.mu.Lock()
	delete(s.loading, key.NID)
	if l.err == nil {
		s.keepLocked(l.r)
	}
	s.mu.Unlock()
	close(l.done)
	return l.r, l.err
}

// keepLocked adds a handle and evicts idle ones beyond the bound.
func (s *Server) keepLocked(r *room) {
	s.used++
	r.used = s.used
	s.rooms[r.key.NID] = r
	for len(s.rooms) > maxHandles {
		var oldest *room
		for _, c := range s.rooms { // a sample: maps iterate in random order
			if oldest == nil || c.used < oldest.used {
				oldest = c
			}
			if s.used-oldest.used > maxHandles/2 {
				break
			}
		}
		if oldest.busy() {
			return
		}
		delete(s.rooms, oldest.key.NID)
	}
}

// drop forgets a handle whose write failed; the next use loads the room anew.
func (s *Server) drop(r *room) {
	s.mu.Lock()
	if s.rooms[r.key.NID] == r {
		delete(s.rooms, r.key.NID)
	}
	s.mu.Unlock()
	for _, p := range s.Participants {
		p.Forget(r.key.NID)
	}
}

const maxRetries = 6

// retry runs fn again, with jitter, while it fails because the room changed
// under its handle.
func (s *Server) retry(ctx context.Context, fn func() error) error {
	for attempt := 1; ; attempt++ {
		err := fn()
		if !errors.Is(err, store.ErrRevision) || attempt == maxRetries {
			return err
		}
		select {
		case <-time.After(rand.N(time.Duration(attempt) * 10 * time.Millisecond)):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
