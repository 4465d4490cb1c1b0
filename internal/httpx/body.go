package httpx

import (
	"io"
	"net/http"
	"time"
)

// readTimeout bounds how long a client may take to send any one piece of a body.
const readTimeout = 30 * time.Second

// slowest is the rate, in bytes a second, that a body must keep over time, once readTimeout is used up.
const slowest = 1 << 10

// body reads a request's body under a deadline that moves with each read, so that a stalled client does not hold
// its handler, while a long upload may take its time. A client that sends a byte now and then is stalled too: the time
// spent waiting for it is counted, ours between reads is not. The deadline is taken away after each read: on an idle
// connection it would end the request's context.
type body struct {
	rc *http.ResponseController
	io.ReadCloser
	got   int64
	spent time.Duration
}

func newBody(w http.ResponseWriter, rc io.ReadCloser, limit int64) io.ReadCloser {
	if rc == nil || rc == http.NoBody {
		return rc
	}
	if limit >= 0 {
		rc = http.MaxBytesReader(w, rc, limit)
	}
	return &body{rc: http.NewResponseController(w), ReadCloser: rc}
}

func (b *body) Read(p []byte) (int, error) {
	began := time.Now()
	_ = b.rc.SetReadDeadline(began.Add(b.patience()))
	n, err := b.ReadCloser.Read(p)
	_ = b.rc.SetReadDeadline(time.Time{})
	b.got += int64(n)
	b.spent += time.Since(began)
	return n, err
}

// patience is how long the next read may take; below zero not at all.
func (b *body) patience() time.Duration {
	earned := time.Duration(b.got/slowest) * time.Second
	return min(readTimeout, readTimeout+earned-b.spent)
}
