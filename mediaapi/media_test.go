package mediaapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/mediaapi/files"
	"knock/test/shapes"
)

// node is a media store behind a real HTTP server. Tokens are user ids, with "guest" for a guest; a request of
// another server carries its name.
type node struct {
	*Media
	t     testing.TB
	url   string
	dir   string
	clock *clock.Manual
	disk  *files.Disk
}

// stored counts the contents on the disk.
func (n *node) stored() int {
	n.t.Helper()
	found, err := filepath.Glob(filepath.Join(n.dir, "??", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	return len(found)
}

// age makes all contents on the disk older.
func (n *node) age(by time.Duration) {
	n.t.Helper()
	found, _ := filepath.Glob(filepath.Join(n.dir, "??", "*"))
	for _, path := range found {
		at := time.Now().Add(-by)
		if err := os.Chtimes(path, at, at); err != nil {
			n.t.Fatal(err)
		}
	}
}

func newNode(t testing.TB, db *sqldb.DB, change func(*Options)) *node {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "media")
	disk, err := files.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, dir: dir, disk: disk, clock: clock.NewManual(time.UnixMilli(1_700_000_000_000))}
	o := Options{DB: db, Files: disk, ServerName: "here.example", Clock: n.clock.Now, MaxUpload: 1 << 20, MaxRemote: 1 << 20}
	if change != nil {
		change(&o)
	}
	n.Media = New(o)
	log := logrus.New()
	log.SetOutput(io.Discard)
	router := httpx.NewRouter(n.Routes(), httpx.Hooks{
		Log: logrus.NewEntry(log),
		Authenticate: func(_ context.Context, token string, _ *httpx.Request) (httpx.Caller, error) {
			return httpx.Caller{UserID: token, Guest: token == "guest"}, nil
		},
		AuthenticateServer: func(_ context.Context, r *httpx.Request) (string, error) {
			if origin := r.Header.Get("X-Origin"); origin != "" {
				return origin, nil
			}
			return "", matrixerr.Unauthorized("Sign the request")
		},
	})
	server := httptest.NewServer(shapes.Watched(t, router))
	t.Cleanup(server.Close)
	n.url = server.URL
	return n
}

// answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
}

func (a answer) errcode() string {
	var e struct{ Errcode string }
	_ = json.Unmarshal(a.body, &e)
	return e.Errcode
}

// do sends a request as a user; header lines are "Name: value".
func (n *node) do(method, path, user string, body io.Reader, header ...string) answer {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, body)
	if err != nil {
		n.t.Fatal(err)
	}
	if user != "" {
		req.Header.Set("Authorization", "Bearer "+user)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return answer{resp, b}
}

func (n *node) get(path string, header ...string) answer {
	n.t.Helper()
	return n.do("GET", path, "@alice:here.example", nil, header...)
}

// want checks status and error code; "" is a good answer.
func (n *node) want(a answer, status int, errcode string) answer {
	n.t.Helper()
	if a.StatusCode != status || a.errcode() != errcode {
		n.t.Errorf("%s %s: %d %.200s; want %d %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.body, status, errcode)
	}
	return a
}

// upload uploads content and returns "server/id".
func (n *node) upload(content []byte, contentType, query string) string {
	n.t.Helper()
	a := n.want(n.do("POST", "/_matrix/media/v3/upload"+query, "@alice:here.example", bytes.NewReader(content),
		"Content-Type: "+contentType), 200, "")
	return n.uri(a)
}

func (n *node) uri(a answer) string {
	n.t.Helper()
	var v struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		n.t.Fatal(err)
	}
	path, ok := strings.CutPrefix(v.URI, "mxc://")
	if !ok {
		n.t.Fatalf("answer %s", a.body)
	}
	return path
}

const (
	downloads  = "/_matrix/client/v1/media/download/"
	thumbnails = "/_matrix/client/v1/media/thumbnail/"
)

