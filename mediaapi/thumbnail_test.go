package mediaapi

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"mime"
	"mime/multipart"
	"strings"
	"sync"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/mediaapi/files"
	"knock/mediaapi/thumb"
)

// nobody names nothing.
type nobody struct{ store }

func (nobody) InUse(context.Context, []files.Hash) ([]files.Hash, error) { return nil, nil }

// picture of one gray, in a format.
func gray(t testing.TB, kind string, w, h int) []byte {
	t.Helper()
	m := image.NewGray(image.Rect(0, 0, w, h))
	var b bytes.Buffer
	var err error
	switch kind {
	case "image/jpeg":
		err = jpeg.Encode(&b, m, nil)
	case "image/png":
		err = png.Encode(&b, m)
	case "image/gif":
		err = gif.Encode(&b, m, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func dims(data []byte) string {
	c, kind, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s %dx%d", kind, c.Width, c.Height)
}

func TestThumbnails(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		uris := map[string]string{
			"photo":    n.upload(gray(t, "image/jpeg", 2000, 1500), "image/jpeg", "?filename=photo.jpg"),
			"portrait": n.upload(gray(t, "image/png", 1500, 2000), "text/html", ""), // the type is taken from the content
			"small":    n.upload(gray(t, "image/png", 60, 40), "image/png", ""),
			"moving":   n.upload(gray(t, "image/gif", 400, 300), "image/gif", ""),
		}
		for _, c := range []struct{ what, query, want string }{
			{"photo", "width=32&height=32&method=crop", "jpeg 32x32"},
			{"photo", "width=10&height=10&method=crop", "jpeg 32x32"},
			{"photo", "width=33&height=33&method=crop", "jpeg 96x96"},
			{"photo", "width=97&height=97&method=crop", "jpeg 256x256"},
			{"photo", "width=300&height=300&method=crop", "jpeg 640x640"},
			{"photo", "width=10&height=10", "jpeg 320x240"},
			{"photo", "width=320&height=240&method=scale", "jpeg 320x240"},
			{"photo", "width=321&height=240&method=scale", "jpeg 640x480"},
			{"photo", "width=320&height=500&method=scale", "jpeg 800x600"},
			{"photo", "width=801&height=1&method=scale", "jpeg 1600x1200"},
			{"photo", "width=1601&height=1&method=scale", "jpeg 2000x1500"},
			{"photo", "width=99999999&height=99999999&method=crop", "jpeg 2000x1500"},
			{"photo", "width=400&height=100&method=crop", "jpeg 640x480"},
			{"photo", "width=700&height=700&method=crop", "jpeg 1600x1200"},
			{"portrait", "width=320&height=240&method=scale", "png 180x240"},
			{"portrait", "width=320&height=240&method=crop", "jpeg 360x480"},
			{"portrait", "width=100&height=100&method=crop", "png 256x256"},
			{"portrait", "width=640&height=480&method=scale", "jpeg 360x480"},
			{"small", "width=320&height=240&method=scale", "png 60x40"},
			{"small", "width=96&height=96&method=crop", "png 60x40"},
			{"small", "width=32&height=32&method=crop", "png 32x32"},
			{"moving", "width=32&height=32&method=crop", "jpeg 32x32"},
			{"moving", "width=800&height=600&method=scale", "jpeg 400x300"},
			{"moving", "width=800&height=600&method=scale&animated=false", "jpeg 400x300"},
			{"moving", "width=800&height=600&method=scale&animated=true", "gif 400x300"},
			{"moving", "width=320&height=240&method=scale&animated=true", "jpeg 320x240"},
		} {
			a := n.want(n.get(thumbnails+uris[c.what]+"?"+c.query), 200, "")
			kind, _, _ := strings.Cut(c.want, " ")
			if got := dims(a.body); got != c.want {
				t.Errorf("%s %s: %s, want %s", c.what, c.query, got, c.want)
			}
			if a.Header.Get("Content-Type") != "image/"+kind || a.Header.Get("Content-Disposition") != `inline; filename="thumbnail.`+kind+`"` {
				t.Errorf("%s %s: %v", c.what, c.query, a.Header)
			}
		}
	})
}

func TestThumbnailErrors(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		far := &fakeRemote{}
		n := newNode(t, db, func(o *Options) { o.MaxPixels = 10_000; o.Remote = far })
		photo := gray(t, "image/jpeg", 100, 100)
		good := n.upload(photo, "image/jpeg", "")
		for _, query := range []string{"", "?width=10", "?height=10"} {
			n.want(n.get(thumbnails+good+query), 400, "M_MISSING_PARAM")
		}
		for _, query := range []string{"width=-1&height=1", "width=1.5&height=1", "width=a&height=1", "width=0&height=1",
			"width=1&height=1&method=stretch", "width=1&height=1&animated=2"} {
			n.want(n.get(thumbnails+good+"?"+query), 400, "M_INVALID_PARAM")
		}
		n.want(n.get(thumbnails+"here.example/unknown?width=1&height=1"), 404, "M_NOT_FOUND")
		size := "?width=32&height=32&method=crop"
		for name, data := range map[string][]byte{
			"text":      []byte("hello"),
			"empty":     {},
			"truncated": photo[:len(photo)/2],
			"svg":       []byte(`<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>`),
		} {
			uri := n.upload(data, "image/jpeg", "")
			for range 2 { // the second answer is from memory
				if a := n.want(n.get(thumbnails+uri+size), 400, "M_UNKNOWN"); a.StatusCode != 400 {
					t.Error(name)
				}
			}
		}
		large := gray(t, "image/png", 101, 100)
		n.want(n.get(thumbnails+n.upload(large, "image/png", "")+size), 413, "M_TOO_LARGE")
		far.answer = func(string, string) (*RemoteMedia, error) {
			return &RemoteMedia{ContentType: "image/png", Body: io.NopCloser(bytes.NewReader(large))}, nil
		}
		n.want(n.get(thumbnails+"there.example/large"+size), 502, "M_TOO_LARGE")
		n.want(n.get(thumbnails+n.upload(bomb(), "image/png", "")+size), 413, "M_TOO_LARGE")
	})
}

