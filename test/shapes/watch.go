package shapes

import (
	"bytes"
	"mime"
	"net/http"
	"sync"
	"testing"
)

// maxBody bounds the answers that are compared.
const maxBody = 16 << 20

// Watch compares the answers that a handler gives, and reports what differs.
func (b *Book) Watch(next http.Handler, report func(string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := *r.URL
		method := r.Method
		heard := &listener{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(heard, r)
		kind, _, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
		if err != nil || kind != "application/json" || heard.body.Len() > maxBody || w.Header().Get("Content-Encoding") != "" {
			return
		}
		for _, text := range b.Check(method, &at, heard.status, heard.body.Bytes()) {
			report(text)
		}
	})
}

// listener keeps what is written.
type listener struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

// Unwrap lets http.ResponseController reach the connection.
func (l *listener) Unwrap() http.ResponseWriter { return l.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (l *listener) WriteHeader(status int) {
	l.status = status
	l.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (l *listener) Write(p []byte) (int, error) {
	if l.body.Len() <= maxBody {
		l.body.Write(p)
	}
	return l.ResponseWriter.Write(p)
}

// Watched is Watch for a test, which fails when an answer is not as the specification says.
func Watched(t testing.TB, next http.Handler) http.Handler {
	t.Helper()
	b, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	return b.Watch(next, func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if !seen[text] {
			seen[text] = true
			t.Errorf("not as the specification says: %s", text)
		}
	})
}
