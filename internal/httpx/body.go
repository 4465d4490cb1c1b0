package httpx

import (
	"io"
	"net/http"
	"time"
)

// readTimeout bounds how long a client may take to send any one piece of a body.
const readTimeout = 30 * time.Second

// body reads a request's body under a deadline that moves with each read, so that a stalled client does not hold
// its handler, while a long upload may take its time. The deadline is taken away after each read: on an idle
// connection it would end the request's context.
type body struct {
	rc *http.ResponseController
	io.ReadCloser
}

func newBody(w http.ResponseWriter, rc io.ReadCloser, limit int64) io.ReadCloser {
	if rc == nil || rc == http.NoBody {
		return rc
	}
	if limit >= 0 {
		rc = http.MaxBytesReader(w, rc, limit)
	}
	return &body{http.NewResponseController(w), rc}
}

func (b *body) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(readTimeout))
	n, err := b.ReadCloser.Read(p)
	_ = b.rc.SetReadDeadline(time.Time{})
	return n, err
}
