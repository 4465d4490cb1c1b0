package mediaapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/mediaapi/preview"
)

// fakeWeb is the web: its pages by address.
type fakeWeb struct {
	mu    sync.Mutex
	asked map[string]int
	pages map[string]http.HandlerFunc
}

var errNoHost = errors.New("no such host")

func (w *fakeWeb) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	w.asked[r.URL.String()]++
	page := w.pages[r.URL.String()]
	w.mu.Unlock()
	if page == nil {
		return nil, errNoHost
	}
	rec := httptest.NewRecorder()
	page(rec, r)
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

func (w *fakeWeb) times(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[address]
}

func (w *fakeWeb) set(address, contentType string, content []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[address] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(content)
	}
}

func picturePNG(t testing.TB, width, height int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// newPreviews is a node that previews the pages of a web.
func newPreviews(t testing.TB, db *sqldb.DB, change func(*Options)) (*node, *fakeWeb) {
	web := &fakeWeb{asked: map[string]int{}, pages: map[string]http.HandlerFunc{}}
	web.set("http://pic.example/i.png", "text/plain", picturePNG(t, 48, 32)) // whatever its server says
	web.set("http://page.example/", "text/html", []byte(`<title>T</title><meta property=og:description content="a < b"><meta property=og:image content=http://pic.example/i.png>`))
	return newNode(t, db, func(o *Options) {
		o.Pages = preview.New(preview.Options{Transport: web, Allowed: func(host string) bool { return host != "denied.example" }})
		if change != nil {
			change(o)
		}
	}), web
}

const previewPath = "/_matrix/client/v1/media/preview_url"

func (n *node) preview(page string, more ...string) answer {
	n.t.Helper()
	q := url.Values{"url": {page}}
	for i := 0; i < len(more); i += 2 {
		q.Set(more[i], more[i+1])
	}
	return n.get(previewPath + "?" + q.Encode())
}

// card is a preview, as texts.
func (n *node) card(a answer) map[string]string {
	n.t.Helper()
	n.want(a, 200, "")
	var v map[string]any
	if err := json.Unmarshal(a.body, &v); err != nil {
		n.t.Fatal(err)
	}
	out := map[string]string{}
	for name, x := range v {
		b, err := json.Marshal(x)
		if err != nil {
			n.t.Fatal(err)
		}
		out[name] = strings.Trim(string(b), `"`)
	}
	return out
}

func TestPreview(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n, web := newPreviews(t, db, nil)
		first := n.card(n.preview("http://page.example/"))
		id, ours := strings.CutPrefix(first["og:image"], "mxc://here.example/")
		size := strconv.Itoa(len(picturePNG(t, 48, 32)))
		want := map[string]string{"og:title": "T", "og:description": `a \u003c b`, "og:image": first["og:image"], "og:image:type": "image/png",
			"og:image:width": "48", "og:image:height": "32", "matrix:image:size": size}
		if !maps.Equal(first, want) || !ours {
			t.Errorf("preview %v, want %v", first, want)
		}
		a := n.want(n.get(downloads+"here.example/"+id), 200, "")
		if a.Header.Get("Content-Type") != "image/png" || a.Header.Get("Content-Length") != size {
			t.Errorf("the image comes as %v", a.Header)
		}
		n.want(n.get(thumbnails+"here.example/"+id+"?width=32&height=32&method=crop"), 200, "")
		// The frozen endpoints have it as little as any other.
		n.want(n.do("GET", "/_matrix/media/v3/download/here.example/"+id, "", nil), 404, "M_NOT_FOUND")
		for _, page := range []string{"http://page.example/", "HTTP://PAGE.example:80#x"} {
			if again := n.card(n.preview(page)); !maps.Equal(again, first) {
				t.Errorf("again %v", again)
			}
		}
		for _, path := range []string{"/_matrix/media/v3/preview_url", "/_matrix/media/r0/preview_url"} {
			if old := n.card(n.get(path + "?url=http://page.example/")); !maps.Equal(old, first) {
				t.Errorf("%s: %v", path, old)
			}
			n.want(n.do("GET", path+"?url=http://page.example/", "", nil), 401, "M_MISSING_TOKEN")
		}
		if web.times("http://page.example/") != 1 || web.times("http://pic.example/i.png") != 1 {
			t.Errorf("asked %v", web.asked)
		}
		n.want(n.do("GET", previewPath+"?url=http://page.example/", "guest", nil), 403, "M_GUEST_ACCESS_FORBIDDEN")
		if u, err := n.Usage(t.Context(), "@alice:here.example"); err != nil || u.Files != 0 {
			t.Errorf("it counts as the user's: %+v, %v", u, err)
		}
	})
}