// bomb is a PNG that says it has 2^30 pixels of 8 bytes.
func bomb() []byte {
	head := []byte("IHDR\x00\x00\x80\x00\x00\x00\x80\x00\x10\x06\x00\x00\x00")
	out := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), head...)
	return binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(head))
}

// Many who ask for thumbnails of one new image have it decoded once, and later sizes of the standard are there.
func TestThumbnailsAreMadeOnce(t *testing.T) {
	n := newNode(t, sqldbtest.Open(t, sqldb.SQLite), nil)
	uri := n.upload(gray(t, "image/jpeg", 1000, 800), "image/jpeg", "")
	var wg sync.WaitGroup
	for range 10 {
		for _, query := range []string{"width=32&height=32&method=crop", "width=800&height=600"} {
			wg.Go(func() { n.want(n.get(thumbnails+uri+"?"+query), 200, "") })
		}
	}
	wg.Wait()
	if n.stored() != 1+len(standard) {
		t.Errorf("%d contents, want the image and %d thumbnails", n.stored(), len(standard))
	}
	med, err := n.store.get(t.Context(), "here.example", strings.TrimPrefix(uri, "here.example/"))
	if err != nil {
		t.Fatal(err)
	}
	pic, err := n.store.picture(t.Context(), *med.hash)
	if err != nil || len(pic.thumbs) != len(standard) {
		t.Errorf("%+v, %v", pic, err)
	}
}

// When an image goes its thumbnails go with it.
func TestCollectThumbnails(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		keep := n.upload(gray(t, "image/jpeg", 1000, 800), "image/jpeg", "")
		gone := n.upload(gray(t, "image/jpeg", 1001, 800), "image/jpeg", "")
		for _, uri := range []string{keep, gone} {
			n.want(n.get(thumbnails+uri+"?width=32&height=32"), 200, "")
		}
		id := strings.TrimPrefix(gone, "here.example/")
		if err := n.store.delete(t.Context(), deleteMedium, []sized{{mxc: mxc{"here.example", id}}}); err != nil {
			t.Fatal(err)
		}
		n.age(25 * time.Hour)
		for range 2 { // the first round finds the image, the second what belonged to it
			for shard := range files.Shards {
				if err := n.collect(t.Context(), shard); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n.stored() != 1+len(standard) {
			t.Errorf("%d contents are left", n.stored())
		}
		n.want(n.get(thumbnails+keep+"?width=32&height=32"), 200, "")
	})
}

