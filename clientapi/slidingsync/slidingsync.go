// Package slidingsync owns simplified sliding sync (MSC4186): a client says which
// of its rooms it wants to see, and gets what it has not been told of them. There
// are two forms on the wire over one core.
//
// What a client has been told is a connection's state: for each room a few
// numbers. A room that was in view when the last answer was made is "live":
// everything up to the position in the client's token has been told. So an answer
// that tells of new events in live rooms changes nothing but the position, which
// the token carries, and costs no write. Only when rooms come into view or leave
// it, or their configuration changes, the state gets a new generation, which is
// committed before the answer is sent; the one before is kept until the client
// comes back with the new one.
package slidingsync

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/clientapi/syncread"
	"knock/internal/account"
	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/e2ee"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/sticky"
	"knock/internal/stream"
	"knock/internal/threads"
	"knock/roomserver"
)

// Keys is end-to-end encryption as the to_device and e2ee extensions need it.
type Keys interface {
	// KeyCounts returns the number of unclaimed one-time keys by algorithm, and the
	// algorithms whose fallback key has not been used.
	KeyCounts(ctx context.Context, userID, deviceID string) (oneTime map[string]int, unused []string, err error)
	// DeviceLists returns the users whose keys must be fetched again, and those with
	// whom no room is shared any more, for from < position ≤ to.
	DeviceLists(tx *sqldb.Tx, userID string, from, to int64, m e2ee.Moves) (changed, left []string, err error)
	// ToDevice returns messages for a device with from < position ≤ to, at most
	// limit, and the position after which the next ones come.
	ToDevice(tx *sqldb.Tx, userID, deviceID string, from, to int64, limit int) (events []json.RawMessage, next int64, more bool, err error)
	// AckToDevice says that a device has all messages up to a position.
	AckToDevice(userID, deviceID string, upto int64)
}

// Options are what a Sync needs.
type Options struct {
	DB       *sqldb.DB
	Hub      *stream.Hub
	Rooms    *roomserver.Server
	Reader   *syncread.Reader // that of /sync
	Accounts *account.Service
	Push     *pushrules.Service
	Typing   *ephemeral.Typing
	Receipts *ephemeral.Receipts
	Presence *ephemeral.Presence
	Keys     Keys                   // nil: the extensions to_device and e2ee are not there
	Threads  *threads.Subscriptions // nil: the extension of thread subscriptions is not there
	Sticky   *sticky.Events         // nil: that of sticky events is not there

	Clock      clock.Clock           // nil: the system's
	Log        *logrus.Entry         // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// Feature is the flag for GET /versions of the unstable form.
const Feature = "org.matrix.simplified_msc3575"

// Sync answers sliding syncs.
type Sync struct {
	o       Options
	boot    string // names this start in tokens
	conns   *cache.Cache[connKey, *connection]
	rosters *cache.Cache[string, *roster]
	spaces  *cache.Cache[int64, space]
	pool    sync.Pool // of *[]target

	maxRooms, maxBytes int // of what one answer tells: the rest comes with the next ones
}

// New makes a Sync.
func New(o Options) *Sync {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &Sync{
		o: o, boot: rand.Text()[:8], maxRooms: 2000, maxBytes: 16 << 20,
		conns: cache.New(cache.Options[connKey, *connection]{Name: "sliding_connections", Entries: 50_000, Bytes: 128 << 20, Registerer: o.Registerer,
			Cost: func(_ connKey, c *connection) int64 { return c.cost() }}),
		rosters: cache.New(cache.Options[string, *roster]{Name: "sliding_rosters", Entries: 20_000, Bytes: 64 << 20, Registerer: o.Registerer,
			Cost: func(_ string, r *roster) int64 { return int64(200*len(r.order)) + 200 }}),
		spaces: cache.New(cache.Options[int64, space]{Name: "sliding_spaces", Entries: 5_000, Bytes: 16 << 20, Registerer: o.Registerer,
			Cost: func(_ int64, sp space) int64 { return int64(80*len(sp.children)) + 100 }}),
	}
}

// maxBody bounds a request: a hundred rooms with twenty pieces of state each fit.
const maxBody = 512 << 10

// Routes is the route table.
func (s *Sync) Routes() []httpx.Route {
	row := func(path string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: http.MethodPost, Path: path, Handler: h, Auth: httpx.AuthGuestOK, MaxBody: maxBody,
			Spec: "MSC4186", Hot: true, Waits: true}
	}
	return []httpx.Route{
		row("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", s.syncUnstable),
		row("/_matrix/client/v4/sync", s.syncV4),
	}
}

// Position returns the position of a pos token that was made for this database,
// for endpoints that take tokens of a sync; false when it is none.
func (s *Sync) Position(text string) (pos int64, ok bool) {
	t, ok := parseToken(text)
	if !ok || t.epoch != s.o.DB.Epoch() {
		return 0, false
	}
	return t.pos, true
}

// maxTimeout bounds how long a request waits.
const maxTimeout = time.Minute

// now is the token of everything that is published. The position comes first: a
// change that is counted in either is also visible.
func (s *Sync) now() token {
	return token{pos: s.o.Hub.Published(), eph: s.o.Hub.Ephemeral(), boot: s.boot, epoch: s.o.DB.Epoch()}
}

// upTo is the token of what an answer tells of: of everything, unless nothing of
// it concerns the user. Then only the request itself can make something new.
func (s *Sync) upTo(q *request) token {
	at := s.now()
	if !q.initial && !s.o.Hub.Ready(q.user, q.since.pos, q.since.eph) {
		at.pos, at.eph = q.since.pos, q.since.eph
	}
	return at
}

// serve answers at once when there is something to tell or the client does not
// want to wait, and else waits for it.
func (s *Sync) serve(ctx context.Context, r *httpx.Request, q *request) (any, error) {
	defer s.o.Presence.Sync(q.user, q.device, q.presence)()
	own, release, err := s.enter(r.Context(), q)
	if err != nil {
		return nil, err
	}
	defer release()
	if q.ext.profiles.enabled && s.o.Accounts.ReadsProfiles(q.user) {
		s.o.Hub.TouchReader(q.user, s.o.Hub.Published()) // something may have changed before
	}
	wait, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	stop := context.AfterFunc(own, cancel)
	defer stop()
	for {
		a, err := s.look(own, q, s.upTo(q))
		if err != nil {
			return nil, superseded(own, err)
		}
		q.adopt(a)
		if a.some || q.initial || q.timeout == 0 || !s.o.Hub.Wait(wait, q.user, q.since.pos, q.since.eph) {
			if own.Err() != nil {
				return nil, superseded(own, own.Err())
			}
			return s.finish(own, q, a)
		}
	}
}
