// Package sync owns GET /sync and the filters that go with it: a read of what
// others own, from one published position to the next. Its only table is that
// of filters.
//
// A request takes the published position P first and answers with everything in
// (S, P], where S is the position of its since token. What has no position in
// the database, typing and presence, follows the hub's ephemeral sequence. Room
// state is compared as it was at S and at P, so a change that came about without
// an event (a state resolution) reaches the client as well.
package sync

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knock/clientapi/syncread"
	"knock/internal/account"
	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/e2ee"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/pushrules"
	"knock/internal/sqldb"
	"knock/internal/sticky"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Keys is end-to-end encryption as /sync tells of it; e2ee.Service does.
type Keys interface {
	// KeyCounts returns the number of unclaimed one-time keys by algorithm, and
	// the algorithms whose fallback key has not been used.
	KeyCounts(ctx context.Context, userID, deviceID string) (oneTime map[string]int, unusedFallback []string, err error)
	// DeviceLists returns the users whose keys must be fetched again, and those
	// with whom no room is shared any more, for from < position ≤ to.
	DeviceLists(tx *sqldb.Tx, userID string, from, to int64, m e2ee.Moves) (changed, left []string, err error)
	// ToDevice returns messages for a device with from < position ≤ to, at most
	// limit; when there are more, those after next come next.
	ToDevice(tx *sqldb.Tx, userID, deviceID string, from, to int64, limit int) (events []json.RawMessage, next int64, more bool, err error)
	// AckToDevice says that a device has all messages up to a position.
	AckToDevice(userID, deviceID string, upto int64)
}

// Options are what a Sync needs.
type Options struct {
	DB       *sqldb.DB
	Hub      *stream.Hub
	Rooms    *roomserver.Server
	Accounts *account.Service
	Push     *pushrules.Service
	Typing   *ephemeral.Typing
	Receipts *ephemeral.Receipts
	Presence *ephemeral.Presence

	Keys   Keys           // nil: no device has keys
	Sticky *sticky.Events // nil: no event is sticky
	// Bundle returns what else timeline events carry for a viewer, such as
	// aggregations of relations; nil: nothing.
	Bundle syncread.Bundle
	// Related returns those of events that have children of any of the rel_types and senders, nil lists being any; it
	// may be nil.
	Related func(tx *sqldb.Tx, events []*store.Stored, relTypes, senders *[]string) ([]*store.Stored, error)

	Clock      clock.Clock           // nil: the system's
	Registerer prometheus.Registerer // nil: no metrics
}

// Sync answers /sync.
type Sync struct {
	o       Options
	boot    string // names this start in tokens
	filters *cache.Cache[string, *filter]
	devices *cache.Cache[string, *device]
	reader  *syncread.Reader
}

// New makes a Sync.
func New(o Options) *Sync {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &Sync{
		o: o, boot: rand.Text()[:8],
		filters: cache.New(cache.Options[string, *filter]{Name: "sync_filters", Entries: 10_000, Bytes: 8 << 20, Registerer: o.Registerer,
			Cost: func(k string, f *filter) int64 { return int64(len(k)) + f.cost }}),
		devices: cache.New(cache.Options[string, *device]{Name: "sync_devices", Entries: 4096, Registerer: o.Registerer}),
		reader:  syncread.New(syncread.Options{Rooms: o.Rooms, Bundle: o.Bundle, Clock: o.Clock, Registerer: o.Registerer}),
	}
}

// Reader is what reads rooms, for sliding sync to share.
func (s *Sync) Reader() *syncread.Reader { return s.reader }

// Routes is the route table.
func (s *Sync) Routes() []httpx.Route {
	const base = "/_matrix/client/v3/"
	return []httpx.Route{
		{Method: http.MethodGet, Path: base + "sync", Handler: s.sync, Auth: httpx.AuthGuestOK, Spec: "Syncing", Hot: true, Waits: true},
		{Method: http.MethodGet, Path: base + "initialSync", Handler: s.initialSync, Auth: httpx.AuthUser, Spec: "Syncing"},
		{Method: http.MethodPost, Path: base + "user/{userId}/filter", Handler: s.putFilter, Auth: httpx.AuthGuestOK, Spec: "Filtering"},
		{Method: http.MethodGet, Path: base + "user/{userId}/filter/{filterId}", Handler: s.getFilter, Auth: httpx.AuthGuestOK, Spec: "Filtering"},
	}
}

