package mediaapi

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"knock/internal/clock"
	"knock/internal/sqldb"
	"knock/mediaapi/files"
	"knock/mediaapi/preview"
)

// Files is where contents are. *files.Disk is one.
type Files interface {
	// Receive streams r to a place of its own; the result goes to Keep or Discard. More than limit bytes are
	// files.ErrTooLarge, a failure of r is a *files.ReadError.
	Receive(r io.Reader, limit int64) (*files.Incoming, error)
	// Keep makes content durable and then calls row, which commits what names it.
	Keep(in *files.Incoming, row func() error) error
	Discard(in *files.Incoming)
	// Open gives a content; fs.ErrNotExist when there is none.
	Open(h files.Hash) (*os.File, error)
	// Sweep removes what no row names in one of files.Shards parts.
	Sweep(ctx context.Context, shard int, age time.Duration, refs files.References) (removed int, freed int64, err error)
	// RemoveTemps removes what interrupted uploads left.
	RemoveTemps(age time.Duration) (removed int, err error)
}

// Remote fetches media from other servers.
type Remote interface {
	// FetchMedia asks server for one of its media. The body need not be cut at maxBytes, but an answer that announces
	// more may be refused at once with M_TOO_LARGE. A *matrixerr.Error with M_NOT_FOUND, M_NOT_YET_UPLOADED or
	// M_TOO_LARGE is passed on in its meaning; all others mean that the server could not be reached.
	FetchMedia(ctx context.Context, server, mediaID string, maxBytes int64) (*RemoteMedia, error)
}

// RemoteMedia is the answer of another server.
type RemoteMedia struct {
	ContentType string // as sent; may be empty or nonsense
	Filename    string // of its Content-Disposition, decoded; may be empty
	Body        io.ReadCloser
}

// Quota decides whether a user may add size bytes to what is stored (size is 0 when the client did not announce it).
// Its error is the answer: 403 M_FORBIDDEN is what the specification has for it. Usage tells what there is.
type Quota func(ctx context.Context, user string, size int64) error

// Options say how media are kept. Zero values choose the defaults that are given.
type Options struct {
	DB         *sqldb.DB
	Files      Files
	ServerName string
	Remote     Remote // nil: other servers' media are not fetched
	Quota      Quota  // nil: no quotas
	Log        *logrus.Entry
	Registerer prometheus.Registerer

	MaxUpload     int64         // bytes of one upload; 50 MiB
	MaxRemote     int64         // bytes of one medium of another server; 100 MiB
	RemoteTimeout time.Duration // for one of them to arrive; 2 minutes

	// RemoteRetention is how long cached media of other servers are kept after their last use; 0: for good.
	RemoteRetention time.Duration
	// RemoteCache is how many bytes of them are kept, least recently used ones going first; 0: any number.
	RemoteCache int64

	PendingExpiry  time.Duration // how long a created URI waits for its content; 24 hours
	PendingPerUser int           // how many may wait at once; 10
	MaxWait        time.Duration // how long a download waits for content to be uploaded, at most; 1 minute

	MaxPixels       int64         // of an image that is thumbnailed; 50 million
	ThumbnailMemory int64         // bytes that decoding may take, all together; 64 MiB, and one larger image at a time
	ThumbnailTime   time.Duration // for one image; 20 s

	Pages        *preview.Fetcher // nil: no previews of web pages
	MaxPage      int64            // bytes of a page that are read; 4 MiB
	MaxPageImage int64            // bytes of an image of a page; 10 MiB
	PreviewAge   time.Duration    // how long previews and their images are kept; 7 days
	PreviewCache int64            // bytes of them that are kept, and that a day may bring; 1 GiB

	// Freeze is when the unauthenticated endpoints were frozen: media stored later are not served there. The zero
	// time freezes them all.
	Freeze time.Time
	// LegacyUnauthenticated opens the unauthenticated endpoints to all media, whatever Freeze says.
	LegacyUnauthenticated bool

	Clock clock.Clock // nil: the machine's
}

func (o *Options) defaults() {
	def(&o.MaxUpload, 50<<20)
	def(&o.MaxRemote, 100<<20)
	def(&o.RemoteTimeout, 2*time.Minute)
	def(&o.PendingExpiry, 24*time.Hour)
	def(&o.PendingPerUser, 10)
	def(&o.MaxWait, time.Minute)
	def(&o.MaxPixels, 50_000_000)
	def(&o.ThumbnailMemory, 64<<20)
	def(&o.ThumbnailTime, 20*time.Second)
	def(&o.MaxPage, 4<<20)
	def(&o.MaxPageImage, 10<<20)
	def(&o.PreviewAge, 7*24*time.Hour)
	def(&o.PreviewCache, 1<<30)
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		o.Log = logrus.NewEntry(silent)
	}
}

func def[T int | int64 | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

// maxRemoteFetches bounds how many media are fetched from other servers at once.
const maxRemoteFetches = 32

// Media is the media store. It is safe for concurrent use.
type Media struct {
	o        Options
	store    store
	metrics  *metrics
	arrivals arrivals
	fetches  flights
	fetching *semaphore.Weighted
	failed   failures
	thumbs   flights
	decoding *semaphore.Weighted
	accesses accesses

	previews  flights
	visitors  visitors
	allowance *rate.Limiter // of bytes that images of pages may bring
}

// New makes a media store. It starts nothing; see Run.
func New(o Options) *Media {
	o.defaults()
	return &Media{o: o, store: store{o.DB}, metrics: newMetrics(o.Registerer),
		fetching: semaphore.NewWeighted(maxRemoteFetches), decoding: semaphore.NewWeighted(o.ThumbnailMemory),
		visitors:  visitors{all: semaphore.NewWeighted(maxPreviews)},
		allowance: rate.NewLimiter(rate.Limit(float64(o.PreviewCache)/(24*time.Hour).Seconds()), int(o.PreviewCache))}
}

// Usage is what a user has stored.
type Usage struct {
	Files int64 // number of media, pending ones not counted
	Bytes int64 // the sum of their sizes; a content uploaded twice counts twice
}

// Usage returns what a user has stored, for quotas.
func (m *Media) Usage(ctx context.Context, user string) (Usage, error) {
	return m.store.usage(ctx, user)
}

func (m *Media) now() int64 { return m.o.Clock.Millis() }

// upkeepEvery is the time between two rounds of upkeep. Each round sweeps one of the shards, so that the whole store
// is gone over in about a day.
const upkeepEvery = 5 * time.Minute

// Run keeps the store tidy until ctx ends: it removes what crashed uploads left, expires pending uploads, evicts
// cached media of other servers and collects files that nothing names.
func (m *Media) Run(ctx context.Context) error {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for shard := 0; ; shard = (shard + 1) % files.Shards {
		if err := m.upkeep(ctx, shard); err != nil && ctx.Err() == nil {
			m.o.Log.WithError(err).Error("Upkeep of the media store failed; it is tried again in a few minutes")
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return m.saveAccesses(ctx)
		}
	}
}

func (m *Media) upkeep(ctx context.Context, shard int) error {
	removed, err := m.o.Files.RemoveTemps(tempAge)
	if removed > 0 {
		m.o.Log.WithField("files", removed).Info("Removed what interrupted uploads left")
	}
	return errors.Join(err, m.saveAccesses(ctx), m.expire(ctx), m.forget(ctx), m.collect(ctx, shard))
}