func TestUploadDownload(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		uri := n.upload([]byte("some text"), "text/plain; charset=utf-8", "?filename=notes.txt")
		a := n.want(n.get(downloads+uri), 200, "")
		for name, want := range map[string]string{
			"Content-Type":                 "text/plain; charset=utf-8",
			"Content-Disposition":          `inline; filename="notes.txt"`,
			"Content-Length":               "9",
			"X-Content-Type-Options":       "nosniff",
			"Cross-Origin-Resource-Policy": "cross-origin",
			"Cache-Control":                "private, max-age=86400, immutable",
			"Accept-Ranges":                "bytes",
			"Access-Control-Allow-Origin":  "*",
			"Content-Security-Policy": "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; " +
				"style-src 'unsafe-inline'; object-src 'self';",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if string(a.body) != "some text" {
			t.Errorf("body %q", a.body)
		}
		if b := n.get(downloads + uri + "/other.txt"); b.Header.Get("Content-Disposition") != `inline; filename="other.txt"` {
			t.Errorf("disposition %q", b.Header.Get("Content-Disposition"))
		}
		if b := n.do("GET", downloads+uri, "guest", nil); b.StatusCode != 200 {
			t.Errorf("a guest gets %d", b.StatusCode)
		}
		n.want(n.do("GET", downloads+uri, "", nil), 401, "M_MISSING_TOKEN")
		n.want(n.do("POST", "/_matrix/media/v3/upload", "guest", strings.NewReader("x")), 403, "M_GUEST_ACCESS_FORBIDDEN")
		n.want(n.get(downloads+"here.example/unknown"), 404, "M_NOT_FOUND")

		etag := a.Header.Get("ETag")
		if b := n.get(downloads+uri, "If-None-Match: "+etag); b.StatusCode != 304 || len(b.body) > 0 {
			t.Errorf("with the ETag %d", b.StatusCode)
		}
		if b := n.get(downloads+uri, "Range: bytes=5-6"); b.StatusCode != 206 || string(b.body) != "te" {
			t.Errorf("range: %d %q", b.StatusCode, b.body)
		}
		if b := n.get(downloads+uri, "Range: bytes=100-"); b.StatusCode != 416 {
			t.Errorf("range past the end: %d", b.StatusCode)
		}
		if b := n.do("HEAD", downloads+uri, "@alice:here.example", nil); b.StatusCode != 200 || b.Header.Get("Content-Length") != "9" {
			t.Errorf("HEAD: %d", b.StatusCode)
		}
	})
}

func TestUsageAndDedupe(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		one, two := n.upload([]byte("same"), "a/b", ""), n.upload([]byte("same"), "image/png", "?filename=x.png")
		if one == two {
			t.Error("two uploads, one URI")
		}
		a, b := n.get(downloads+one), n.get(downloads+two)
		if a.Header.Get("Content-Type") != "a/b" || b.Header.Get("Content-Type") != "image/png" || a.Header.Get("ETag") != b.Header.Get("ETag") {
			t.Errorf("headers %v and %v", a.Header, b.Header)
		}
		if n.stored() != 1 {
			t.Errorf("%d files, want one", n.stored())
		}
		u, err := n.Usage(t.Context(), "@alice:here.example")
		if err != nil || u != (Usage{Files: 2, Bytes: 8}) {
			t.Errorf("usage %+v, %v", u, err)
		}
		if u, err := n.Usage(t.Context(), "@bob:here.example"); err != nil || u != (Usage{}) {
			t.Errorf("usage %+v, %v", u, err)
		}
	})
}