func TestPreviewTimes(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n, web := newPreviews(t, db, nil)
		show := func(title string) {
			web.set("http://page.example/", "text/html", []byte("<title>"+title+"</title>"))
		}
		ask := func(at time.Time) string {
			ts := strconv.FormatInt(at.UnixMilli(), 10)
			return n.card(n.preview("http://page.example/", "ts", ts))["og:title"]
		}
		start := n.clock.Now()
		show("one")
		if got := ask(start.Add(-24 * time.Hour)); got != "one" {
			t.Errorf("before it was ever seen: %s", got)
		}
		show("two")
		n.clock.Advance(previewFresh - time.Second)
		if got := ask(n.clock.Now()); got != "one" {
			t.Errorf("within the hour: %s", got)
		}
		n.clock.Advance(time.Second)
		if got := ask(n.clock.Now().Add(time.Hour)); got != "two" {
			t.Errorf("after the hour, and in the future: %s", got)
		}
		for at, want := range map[time.Duration]string{0: "one", previewFresh - 1: "one", previewFresh: "two", -time.Hour: "two"} {
			if got := ask(start.Add(at)); got != want {
				t.Errorf("at %s: %s, want %s", at, got, want)
			}
		}
		if web.times("http://page.example/") != 2 {
			t.Errorf("asked %d times", web.times("http://page.example/"))
		}
		n.want(n.preview("http://page.example/", "ts", "yesterday"), 400, "M_INVALID_PARAM")
	})
}

func TestPreviewKinds(t *testing.T) {
	n, web := newPreviews(t, sqldbtest.Open(t, sqldb.SQLite), func(o *Options) { o.MaxPage, o.MaxPageImage = 1000, 5000 })
	page := func(images ...string) []byte {
		var b strings.Builder
		for _, i := range images {
			b.WriteString("<meta property=og:image content=" + i + ">")
		}
		return []byte(b.String())
	}
	noise := append(picturePNG(t, 48, 32), make([]byte, 5000)...)
	web.set("http://pic.example/large.png", "image/png", noise)
	web.set("http://pic.example/pixel.png", "image/png", picturePNG(t, 48, 1))
	web.set("http://pic.example/x.svg", "image/svg+xml", []byte(`<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>`))
	web.set("http://k.example/film", "video/mp4", []byte("film"))
	web.set("http://k.example/a%20photo.png", "image/png", picturePNG(t, 20, 30))
	web.set("http://k.example/first-fails", "text/html", page("http://gone.example/", "http://pic.example/i.png"))
	web.set("http://k.example/too-large", "text/html", page("http://pic.example/large.png"))
	web.set("http://k.example/pixel", "text/html", page("http://pic.example/pixel.png", "http://pic.example/x.svg"))
	web.set("http://k.example/denied", "text/html", page("http://denied.example/i.png"))
	web.set("http://k.example/long", "text/html", []byte("<title>T</title>"+strings.Repeat("x", 1000)+"<meta property=og:title content=late>"))
	for address, want := range map[string]string{
		"http://k.example/film":          "map[]",
		"http://k.example/a%20photo.png": "map[matrix:image:size:* og:image:* og:image:height:30 og:image:type:image/png og:image:width:20 og:title:a photo.png]",
		"http://k.example/first-fails":   "map[matrix:image:size:* og:image:* og:image:height:32 og:image:type:image/png og:image:width:48]",
		"http://k.example/too-large":     "map[]",
		"http://k.example/pixel":         "map[]",
		"http://k.example/denied":        "map[]",
		"http://k.example/long":          "map[og:title:T]",
		"http://pic.example/x.svg":       "map[og:title:x.svg]",
	} {
		card := n.card(n.preview(address))
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(card)) {
			if name == "og:image" || name == "matrix:image:size" {
				card[name] = "*"
			}
			b.WriteString(" " + name + ":" + card[name])
		}
		if got := "map[" + strings.TrimSpace(b.String()) + "]"; got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
	if web.times("http://denied.example/i.png") != 0 {
		t.Error("a denied host was asked for an image")
	}
	if left, _ := n.disk.RemoveTemps(-time.Hour); left != 0 || n.stored() != 2 {
		t.Errorf("%d temporary files and %d files, want none and two", left, n.stored())
	}
}

