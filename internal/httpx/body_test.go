package httpx

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// deadlines is a response writer that notes the read deadlines that it is given.
type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

// TestTrickle gives a client that sends a byte now and then no more time than one that sends nothing.
func TestTrickle(t *testing.T) {
	for _, c := range []struct {
		name  string
		got   int64
		spent time.Duration
		want  time.Duration
	}{
		{"at the start", 0, 0, readTimeout},
		{"a byte every ten seconds", 2, 20 * time.Second, 10 * time.Second},
		{"a byte every ten seconds, time is up", 4, 40 * time.Second, -10 * time.Second},
		{"slow and steady", 100 * slowest, 100 * time.Second, readTimeout},
		{"a long upload, then nothing", 100 * slowest, 125 * time.Second, 5 * time.Second},
		{"fast", 1 << 30, time.Second, readTimeout},
	} {
		if got := (&body{got: c.got, spent: c.spent}).patience(); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}

	w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	b := newBody(w, io.NopCloser(strings.NewReader("ab")), 10).(*body)
	b.spent = time.Hour // as if the client had taken it
	before := time.Now()
	if _, err := b.Read(make([]byte, 1)); err != nil || b.got != 1 {
		t.Fatalf("%d bytes, %v", b.got, err)
	}
	if len(w.set) != 2 || w.set[0].After(before) || !w.set[1].IsZero() {
		t.Errorf("deadlines %v at %v: the first must have passed, the second be none", w.set, before)
	}
	if newBody(w, http.NoBody, 1) != http.NoBody {
		t.Error("no body became one")
	}
}
