package mediaapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// fakeRemote is the other servers.
type fakeRemote struct {
	calls  atomic.Int64
	answer func(server, id string) (*RemoteMedia, error)
}

func (f *fakeRemote) FetchMedia(_ context.Context, server, id string, _ int64) (*RemoteMedia, error) {
	f.calls.Add(1)
	return f.answer(server, id)
}

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

func TestRemote(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		far := &fakeRemote{answer: func(server, id string) (*RemoteMedia, error) {
			return &RemoteMedia{ContentType: "text/plain", Filename: "ä\r\n.txt", Body: body(server + " " + id)}, nil
		}}
		n := newNode(t, db, func(o *Options) { o.Remote = far })
		for range 3 {
			a := n.want(n.get(downloads+"there.example:8448/abc"), 200, "")
			if string(a.body) != "there.example:8448 abc" || a.Header.Get("Content-Disposition") != "inline; filename*=utf-8''%C3%A4.txt" {
				t.Errorf("%q %v", a.body, a.Header)
			}
		}
		if far.calls.Load() != 1 {
			t.Errorf("fetched %d times", far.calls.Load())
		}
		if u, err := n.Usage(t.Context(), ""); err != nil || u.Files != 1 {
			t.Errorf("usage %+v, %v", u, err)
		}
		// The frozen endpoints do not even ask, and federation serves our own media only.
		n.want(n.do("GET", "/_matrix/media/v3/download/there.example/new", "", nil), 404, "M_NOT_FOUND")
		n.want(n.do("GET", "/_matrix/federation/v1/media/download/abc", "", nil, "X-Origin: third.example"), 404, "M_NOT_FOUND")
		if far.calls.Load() != 1 {
			t.Errorf("fetched %d times", far.calls.Load())
		}
	})
}

// Many who ask for the same at once cost its server one request.
func TestRemoteSingleFlight(t *testing.T) {
	release := make(chan struct{})
	far := &fakeRemote{answer: func(string, string) (*RemoteMedia, error) {
		<-release
		return &RemoteMedia{ContentType: "a/b", Body: body("content")}, nil
	}}
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), func(o *Options) { o.Remote = far })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := n.get(downloads + "there.example/abc"); a.StatusCode != 200 || string(a.body) != "content" {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	for far.calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	close(release)
	wg.Wait()
	if far.calls.Load() != 1 {
		t.Errorf("fetched %d times", far.calls.Load())
	}
}

// The fetch goes on for those who wait when the one who began it goes away.
func TestRemoteOutlivesFirst(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	far := &fakeRemote{answer: func(string, string) (*RemoteMedia, error) {
		close(started)
		<-release
		return &RemoteMedia{Body: body("content")}, nil
	}}
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), func(o *Options) { o.Remote = far })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
		close(release)
	}()
	l := lookup{mxc: mxc{"there.example", "abc"}, fetch: true}
	if _, err := n.remote(ctx, l); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	n.want(n.get(downloads+"there.example/abc"), 200, "")
	if far.calls.Load() != 1 {
		t.Errorf("fetched %d times", far.calls.Load())
	}
}

func TestRemoteFails(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		media   *RemoteMedia
		err     error
		status  int
		errcode string
		again   int64 // fetches after a second request
		later   int64 // and after a third, an hour later
	}{
		"missing":         {nil, matrixerr.NotFound("no"), 404, "M_NOT_FOUND", 1, 2},
		"not yet":         {nil, matrixerr.NotYetUploaded(), 504, "M_NOT_YET_UPLOADED", 2, 3},
		"down":            {nil, boom, 502, "M_UNKNOWN", 1, 2},
		"refuses us":      {nil, matrixerr.Forbidden("no"), 502, "M_UNKNOWN", 1, 2},
		"says large":      {nil, matrixerr.New(502, "M_TOO_LARGE", "no"), 502, "M_TOO_LARGE", 1, 2},
		"is large":        {&RemoteMedia{Body: io.NopCloser(io.LimitReader(zeros{}, 1<<20+1))}, nil, 502, "M_TOO_LARGE", 1, 2},
		"breaks off":      {&RemoteMedia{Body: io.NopCloser(iotest.ErrReader(boom))}, nil, 502, "M_UNKNOWN", 1, 2},
		"wrapped missing": {nil, errors.Join(boom, matrixerr.NotFound("no")), 404, "M_NOT_FOUND", 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			far := &fakeRemote{answer: func(string, string) (*RemoteMedia, error) {
				if c.media == nil {
					return nil, c.err
				}
				media := *c.media
				if name == "is large" {
					media.Body = io.NopCloser(io.LimitReader(zeros{}, 1<<20+1))
				}
				return &media, nil
			}}
			n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), func(o *Options) { o.Remote = far })
			path := downloads + "there.example/abc"
			n.want(n.get(path), c.status, c.errcode)
			n.want(n.get(path), c.status, c.errcode)
			if far.calls.Load() != c.again {
				t.Errorf("fetched %d times, want %d", far.calls.Load(), c.again)
			}
			n.clock.Advance(time.Hour)
			n.want(n.get(path), c.status, c.errcode)
			if far.calls.Load() != c.later {
				t.Errorf("fetched %d times, want %d", far.calls.Load(), c.later)
			}
			if n.stored() != 0 {
				t.Errorf("%d files are left", n.stored())
			}
		})
	}
}