// maxTimeout bounds how long a request waits.
const maxTimeout = time.Minute

// request is one GET /sync.
type request struct {
	user, device string
	since        token
	initial      bool // no since, or one of another epoch
	stale        bool // since is of another start of this node
	full         bool // full_state
	stateKey     string
	after        bool // the state at the end of the timeline is asked for (MSC4222)
	presence     string
	timeout      time.Duration
	filter       *filter
	ignored      map[string]struct{}
	seen         *device
}

func (s *Sync) parse(ctx context.Context, r *httpx.Request) (*request, error) {
	q := &request{user: r.Caller.UserID, device: r.Caller.DeviceID, presence: r.Query("set_presence"),
		full: r.Query("full_state") == "true", stateKey: "state"}
	switch q.presence {
	case "", ephemeral.Online, ephemeral.Offline, ephemeral.Unavailable:
	default:
		return nil, matrixerr.InvalidParam("set_presence must be online, unavailable or offline")
	}
	for _, name := range []string{"org.matrix.msc4222.state_after", "state_after"} {
		prefix := name[:len(name)-len("state_after")]
		if r.Query(prefix+"use_state_after") == "true" {
			q.stateKey, q.after = name, true
		}
	}
	ms, err := r.Int("timeout", 0, int(maxTimeout/time.Millisecond))
	if err != nil {
		return nil, err
	}
	q.timeout = time.Duration(ms) * time.Millisecond
	if err := s.parseSince(q, r.Query("since")); err != nil {
		return nil, err
	}
	if q.filter, err = s.findFilter(ctx, q.user, r.Query("filter")); err != nil {
		return nil, err
	}
	return q, nil
}

func (s *Sync) parseSince(q *request, text string) error {
	if text == "" {
		q.initial = true
		return nil
	}
	t, err := parseToken(text)
	if err != nil {
		return err
	}
	if t.epoch != s.o.DB.Epoch() || t.pos > s.o.Hub.Published() {
		q.initial = true
		return nil
	}
	if t.boot != s.boot {
		t.eph, q.stale = 0, true
	}
	q.since = t
	if s.o.Keys != nil && q.device != "" {
		s.o.Keys.AckToDevice(q.user, q.device, t.messages())
	}
	return nil
}

// sync answers at once when there is something to tell or the client does not
// want to wait, and else waits for it.
func (s *Sync) sync(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := s.parse(r.Context(), r)
	if err != nil {
		return nil, err
	}
	defer s.o.Presence.Sync(q.user, q.device, q.presence)()
	q.seen = s.deviceOf(q)
	wait, cancel := context.WithTimeout(ctx, q.timeout)
	defer cancel()
	atOnce := q.initial || q.full
	reads := len(q.filter.profiles) > 0 && s.o.Accounts.ReadsProfiles(q.user)
	for look := atOnce || reads || q.stale || q.since.toDevice != 0 || q.since.sticky != 0 || q.timeout == 0; ; look = false {
		at := s.now()
		if look || s.o.Hub.Ready(q.user, q.since.pos, q.since.eph) {
			body, some, err := s.answer(r.Context(), q, at)
			if err != nil {
				return nil, err
			}
			if some || atOnce {
				return httpx.Raw(body), nil
			}
			q.since, q.stale = at, false // nothing of it concerns this client
		}
		if !s.o.Hub.Wait(wait, q.user, q.since.pos, q.since.eph) {
			return s.nothing(r.Context(), q)
		}
	}
}

// now is the token of everything that is published. The position comes first: a
// change that is counted in either is also visible.
func (s *Sync) now() token {
	return token{pos: s.o.Hub.Published(), eph: s.o.Hub.Ephemeral(), boot: s.boot, epoch: s.o.DB.Epoch()}
}

// nothing answers that nothing happened after since.
func (s *Sync) nothing(ctx context.Context, q *request) (any, error) {
	a := &answer{Sync: s, q: q, at: q.since}
	if err := a.countKeys(ctx); err != nil {
		return nil, err
	}
	body, _ := a.encode()
	q.seen.Offer(a.at, nil)
	return httpx.Raw(body), nil
}
