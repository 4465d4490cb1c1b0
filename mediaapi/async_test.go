package mediaapi

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

const (
	uploads = "/_matrix/media/v3/upload/"
	creates = "/_matrix/media/v1/create"
	alice   = "@alice:here.example"
)

// waitForWatcher returns when somebody waits for content.
func (n *node) waitForWatcher() {
	n.t.Helper()
	for n.t.Context().Err() == nil {
		n.arrivals.mu.Lock()
		waiting := len(n.arrivals.waiting)
		n.arrivals.mu.Unlock()
		if waiting > 0 {
			return
		}
		runtime.Gosched()
	}
}

func TestAsyncUpload(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		a := n.want(n.do("POST", creates, alice, nil), 200, "")
		uri := n.uri(a)
		var created struct {
			At int64 `json:"unused_expires_at"`
		}
		if err := json.Unmarshal(a.body, &created); err != nil || created.At != n.now()+24*time.Hour.Milliseconds() {
			t.Errorf("answer %s", a.body)
		}
		n.want(n.get(downloads+uri+"?timeout_ms=1"), 504, "M_NOT_YET_UPLOADED")
		n.want(n.get(thumbnails+uri+"?width=1&height=1&timeout_ms=0"), 504, "M_NOT_YET_UPLOADED")
		n.want(n.get(downloads+uri+"?timeout_ms=-1"), 400, "M_INVALID_PARAM")
		n.want(n.do("PUT", uploads+uri, "@bob:here.example", strings.NewReader("x")), 403, "M_FORBIDDEN")
		n.want(n.do("PUT", uploads+"here.example/unknown", alice, strings.NewReader("x")), 404, "M_NOT_FOUND")
		n.want(n.do("PUT", uploads+"there.example/unknown", alice, strings.NewReader("x")), 404, "M_NOT_FOUND")

		got := make(chan answer, 1)
		go func() { got <- n.get(downloads + uri + "?timeout_ms=60000") }()
		n.waitForWatcher()
		if b := n.want(n.do("PUT", uploads+uri+"?filename=a.txt", alice, strings.NewReader("late"), "Content-Type: text/plain"), 200, ""); string(b.body) != "{}" {
			t.Errorf("answer %s", b.body)
		}
		b := n.want(<-got, 200, "")
		if string(b.body) != "late" || b.Header.Get("Content-Disposition") != `inline; filename="a.txt"` {
			t.Errorf("waited for %q, %v", b.body, b.Header)
		}
		n.want(n.do("PUT", uploads+uri, alice, strings.NewReader("again")), 409, "M_CANNOT_OVERWRITE_MEDIA")
		if c := n.get(downloads + uri); string(c.body) != "late" {
			t.Errorf("overwritten with %q", c.body)
		}
		plain := n.upload([]byte("x"), "a/b", "")
		n.want(n.do("PUT", uploads+plain, alice, strings.NewReader("again")), 409, "M_CANNOT_OVERWRITE_MEDIA")
	})
}

func TestPendingLimitAndExpiry(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, func(o *Options) { o.PendingPerUser = 2; o.PendingExpiry = time.Hour })
		first := n.uri(n.do("POST", creates, alice, nil))
		n.clock.Advance(time.Minute)
		second := n.uri(n.do("POST", creates, alice, nil))
		a := n.want(n.do("POST", creates, alice, nil), 429, "M_LIMIT_EXCEEDED")
		if !strings.Contains(string(a.body), `"retry_after_ms":3540000`) || a.Header.Get("Retry-After") != "3540" {
			t.Errorf("answer %s", a.body)
		}
		n.want(n.do("POST", creates, "@bob:here.example", nil), 200, "")
		n.want(n.do("PUT", uploads+first, alice, strings.NewReader("x")), 200, "")
		third := n.uri(n.want(n.do("POST", creates, alice, nil), 200, ""))

		n.clock.Advance(59 * time.Minute)
		n.want(n.do("PUT", uploads+third, alice, strings.NewReader("x")), 200, "")
		n.clock.Advance(time.Minute)
		n.want(n.do("PUT", uploads+second, alice, strings.NewReader("x")), 404, "M_NOT_FOUND")
		n.want(n.get(downloads+second), 404, "M_NOT_FOUND")
		if err := n.expire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if med, err := n.store.get(t.Context(), "here.example", strings.TrimPrefix(second, "here.example/")); med != nil || err != nil {
			t.Errorf("the expired row is %+v, %v", med, err)
		}
		n.want(n.get(downloads+first), 200, "")
		n.want(n.get(downloads+third), 200, "")
	})
}

// Of two uploads to one URI at the same time exactly one wins.
func TestConcurrentFill(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		uri := n.uri(n.do("POST", creates, alice, nil))
		codes := make(chan int, 8)
		for i := range cap(codes) {
			go func() {
				codes <- n.do("PUT", uploads+uri, alice, strings.NewReader(strings.Repeat("x", i+1))).StatusCode
			}()
		}
		won := 0
		for range cap(codes) {
			switch code := <-codes; code {
			case 200:
				won++
			case 409:
			default:
				t.Errorf("status %d", code)
			}
		}
		if won != 1 {
			t.Errorf("%d uploads won", won)
		}
	})
}
