package e2ee

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Hub knows which local users are in which rooms and whom a change wakes.
type Hub interface {
	JoinedRooms(userID string) []string
	ShareRoom(a, b string) bool
	TouchRoom(roomID string, pos int64)
	TouchUser(userID string, pos int64)
	Published() int64
}

// Rooms tells who is joined where, other servers' users included, as the transaction sees it.
type Rooms interface {
	// Servers returns the other servers that share a room with a local user.
	Servers(tx *sqldb.Tx, userID string) ([]string, error)
	// SharedRooms returns the rooms of another server's user that somebody here has joined too.
	SharedRooms(tx *sqldb.Tx, userID string) ([]string, error)
	// Members returns the joined users of a room.
	Members(tx *sqldb.Tx, roomID string) ([]string, error)
	// Sharing returns those of others who share a room with a local user.
	Sharing(tx *sqldb.Tx, userID string, others []string) ([]string, error)
}

// Accounts owns the devices of local users.
type Accounts interface {
	// DeviceNames returns user id → device id → display name.
	DeviceNames(tx *sqldb.Tx, userIDs []string) (map[string]map[string]string, error)
	AddDevice(tx *sqldb.Tx, nid int64, userID, deviceID, name string) error
	RemoveDevices(tx *sqldb.Tx, pos int64, userID string, ids []string) (committed func(), err error)
}

// Remote asks other servers. Answers are JSON objects as in the Server-Server API, unchecked.
type Remote interface {
	QueryDeviceKeys(ctx context.Context, server string, want map[string][]string) (json.RawMessage, error)
	ClaimKeys(ctx context.Context, server string, want map[string]map[string]string) (json.RawMessage, error)
	UserDevices(ctx context.Context, server, userID string) (json.RawMessage, error)
}

// Outbox is told, after the commit, which servers PendingEDUs has something for. It must not block.
type Outbox interface{ Wake(servers []string) }

// Options are what a Service needs. Remote and Outbox are nil on a node without federation.
type Options struct {
	DB         *sqldb.DB
	Hub        Hub
	Rooms      Rooms
	Accounts   Accounts
	Remote     Remote
	Outbox     Outbox
	ServerName string
	// Verify checks a signature of a user on a JSON object.
	Verify func(object []byte, userID, keyID string, key ed25519.PublicKey) error

	Clock      clock.Clock           // nil: the system's
	Log        *logrus.Entry         // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// Service is the domain of end-to-end encryption. It is safe for concurrent use.
type Service struct {
	o       Options
	db      *sqldb.DB
	counts  *countCache
	batches *cache.Cache[int64, []byte]
	recent  *recent
	boxes   *mailboxes
	resyncs *resyncs
}

// batchCacheBytes bounds the memory for uploads of one-time keys.
const batchCacheBytes = 8 << 20

// New makes a Service on a migrated database. It starts nothing.
func New(o Options) *Service {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &Service{o: o, db: o.DB, counts: newCountCache(o.Registerer), recent: newRecent(o.Hub.Published()),
		boxes: newMailboxes(), resyncs: newResyncs(),
		batches: cache.New(cache.Options[int64, []byte]{Name: "e2ee_batches", Entries: 20_000, Bytes: batchCacheBytes,
			Cost: func(_ int64, b []byte) int64 { return int64(len(b)) + 64 }, Registerer: o.Registerer})}
}

// metaEpoch names the database's epoch that the one-time keys belong to.
const metaEpoch = "e2ee.epoch"

// Start runs before the first request. After a restore it drops all one-time keys: some of them may have been given
// out since the backup was made, and none must be given out twice. Clients see that they are gone and upload others.
func (s *Service) Start(ctx context.Context) error {
	was, err := s.db.Meta(ctx, metaEpoch)
	if err != nil || string(was) == s.db.Epoch() {
		return err
	}
	err = s.db.Do(ctx, &sqldb.Op{Name: "e2ee.restored", Write: func(tx *sqldb.Tx, _ int64) error {
		if _, err := tx.Exec(allBatchesDelete); err != nil {
			return err
		}
		_, err := tx.Exec(allBatchKeysDelete)
		return err
	}})
	if err != nil {
		return err
	}
	return s.db.SetMeta(ctx, metaEpoch, []byte(s.db.Epoch()))
}

// maxID bounds user, device and key ids.
const maxID = 255

// serverOf is the server of a user id; "" for what is none.
func serverOf(userID string) string {
	_, server, ok := strings.Cut(userID, ":")
	if !ok || userID[0] != '@' || len(userID) > maxID || strings.ContainsRune(userID, 0) {
		return ""
	}
	return server
}

func (s *Service) local(userID string) bool { return serverOf(userID) == s.o.ServerName }

// localOnly keeps the users of this server.
func localOnly[V any](s *Service, users map[string]V) map[string]V {
	out := make(map[string]V, len(users))
	for user, v := range users {
		if s.local(user) {
			out[user] = v
		}
	}
	return out
}

// byServer splits users by their server; what is no user id is left out.
func byServer[V any](users map[string]V) map[string]map[string]V {
	out := map[string]map[string]V{}
	for user, v := range users {
		server := serverOf(user)
		if server == "" {
			continue
		}
		if out[server] == nil {
			out[server] = map[string]V{}
		}
		out[server][user] = v
	}
	return out
}

func keysOf[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// after is what an operation does once it is committed; each attempt of its Write sets it anew.
type after struct{ fns []func() }

func (a *after) add(fn func()) {
	if fn != nil {
		a.fns = append(a.fns, fn)
	}
}

func (a *after) reset() { a.fns = a.fns[:0] }

func (a *after) run(int64) {
	for _, fn := range a.fns {
		fn()
	}
}

// do runs one operation. write returns a *matrixerr.Error as its verdict before it has written anything; any other
// error rolls back.
func (s *Service) do(ctx context.Context, name string, positions int, write func(tx *sqldb.Tx, pos int64, done *after) error) error {
	var done after
	var verdict error
	err := s.db.Do(ctx, &sqldb.Op{Name: name, Positions: positions, Committed: done.run,
		Write: func(tx *sqldb.Tx, pos int64) error {
			done.reset()
			verdict = write(tx, pos, &done)
			var refused *matrixerr.Error
			if errors.As(verdict, &refused) {
				return nil
			}
			return verdict
		}})
	if err == nil {
		err = verdict
	}
	return err
}

func (s *Service) warn(err error, what string) {
	if err != nil && s.o.Log != nil {
		s.o.Log.WithError(err).Warn("e2ee: " + what)
	}
}

// defaultTimeout and maxTimeout bound how long a client waits for other servers.
const (
	defaultTimeout = 10 * time.Second
	maxTimeout     = 30 * time.Second
)

func remoteTimeout(asked time.Duration) time.Duration {
	if asked <= 0 {
		return defaultTimeout
	}
	return min(asked, maxTimeout)
}
