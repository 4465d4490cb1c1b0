package httpx

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"

	"knock/internal/matrixerr"
)

// writeTimeout bounds how long a client may take to accept any one piece of an answer.
const writeTimeout = time.Minute

// recorder remembers what was sent, for the log and for errors that come too late.
type recorder struct {
	http.ResponseWriter
	status int
	cut    bool // an error after the first byte: the connection must not end cleanly
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.deadline()
	return w.ResponseWriter.Write(p)
}

// deadline moves with each write: a slow reader keeps its answer, a dead one ends. Writers that cannot set one
// (tests) have none.
func (w *recorder) deadline() {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTimeout))
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) code() int {
	if w.status == 0 {
		return http.StatusOK
	}
	return w.status
}

func write(w *recorder, v any) error {
	status := http.StatusOK
	if resp, ok := v.(*Response); ok {
		for k, values := range resp.Header {
			w.Header()[http.CanonicalHeaderKey(k)] = values
		}
		if resp.Status != 0 {
			status = resp.Status
		}
		v = resp.Body
	}
	switch v := v.(type) {
	case nil:
		return writeJSON(w, status, []byte("{}"))
	case Raw:
		return writeJSON(w, status, v)
	case Stream:
		return v(w)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	return writeJSON(w, status, bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

func writeJSON(w *recorder, status int, body []byte) error {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone, and nothing is left to tell it
	return nil
}

func writeError(w *recorder, err error) {
	if w.status != 0 {
		w.cut = true
		return
	}
	e := matrixerr.From(err)
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
	body, jsonErr := json.Marshal(e)
	if jsonErr != nil {
		body = []byte(`{"errcode":"M_UNKNOWN","error":"Internal error"}`)
	}
	_ = writeJSON(w, e.HTTP, body)
}
