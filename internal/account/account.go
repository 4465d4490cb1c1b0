// Package account owns the people of this node: users, their passwords, devices and tokens, profiles, account data
// and tags, e-mail addresses and their validation, registration tokens, OpenID and login tokens and the
// sessions of User-Interactive Authentication. It is the only reader and writer of the tables in 0003_accounts.sql,
// 0241_threepids.sql, 0242_login.sql, 0290_external_ids.sql, 0292_external_sessions.sql and of users in 0240_standing.sql and 0244_validity.sql.
package account

import (
	"context"
	"encoding/json"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
	"knock/internal/stream"
)

// Options are what a Service needs. Zero values have defaults except for DB, Hub and ServerName.
type Options struct {
	DB         *sqldb.DB
	Hub        *stream.Hub
	ServerName string

	// AccessTokenLifetime is how long an access token lives that comes with a refresh token; 0 is for ever.
	AccessTokenLifetime time.Duration
	// RefreshTokenLifetime is how long a refresh token may stay unused; 0 is for ever.
	RefreshTokenLifetime time.Duration
	// MinPasswordLength in characters is asked of people who choose a password; 0 is 8.
	MinPasswordLength int
	// NoPasswords are issuers: accounts of people there take no passwords.
	NoPasswords []string
	// Validity is how long accounts are good.
	Validity Validity
	// HashWorkers is how many passwords are hashed at once, 19 MiB each; 0 is one a core.
	HashWorkers int
	// CachedTokens is how many access tokens are kept in memory; 0 is 50,000.
	CachedTokens int
	// Exclusive says whether an application service other than the named one has claimed a user id; nil: none has.
	Exclusive func(userID, service string) bool
	// Herald is the user who speaks for the server, whom nobody can ignore and whose invites come to everybody; "": there
	// is none.
	Herald string

	Now        func() time.Time      // nil: time.Now
	Log        *logrus.Entry         // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// ProfileFanout is told of each change of a local user's profile, to update the user's m.room.member events: in the
// transaction of the change, where it writes down what is to be done, and after its commit. Then it answers at once and
// works in the background. A nil value means that the field was removed.
type ProfileFanout interface {
	ProfileChanging(tx *sqldb.Tx, userID, field string) error
	ProfileChanged(ctx context.Context, userID, field string, value json.RawMessage) error
}

// Deactivations is told of each deactivation, to take the user out of rooms, as ProfileFanout is.
type Deactivations interface {
	UserDeactivating(tx *sqldb.Tx, userID string) error
	UserDeactivated(ctx context.Context, userID string, erase bool) error
}

// Service is the domain of accounts. It is safe for concurrent use.
type Service struct {
	o         Options
	db        *sqldb.DB
	suffix    string // ":" and the server name
	hasher    *hasher
	tokens    *tokenCache
	seen      *lastSeen
	ignored   *ignoredCache
	ignoring  *ignoring
	inviting  *inviting
	known     *knownUsers
	numbers   *knownDevices
	pending   *reservations
	readers   *profileReaders
	standings *standings
	erasures  *erasures
	watches   *watches
	metrics   *metrics

	profiles      ProfileFanout
	deactivations Deactivations
	devices       DeviceHook
	remind        func(context.Context, Reminder) error
	unknown       func(ctx context.Context, userID string) bool
}

// New makes a Service on a migrated database. It starts nothing; Run does the work in the background.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MinPasswordLength == 0 {
		o.MinPasswordLength = 8
	}
	if o.HashWorkers <= 0 {
		o.HashWorkers = runtime.GOMAXPROCS(0)
	}
	if o.CachedTokens <= 0 {
		o.CachedTokens = 50_000
	}
	return &Service{o: o, db: o.DB, suffix: ":" + o.ServerName, hasher: newHasher(o.HashWorkers),
		tokens: newTokenCache(o.CachedTokens), seen: newLastSeen(), ignored: newIgnoredCache(), ignoring: newIgnoring(o.Herald), inviting: newInviting(), known: newKnownUsers(), numbers: newKnownDevices(),
		pending: newReservations(), readers: newProfileReaders(o.Hub), standings: newStandings(), erasures: newErasures(), watches: newWatches(), metrics: newMetrics(o.Registerer)}
}