func TestFederation(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db, nil)
		uri := n.upload([]byte("--boundary?\r\n"), "text/plain", "?filename=%e2%98%83")
		_, id, _ := strings.Cut(uri, "/")
		fed := func(path string) answer {
			return n.do("GET", "/_matrix/federation/v1/media/"+path, "", nil, "X-Origin: there.example")
		}
		n.want(n.do("GET", "/_matrix/federation/v1/media/download/"+id, "", nil), 401, "M_UNAUTHORIZED")
		n.want(fed("download/unknown"), 404, "M_NOT_FOUND")
		n.want(fed("thumbnail/"+id+"?width=1&height=1"), 400, "M_UNKNOWN")
		n.want(fed("download/"+n.uri2id(creates)+"?timeout_ms=1"), 504, "M_NOT_YET_UPLOADED")

		meta, header, content := parts(t, fed("download/"+id))
		if meta != "{}" || content != "--boundary?\r\n" || header["Content-Type"] != "text/plain" ||
			header["Content-Disposition"] != "inline; filename*=utf-8''%E2%98%83" {
			t.Errorf("%q %v %q", meta, header, content)
		}
		_, id, _ = strings.Cut(n.upload(gray(t, "image/png", 500, 500), "image/png", ""), "/")
		_, header, content = parts(t, fed("thumbnail/"+id+"?width=96&height=96&method=crop"))
		if header["Content-Type"] != "image/png" || dims([]byte(content)) != "png 96x96" {
			t.Errorf("thumbnail %v %s", header, dims([]byte(content)))
		}
	})
}

// uri2id creates a medium without content and returns its id.
func (n *node) uri2id(path string) string {
	n.t.Helper()
	_, id, _ := strings.Cut(n.uri(n.do("POST", path, alice, nil)), "/")
	return id
}

// parts takes a federation answer apart.
func parts(t testing.TB, a answer) (meta string, header map[string]string, content string) {
	t.Helper()
	kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || a.StatusCode != 200 || a.ContentLength != int64(len(a.body)) {
		t.Fatalf("%d %v %d: %v", a.StatusCode, a.Header, len(a.body), err)
	}
	r := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	var bodies []string
	for {
		p, err := r.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(b))
		header = map[string]string{}
		for name := range p.Header {
			header[name] = p.Header.Get(name)
		}
	}
	if len(bodies) != 2 {
		t.Fatalf("%d parts", len(bodies))
	}
	return bodies[0], header, bodies[1]
}

func TestChooseNeverSmaller(t *testing.T) {
	for _, dim := range [][2]int{{1, 1}, {31, 500}, {97, 96}, {320, 240}, {1000, 1000}, {1600, 1200}, {4000, 100}, {100, 4000}, {6000, 5000}} {
		for w := 1; w < 2000; w += 53 {
			for h := 1; h < 2000; h += 47 {
				for _, crop := range []bool{false, true} {
					info := thumb.Info{Width: dim[0], Height: dim[1]}
					size := choose(want{width: w, height: h, crop: crop}, info)
					if size == nil {
						continue
					}
					gw, gh := size.Fit(info.Width, info.Height)
					if size.Crop {
						gw, gh = min(size.Width, info.Width, info.Height), min(size.Height, info.Width, info.Height)
					}
					short := gw < min(w, info.Width) && gh < min(h, info.Height)
					if short && !(size.Crop && min(info.Width, info.Height) < max(w, h)) {
						t.Fatalf("%v asked %dx%d crop %v: %v gives %dx%d", dim, w, h, crop, *size, gw, gh)
					}
				}
			}
		}
	}
}