func TestNoPreview(t *testing.T) {
	n, web := newPreviews(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	web.pages["http://page.example/404"] = http.NotFound
	web.pages["http://page.example/away"] = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "//denied.example/", http.StatusFound)
	}
	n.want(n.get(previewPath), 400, "M_MISSING_PARAM")
	for _, page := range []string{"page.example", "ftp://page.example/", "http://a:b@page.example/", "http://", "mxc://here.example/x", "http://" + strings.Repeat("x", 3000)} {
		n.want(n.preview(page), 400, "M_INVALID_PARAM")
	}
	for range 2 { // what fails is not tried again at once
		n.want(n.preview("http://nowhere.example/"), 502, "M_UNKNOWN")
		n.want(n.preview("http://page.example/404"), 502, "M_UNKNOWN")
		n.want(n.preview("http://page.example/away"), 403, "M_FORBIDDEN")
		n.want(n.preview("http://denied.example/"), 403, "M_FORBIDDEN")
	}
	for address, times := range map[string]int{"http://nowhere.example/": 1, "http://page.example/404": 1, "http://page.example/away": 1, "http://denied.example/": 0} {
		if got := web.times(address); got != times {
			t.Errorf("%s was asked for %d times, want %d", address, got, times)
		}
	}
	web.set("http://nowhere.example/", "text/html", []byte("<title>there"))
	n.clock.Advance(rememberDown)
	if card := n.card(n.preview("http://nowhere.example/")); card["og:title"] != "there" {
		t.Errorf("later: %v", card)
	}
	off := newNode(t, n.o.DB, nil)
	off.want(off.preview("http://page.example/"), 403, "M_FORBIDDEN")
	off.want(off.get(previewPath), 403, "M_FORBIDDEN")
}

// Many who look at the same page at once cost it one request.
func TestPreviewSingleFlight(t *testing.T) {
	n, web := newPreviews(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	started, release := make(chan struct{}), make(chan struct{})
	web.pages["http://slow.example/"] = func(w http.ResponseWriter, _ *http.Request) {
		close(started) // a second request panics
		<-release
		_, _ = io.WriteString(w, "<html><title>T</title>")
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if a := n.preview("http://slow.example/"); a.StatusCode != 200 || string(a.body) != `{"og:title":"T"}` {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		})
	}
	<-started
	close(release)
	wg.Wait()
}