// OnProfileChange sets who is told of profile changes. Call it before requests are served.
func (s *Service) OnProfileChange(f ProfileFanout) { s.profiles = f }

// OnDeactivate sets who is told of deactivations. Call it before requests are served.
func (s *Service) OnDeactivate(d Deactivations) { s.deactivations = d }

// OnUnknownUser sets who is asked about users that are looked up and do not exist; true says that they may exist now.
// Call it before requests are served.
func (s *Service) OnUnknownUser(ask func(ctx context.Context, userID string) bool) { s.unknown = ask }

// ServerName is the name of the node whose users these are.
func (s *Service) ServerName() string { return s.o.ServerName }

// Run writes down when devices were last seen and removes what has expired, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	s.housekeep("ends of accounts", s.limitOld(ctx))
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			s.housekeep("last seen", s.flushSeen(context.WithoutCancel(ctx)))
			return nil
		case <-tick.C:
			s.housekeep("last seen", s.flushSeen(ctx))
			if n%10 == 0 {
				s.housekeep("OpenID tokens", s.pruneOpenID(ctx))
				s.housekeep("ends of accounts", s.RemindUsers(ctx))
				s.housekeep("login tokens", s.pruneLoginTokens(ctx))
				s.housekeep("validations of addresses", s.pruneValidations(ctx))
			}
		}
	}
}

func (s *Service) housekeep(what string, err error) {
	if err != nil && s.o.Log != nil {
		s.o.Log.WithError(err).Warn("account: could not write down: " + what)
	}
}

func (s *Service) now() int64 { return s.o.Now().UnixMilli() }

// userID is the full id of a localpart of ours.
func (s *Service) userID(localpart string) string { return "@" + localpart + s.suffix }

// Localpart is the localpart of a user id of this server; false for anybody else's.
func (s *Service) Localpart(userID string) (string, bool) {
	local, ok := strings.CutSuffix(userID, s.suffix)
	if !ok || len(userID) > maxUserID || len(local) < 2 || local[0] != '@' || strings.ContainsAny(local, ":\x00") {
		return "", false
	}
	return local[1:], true
}

// metrics count sign-ins and look-ups of tokens.
type metrics struct {
	logins, tokens *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "knock_account_logins_total",
			Help: "Attempts to log in by password, by result."}, []string{"result"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "knock_account_token_loads_total",
			Help: "Access tokens that were not in memory, by what the database said."}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(m.logins, m.tokens)
	}
	return m
}

// generations is a bounded map: when the young half is full, the old half is dropped. The holder locks it.
type generations[K comparable, V any] struct {
	young, old map[K]V
	half       int
}

func newGenerations[K comparable, V any](limit int) generations[K, V] {
	return generations[K, V]{young: make(map[K]V), half: max(limit/2, 1)}
}

// get finds a value; aged says that it is due for another put if it is to stay.
func (g *generations[K, V]) get(k K) (v V, aged, ok bool) {
	if v, ok = g.young[k]; ok {
		return v, false, true
	}
	v, ok = g.old[k]
	return v, ok, ok
}

func (g *generations[K, V]) put(k K, v V) {
	if len(g.young) >= g.half {
		g.old, g.young = g.young, make(map[K]V)
	}
	g.young[k] = v
}

func (g *generations[K, V]) drop(k K) {
	delete(g.young, k)
	delete(g.old, k)
}

// epoch is counted up by every invalidation. A loader notes it before it reads the database and caches what it found
// only if nothing was invalidated meanwhile.
type epoch struct{ atomic.Uint64 }
