// Package delayed owns the events that users schedule (MSC4140): which there are, when each is due, and what became of
// it. Sending is the room server's: an event and the word that it was sent are written in one transaction, so whatever
// happens it is sent once, and a cancelled or restarted one is not.
package delayed

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Event is an event that a user scheduled. Times are milliseconds.
type Event struct {
	ID           string
	User, Device string // who scheduled it
	Service      string // id of the application service that did it for the user, or ""
	Room, Type   string
	StateKey     *string // nil: not a state event
	Content      json.RawMessage
	TS           *int64 // its origin_server_ts, if that was given
	Sticky       *int64 // for how long it is sticky once it is sent (MSC4354); nil: it is not
	Delay        int64
	Scheduled    int64           // when the delay began
	Finalised    int64           // 0 while it is scheduled
	EventID      string          // what it became
	Error        json.RawMessage // why it was not sent, a standard error response

	nid, due int64
}

// Sender sends an event that is due, as its user. also must run in the event's transaction; when that does not happen,
// since the room's state says the same already, the answer is the event that says it.
type Sender func(ctx context.Context, e *Event, also func(tx *sqldb.Tx, eventID string) error) (eventID string, err error)

// Options configure a Service.
type Options struct {
	DB       *sqldb.DB
	Send     Sender
	MaxDelay time.Duration
	MaxCount int         // events that a user may have scheduled at once; 0 turns scheduling off
	Clock    clock.Clock // nil is the system's
	Log      *logrus.Entry

	Registerer prometheus.Registerer // nil: no metrics
}

// Service keeps scheduled events and sends them. It is safe for concurrent use.
type Service struct {
	o       Options
	db      *sqldb.DB
	metrics *metrics

	mu    sync.Mutex
	soon  int64              // an event is due then that the last look may have missed
	wake  chan struct{}      // soon came closer
	lanes map[string][]int64 // by room: events that are due, the first one's turn first
	taken map[int64]struct{} // events in lanes, those under way too
	slots chan struct{}      // bounds how many are sent at once
	going sync.WaitGroup     // lanes
	pause func(tries int) time.Duration
}

const never = math.MaxInt64

// New makes a Service. What is due is sent while Run runs.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return &Service{o: o, db: o.DB, metrics: newMetrics(o.Registerer), soon: never, wake: make(chan struct{}, 1),
		lanes: map[string][]int64{}, taken: map[int64]struct{}{}, slots: make(chan struct{}, maxSends), pause: pause}
}

// MaxDelay is the longest delay.
func (s *Service) MaxDelay() time.Duration { return s.o.MaxDelay }

// MaxCount is how many events a user may have scheduled at once; 0: none.
func (s *Service) MaxCount() int { return s.o.MaxCount }

// The refusals of this package. ErrSent and ErrCancelled say what became of an event that is no longer scheduled.
var (
	ErrNotFound  = matrixerr.NotFound("There is no delayed event with this id.")
	ErrTooLong   = matrixerr.Forbidden("This server delays events less long; max_delay_ms of m.delayed_events in /capabilities says how long.")
	ErrOff       = matrixerr.Forbidden("This server does not delay events.")
	ErrSent      = matrixerr.Unknown(http.StatusConflict, "The delayed event has been sent already.")
	ErrCancelled = matrixerr.Unknown(http.StatusConflict, "The delayed event has been cancelled; schedule a new one.")
)

// errMoved is returned inside the transaction of an event that was finalised or restarted meanwhile.
var errMoved = errors.New("the delayed event is no longer as it was")

// fate is the answer about an event that is finalised.
func (e *Event) fate() error {
	if e.EventID != "" {
		return ErrSent
	}
	return ErrCancelled
}