func TestFreeze(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		far := &fakeRemote{answer: func(string, string) (*RemoteMedia, error) {
			return &RemoteMedia{ContentType: "a/b", Body: body("far")}, nil
		}}
		freeze := time.UnixMilli(1_700_000_000_000).Add(time.Hour)
		n := newNode(t, db, func(o *Options) { o.Remote = far; o.Freeze = freeze })
		open := func(path string) answer { return n.do("GET", path, "", nil) }
		before := n.upload([]byte("before"), "a/b", "")
		for _, version := range []string{"v3", "r0", "v1"} {
			a := n.want(open("/_matrix/media/"+version+"/download/"+before), 200, "")
			if string(a.body) != "before" || a.Header.Get("Content-Disposition") != "attachment" {
				t.Errorf("%s: %q %v", version, a.body, a.Header)
			}
		}
		n.want(open("/_matrix/media/v3/download/there.example/one?allow_remote=false"), 404, "M_NOT_FOUND")
		n.want(open("/_matrix/media/v3/download/there.example/one?allow_remote=perhaps"), 400, "M_INVALID_PARAM")
		n.want(open("/_matrix/media/v3/download/there.example/one?allow_remote=true&allow_redirect=true"), 200, "")
		n.clock.Advance(time.Hour)
		after := n.upload([]byte("after"), "a/b", "")
		n.want(open("/_matrix/media/v3/download/"+before+"/name"), 200, "")
		n.want(open("/_matrix/media/v3/download/there.example/one"), 200, "")
		n.want(open("/_matrix/media/v3/download/there.example/two"), 404, "M_NOT_FOUND")
		n.want(open("/_matrix/media/v3/download/"+after), 404, "M_NOT_FOUND")
		n.want(open("/_matrix/media/v3/thumbnail/"+after+"?width=10&height=10"), 404, "M_NOT_FOUND")
		n.want(n.get(downloads+after), 200, "")
		pending := n.uri(n.do("POST", creates, alice, nil))
		n.want(open("/_matrix/media/v3/download/"+pending), 404, "M_NOT_FOUND")

		n.o.LegacyUnauthenticated = true
		n.want(open("/_matrix/media/v3/download/"+after), 200, "")
		n.want(open("/_matrix/media/v3/download/there.example/two"), 200, "")
	})
}

func TestEvict(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		far := &fakeRemote{answer: func(_, id string) (*RemoteMedia, error) {
			return &RemoteMedia{ContentType: "a/b", Body: body(strings.Repeat(id, 100))}, nil
		}}
		n := newNode(t, db, func(o *Options) { o.Remote = far; o.RemoteCache = 250 })
		own := n.upload(bytes.Repeat([]byte("own"), 100), "a/b", "")
		for _, id := range []string{"a", "b", "c"} {
			n.want(n.get(downloads+"there.example/"+id), 200, "")
			n.clock.Advance(2 * time.Hour)
		}
		n.want(n.get(downloads+"there.example/a"), 200, "") // used again: b is the oldest now
		n.clock.Advance(time.Hour)
		tidy := func() {
			t.Helper()
			for shard := range 256 {
				if err := n.upkeep(t.Context(), shard); err != nil {
					t.Fatal(err)
				}
			}
		}
		n.age(48 * time.Hour)
		tidy()
		if n.stored() != 3 || far.calls.Load() != 3 {
			t.Errorf("%d contents are left after %d fetches", n.stored(), far.calls.Load())
		}
		n.want(n.get(downloads+"there.example/a"), 200, "")
		n.want(n.get(downloads+"there.example/c"), 200, "")
		if far.calls.Load() != 3 {
			t.Error("the wrong one was evicted")
		}
		n.o.RemoteRetention = time.Minute
		n.clock.Advance(time.Hour)
		n.age(48 * time.Hour)
		tidy()
		if n.stored() != 1 {
			t.Errorf("%d contents are left", n.stored())
		}
		n.want(n.get(downloads+own), 200, "")
	})
}

// Run tidies at once and, when it ends, saves what was only in memory.
func TestRun(t *testing.T) {
	far := &fakeRemote{answer: func(string, string) (*RemoteMedia, error) { return &RemoteMedia{Body: body("x")}, nil }}
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), func(o *Options) { o.Remote = far })
	n.want(n.get(downloads+"there.example/abc"), 200, "")
	n.clock.Advance(2 * time.Hour)
	n.want(n.get(downloads+"there.example/abc"), 200, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Error(err)
	}
	med, err := n.store.get(t.Context(), "there.example", "abc")
	if err != nil || med.lastAccess != n.now() {
		t.Errorf("last used at %+v, %v", med, err)
	}
}

// A file that is gone is a 404 and not a broken answer.
func TestMissingFile(t *testing.T) {
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	uri := n.upload([]byte("x"), "a/b", "")
	med, err := n.store.get(t.Context(), "here.example", strings.TrimPrefix(uri, "here.example/"))
	if err != nil {
		t.Fatal(err)
	}
	n.age(48 * time.Hour)
	if _, _, err := n.disk.Sweep(t.Context(), int(med.hash[0]), time.Hour, nobody{n.store}); err != nil {
		t.Fatal(err)
	}
	a := n.want(n.get(downloads+uri), http.StatusNotFound, "M_NOT_FOUND")
	if a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", a.Header)
	}
}
