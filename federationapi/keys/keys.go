// Package keys owns signing keys: our own (published and used to answer as a notary) and those of other servers
// (fetched, judged, kept), and the checks that need them: signatures of events, of JSON and of requests.
package keys

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// Why a signature was not accepted.
var (
	// ErrNoKey: none of the keys of the signatures could be had, now. It may be different later.
	ErrNoKey = errors.New("the key of the signature is not known")
	// ErrInvalidKey: the key is known, but was not valid at the time in question.
	ErrInvalidKey = errors.New("the key of the signature was not valid at that time")
	// ErrUnsigned: there is no signature of the server.
	ErrUnsigned = errors.New("a signature is missing")
)

// Fetcher asks other servers for keys; federationapi/client implements it. Answers are unchecked.
type Fetcher interface {
	// ServerKeys fetches the keys that a server publishes.
	ServerKeys(ctx context.Context, server string) (json.RawMessage, error)
	// QueryKeys asks a notary: server → key id → time (ms) until which the key should be valid.
	QueryKeys(ctx context.Context, notary string, want map[string]map[string]int64) ([]json.RawMessage, error)
}

// OldKey is a key that we signed with in the past.
type OldKey struct {
	ID      string
	Key     ed25519.PublicKey
	Expired int64 // when it was used last (ms)
}

// Options configure a Ring.
type Options struct {
	ServerName string
	Signer     event.Signer // our current key
	OldKeys    []OldKey
	// Validity is how far ahead our published keys are said to be valid; 0 is a week, the longest that counts.
	Validity time.Duration

	DB       *sqldb.DB
	Fetch    Fetcher
	Notaries []string // asked for what the servers themselves do not answer

	Clock      clock.Clock           // nil is the machine's
	Log        *logrus.Entry         // nil is silent
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	week       = 7 * 24 * time.Hour
	maxServers = 10_000 // in memory
)

// Ring holds the keys. It is safe for concurrent use.
type Ring struct {
	o       Options
	own     map[string]verifyKey
	servers *cache.Cache[string, *server]
	makeMu  sync.Mutex // two callers do not make the same server twice
	flight  singleflight.Group
	fetches chan struct{} // slots of fetches under way
	notary  chan struct{} // slots of fetches for others
	workers chan struct{} // slots of the verify pool
	metrics *prometheus.CounterVec

	answerMu sync.Mutex
	answer   []byte // our own, signed
	answered time.Time
}

// New makes a Ring. It starts nothing.
func New(o Options) *Ring {
	if o.Validity <= 0 || o.Validity > week {
		o.Validity = week
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		l := logrus.New()
		l.SetLevel(logrus.PanicLevel)
		o.Log = logrus.NewEntry(l)
	}
	r := &Ring{
		o:       o,
		own:     map[string]verifyKey{},
		servers: cache.New(cache.Options[string, *server]{Name: "server_keys", Entries: maxServers, Registerer: o.Registerer}),
		fetches: make(chan struct{}, 64),
		notary:  make(chan struct{}, 8),
		workers: make(chan struct{}, runtime.GOMAXPROCS(0)),
		metrics: newMetrics(o.Registerer),
	}
	for _, k := range o.OldKeys {
		r.own[k.ID] = verifyKey{key: k.Key, expired: max(k.Expired, 1)}
	}
	if public, ok := o.Signer.Key.Public().(ed25519.PublicKey); ok {
		r.own[o.Signer.KeyID] = verifyKey{key: public, validUntil: 1<<63 - 1}
	}
	return r
}

// verifyKey is one public key and when it may be used.
type verifyKey struct {
	key        ed25519.PublicKey
	validUntil int64 // ms; not more than a week after it was learnt
	expired    int64 // ms; 0 while the key is in use
}

// validAt tells whether what was signed at ts (ms) may be verified with the key.
func (k verifyKey) validAt(ts int64) bool {
	if k.expired != 0 {
		return ts < k.expired
	}
	return ts <= k.validUntil
}