// One user's slow pages leave room for others'.
func TestPreviewTurns(t *testing.T) {
	n, web := newPreviews(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	release, started := make(chan struct{}), make(chan struct{}, 100)
	slow := func(http.ResponseWriter, *http.Request) {
		started <- struct{}{}
		<-release
	}
	var wg sync.WaitGroup
	for i := range 2 * maxPreviews {
		address := "http://slow.example/" + strconv.Itoa(i)
		web.mu.Lock()
		web.pages[address] = slow
		web.mu.Unlock()
		wg.Go(func() { n.want(n.preview(address), 200, "") })
	}
	for range maxPreviewsOfOne {
		<-started
	}
	n.want(n.do("GET", previewPath+"?url=http://page.example/", "@bob:here.example", nil), 200, "")
	if len(started) != 0 {
		t.Errorf("%d more than %d of one user's pages at a time", len(started), maxPreviewsOfOne)
	}
	close(release)
	wg.Wait()
	if len(n.visitors.of) != 0 {
		t.Errorf("%d users are remembered", len(n.visitors.of))
	}
}

func (n *node) rows(stmt string) (count int) {
	n.t.Helper()
	row := map[string]*sqldb.Stmt{"media": countMedia, "previews": countPreviews}[stmt]
	if err := n.o.DB.Read(n.t.Context(), func(tx *sqldb.Tx) error { return tx.QueryRow(row).Scan(&count) }); err != nil {
		n.t.Fatal(err)
	}
	return count
}

var (
	countMedia    = sqldb.Register("media.test.media", `SELECT COUNT(*) FROM media`)
	countPreviews = sqldb.Register("media.test.previews", `SELECT COUNT(*) FROM url_previews`)
)

func TestForgetPreviews(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n, _ := newPreviews(t, db, func(o *Options) { o.PreviewAge = 2 * time.Hour })
		kept := n.upload([]byte("mine"), "text/plain", "")
		path := strings.TrimPrefix(n.card(n.preview("http://page.example/"))["og:image"], "mxc://")
		n.want(n.get(downloads+path), 200, "")
		n.clock.Advance(time.Hour)
		n.card(n.preview("http://page.example/"))
		if err := n.upkeep(t.Context(), 0); err != nil || n.rows("previews") != 2 || n.rows("media") != 3 {
			t.Fatalf("%d previews, %d media, %v", n.rows("previews"), n.rows("media"), err)
		}
		n.clock.Advance(time.Hour + time.Millisecond)
		if err := n.upkeep(t.Context(), 0); err != nil || n.rows("previews") != 1 || n.rows("media") != 2 {
			t.Fatalf("%d previews, %d media, %v", n.rows("previews"), n.rows("media"), err)
		}
		n.want(n.get(downloads+path), 404, "M_NOT_FOUND")
		n.clock.Advance(time.Hour)
		if err := n.upkeep(t.Context(), 0); err != nil || n.rows("previews") != 0 || n.rows("media") != 1 {
			t.Fatalf("%d previews, %d media, %v", n.rows("previews"), n.rows("media"), err)
		}
		n.age(2 * orphanAge)
		for shard := range 256 {
			if err := n.collect(t.Context(), shard); err != nil {
				t.Fatal(err)
			}
		}
		if n.stored() != 1 {
			t.Errorf("%d files, want the one that is named", n.stored())
		}
		n.want(n.get(downloads+kept), 200, "")
	})
}

// What is kept has a bound, and what a day brings too.
func TestPreviewRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		picture := append(picturePNG(t, 48, 32), make([]byte, 10_000)...)
		n, web := newPreviews(t, db, func(o *Options) { o.PreviewCache = 3 * int64(len(picture)) })
		has := func(i int) bool {
			address := "http://many.example/" + strconv.Itoa(i)
			web.set(address, "image/png", picture)
			return n.card(n.preview(address))["og:image"] != ""
		}
		for i := range 5 {
			if got, want := has(i), i < 3; got != want {
				t.Errorf("image %d: %v, want %v", i, got, want)
			}
			n.clock.Advance(time.Millisecond)
		}
		if err := n.upkeep(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if left, err := n.store.previewBytes(t.Context()); err != nil || left > n.o.PreviewCache || n.rows("media") != 2 {
			t.Errorf("%d bytes, %d media, %v", left, n.rows("media"), err)
		}
		n.clock.Advance(8 * time.Hour)
		if !has(10) || has(11) {
			t.Error("a third of a day does not bring a third of the room")
		}
	})
}
