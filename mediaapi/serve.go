package mediaapi

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"time"

	"knock/internal/httpx"
)

// answer serves a content through a door.
func (m *Media) answer(d door, r *httpx.Request, ref contentRef, disposition string) httpx.Stream {
	return func(w http.ResponseWriter) error {
		f, err := m.o.Files.Open(ref.hash)
		if errors.Is(err, fs.ErrNotExist) {
			m.o.Log.WithField("hash", ref.hash.String()).Error("A file of the media store is missing")
			return errUnknownMedia.With(err)
		}
		if err != nil {
			return err
		}
		defer f.Close()
		if d == federation {
			return sendParts(w, r.Request, f, ref.contentType, disposition)
		}
		h := w.Header()
		safeHeaders(h, ref.contentType, disposition)
		h.Set("ETag", `"`+ref.hash.String()+`"`)
		h.Set("Cache-Control", cacheControl(d))
		http.ServeContent(fileWriter{w}, r.Request, "", time.Time{}, f) // ranges, If-None-Match, HEAD
		return nil
	}
}

// cacheControl: a content never changes, but whoever may not see it any more must not get it from a shared cache.
func cacheControl(d door) string {
	if d == legacy {
		return "public, max-age=86400, immutable"
	}
	return "private, max-age=86400, immutable"
}

// sendParts answers another server: metadata, which is always {}, and the content (Server-Server API, "Content
// Repository").
func sendParts(w http.ResponseWriter, r *http.Request, f *os.File, contentType, disposition string) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	boundary := "knock" + rand.Text()
	head := fmt.Sprintf("--%s\r\nContent-Type: application/json\r\n\r\n{}\r\n"+
		"--%s\r\nContent-Type: %s\r\nContent-Disposition: %s\r\n\r\n", boundary, boundary, contentType, disposition)
	tail := "\r\n--" + boundary + "--\r\n"
	h := w.Header()
	h.Set("Content-Type", "multipart/mixed; boundary="+boundary)
	h.Set("Content-Length", strconv.FormatInt(int64(len(head)+len(tail))+info.Size(), 10))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.WriteString(w, head); err != nil {
		return err
	}
	if _, err := io.CopyN(fileWriter{w}, f, info.Size()); err != nil {
		return err
	}
	_, err = io.WriteString(w, tail)
	return err
}

// fileWriter lets the kernel send a file straight to the connection, in pieces that each have a time of their own.
type fileWriter struct{ http.ResponseWriter }

const (
	pieceBytes = 512 << 10
	pieceTime  = time.Minute
)

// ReadFrom is what io.Copy calls.
func (w fileWriter) ReadFrom(src io.Reader) (n int64, err error) {
	lr, limited := src.(*io.LimitedReader)
	to := sender(w.ResponseWriter)
	if !limited || to == nil {
		return io.Copy(struct{ io.Writer }{w.ResponseWriter}, src)
	}
	deadline := http.NewResponseController(w.ResponseWriter)
	for lr.N > 0 && err == nil {
		_ = deadline.SetWriteDeadline(time.Now().Add(pieceTime)) // not supported: no deadline
		piece := min(lr.N, pieceBytes)
		var sent int64
		sent, err = to.ReadFrom(&io.LimitedReader{R: lr.R, N: piece})
		n, lr.N = n+sent, lr.N-sent
		if err == nil && sent < piece {
			return n, nil // the file has ended
		}
	}
	return n, err
}

// sender finds the writer below those that wrap it that can take a file; nil when there is none (HTTP/2).
func sender(w http.ResponseWriter) io.ReaderFrom {
	for {
		if rf, ok := w.(io.ReaderFrom); ok {
			return rf
		}
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return nil
		}
		w = inner.Unwrap()
	}
}