// server is what is known about another server's keys.
type server struct {
	mu     sync.Mutex
	loaded bool // what the database knows is here
	keys   map[string]verifyKey
	until  int64 // until when the answer in the database holds; 0 when there is none

	direct, asked pause // from the server itself, from notaries
}

// pause keeps fetches of one kind apart.
type pause struct {
	until     time.Time
	fruitless int
}

const (
	pauseFirst     = 2 * time.Second
	pauseReachable = 5 * time.Minute
	pauseFailing   = 10 * time.Minute
)

func (p *pause) over(now time.Time) bool { return !now.Before(p.until) }

// next sets the time of the next fetch. Fetches that brought nothing new grow apart, to limit.
func (p *pause) next(now time.Time, fruitful bool, limit time.Duration) {
	if fruitful {
		p.fruitless = 0
	} else {
		p.fruitless++
	}
	p.until = now.Add(min(pauseFirst<<min(p.fruitless, 12), limit))
}

// server finds or makes an entry.
func (r *Ring) server(name string) *server {
	if s, ok := r.servers.Get(name); ok {
		return s
	}
	r.makeMu.Lock()
	defer r.makeMu.Unlock()
	if s, ok := r.servers.Get(name); ok {
		return s
	}
	s := &server{keys: map[string]verifyKey{}}
	r.servers.Put(name, s)
	return s
}

// key returns a key as far as it is known here.
func (r *Ring) key(server, id string) (verifyKey, bool) {
	if server == r.o.ServerName {
		k, ok := r.own[id]
		return k, ok
	}
	s := r.server(server)
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[id]
	return k, ok
}

// merge takes over an answer. Keys that a server itself publishes replace older ones of the same id; a notary can
// only add keys, extend them or retire them. fruitful tells whether the answer was worth fetching: it had a key that
// was new, retired, or valid again.
func (s *server) merge(a *answer, now int64, fromNotary bool) (c change, fruitful bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.keys = map[string]verifyKey{}
	listed := a.keys(now)
	for id, k := range listed {
		old, known := s.keys[id]
		same := known && old.key.Equal(k.key)
		if known && !same && fromNotary {
			continue
		}
		if same {
			k = newer(old, k, fromNotary)
		}
		s.keys[id] = k
		news := !same || k.expired != old.expired || k.validUntil > now && old.validUntil <= now
		fruitful = fruitful || news
		if news || k.validUntil-old.validUntil >= worthStoring {
			c.keys[id] = k
		}
	}
	if len(s.keys) > 2*maxKeys {
		s.keys, c.keys, c.reset = listed, listed, true
	}
	if len(c.keys) > 0 {
		s.until = a.until(now)
	}
	return c, fruitful
}

// change is what an answer changed: keys to be stored, in place of all others of the server when reset. Nobody may
// have us keep keys without end.
type change struct {
	keys  map[string]verifyKey
	reset bool
}

// worthStoring is by how many milliseconds a key's validity must have grown to be written again: servers that answer
// with another time at each question would have it written each time.
const worthStoring = 3_600_000

// newer joins two statements about the same key.
func newer(old, k verifyKey, fromNotary bool) verifyKey {
	if fromNotary && old.expired != 0 {
		k.expired = old.expired
	}
	k.validUntil = max(k.validUntil, old.validUntil)
	return k
}

func newMetrics(reg prometheus.Registerer) *prometheus.CounterVec {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "knock_federation_key_fetches_total", Help: "Fetches of other servers' keys, by source and outcome.",
	}, []string{"source", "outcome"})
	var already prometheus.AlreadyRegisteredError
	if reg != nil {
		if err := reg.Register(vec); errors.As(err, &already) {
			if existing, ok := already.ExistingCollector.(*prometheus.CounterVec); ok {
				return existing
			}
		}
	}
	return vec
}