func TestLimits(t *testing.T) {
	db := sqldbtest.Open(t, sqldb.SQLite)
	var asked []int64
	n := newNode(t, db, func(o *Options) {
		o.MaxUpload = 1000
		o.Quota = func(_ context.Context, user string, size int64) error {
			asked = append(asked, size)
			if user == "@full:here.example" && size > 10 {
				return matrixerr.Forbidden("Your storage is full")
			}
			return nil
		}
	})
	post := func(user string, body io.Reader) answer { return n.do("POST", "/_matrix/media/v3/upload", user, body) }
	chunked := func(size int) io.Reader { return io.LimitReader(zeros{}, int64(size)) }
	n.want(post("@a:here.example", bytes.NewReader(make([]byte, 1000))), 200, "")
	n.want(post("@a:here.example", bytes.NewReader(make([]byte, 1001))), 413, "M_TOO_LARGE")
	n.want(post("@a:here.example", chunked(1000)), 200, "")
	n.want(post("@a:here.example", chunked(1001)), 413, "M_TOO_LARGE")
	n.want(post("@a:here.example", bytes.NewReader(nil)), 200, "")
	n.want(post("@full:here.example", bytes.NewReader(make([]byte, 11))), 403, "M_FORBIDDEN")
	n.want(post("@full:here.example", chunked(11)), 403, "M_FORBIDDEN")
	n.want(post("@full:here.example", chunked(10)), 200, "")
	n.want(n.do("POST", "/_matrix/media/v3/upload?filename="+strings.Repeat("x", 1025), "@a:here.example", nil), 400, "M_INVALID_PARAM")
	if len(asked) == 0 {
		t.Error("nobody asked about quotas")
	}
	if left, _ := n.disk.RemoveTemps(-time.Hour); left != 0 {
		t.Errorf("%d temporary files are left", left)
	}
	for _, path := range []string{"/_matrix/client/v1/media/config", "/_matrix/media/v3/config", "/_matrix/media/r0/config", "/_matrix/media/v1/config"} {
		if a := n.want(n.get(path), 200, ""); string(a.body) != `{"m.upload.size":1000}` {
			t.Errorf("%s: %s", path, a.body)
		}
		n.want(n.do("GET", path, "", nil), 401, "M_MISSING_TOKEN")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A client that goes away in the middle of an upload leaves nothing.
func TestBrokenUpload(t *testing.T) {
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	r, w := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", n.url+"/_matrix/media/v3/upload", r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer @a:here.example")
	go func() {
		_, _ = w.Write(make([]byte, 1000))
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("answered %d", resp.StatusCode)
	}
	if u, err := n.Usage(t.Context(), "@a:here.example"); err != nil || u.Files != 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

func TestHostileNames(t *testing.T) {
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	uri := n.upload([]byte("x"), "text/html", "?filename=a.html")
	if a := n.get(downloads + uri); a.Header.Get("Content-Disposition") != `attachment; filename="a.html"` {
		t.Errorf("HTML is served %q", a.Header.Get("Content-Disposition"))
	}
	for _, path := range []string{
		"here.example/..", "here.example/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "here.example/..%5c", "here.example/a%00", "../x",
		"%2e%2e/x", "here.example%2f../x", "a%20b/x", "bad%0d%0aname/x", "here.example/" + strings.Repeat("a", 300),
		strings.Repeat("a", 300) + "/x", "http:%2f%2fhere.example/x", "[::1/x",
	} {
		if a := n.get(downloads + path); a.StatusCode != 404 {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	for _, name := range []string{"a%0d%0aSet-Cookie:%20x", "%22%3b%20filename=evil.exe", "..%2f..%2fetc%2fpasswd", "%e2%82%ac.txt"} {
		a := n.want(n.get(downloads+uri+"/"+name), 200, "")
		if a.Header.Get("Set-Cookie") != "" || !strings.HasPrefix(a.Header.Get("Content-Disposition"), "attachment; filename") {
			t.Errorf("%s: %v", name, a.Header)
		}
	}
	for _, contentType := range []string{"", "nonsense", "text/plain\xe9", "text/" + strings.Repeat("x", 300), "text/html; charset"} {
		uri := n.upload([]byte("x"), contentType, "")
		a := n.get(downloads + uri)
		if got := a.Header.Get("Content-Type"); got != octetStream && got != "text/html" {
			t.Errorf("%q is served as %q", contentType, got)
		}
		if got := a.Header.Get("Content-Disposition"); got != "attachment" {
			t.Errorf("%q is served as %s", contentType, got)
		}
	}
}

func TestPrepared(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		if err := db.PrepareAll(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
