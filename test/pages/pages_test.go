package pages

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

func TestMain(m *testing.M) { hstest.Main(m) }

// site is a web server with a page, its image, and a way to another server.
type site struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string // the languages that its page was asked for in
}

func (s *site) languages() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, "|")
}

func newSite(t *testing.T) *site {
	s := &site{}
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 279, 129))); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Header.Get("Accept-Language"))
		s.mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<head><meta property="og:title" content="The Rock" /><meta property="og:image" content="picture.png" />`))
	})
	mux.HandleFunc("/picture.png", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(picture.Bytes()) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://127.0.0.2:8008/", http.StatusFound)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// Previews are off until they are turned on, keep out of private networks until those are opened, and last over a restart.
func TestPreviews(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		pages := newSite(t)
		n := s.Start("a.example")
		alice := n.MustRegister("alice")
		preview := func(path string) (gjson.Result, error) {
			var card json.RawMessage
			err := alice.Call(ctx, "GET", "/_matrix/client/v1/media/preview_url?url="+url.QueryEscape(pages.URL+path), nil, &card)
			return gjson.ParseBytes(card), err
		}
		refused := func(path, code string) {
			t.Helper()
			var e *lab.Error
			if _, err := preview(path); !errors.As(err, &e) || e.Code != code {
				t.Errorf("%s: %v, want %s", path, err, code)
			}
		}
		again := func(settings ...string) {
			t.Helper()
			if err := n.Stop(); err != nil {
				t.Fatal(err)
			}
			n.Set(settings...)
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
		}
		refused("/page", "M_FORBIDDEN")
		again("media.url_previews.enabled=true", "media.url_previews.languages=[de, en;q=0.5]")
		refused("/page", "M_UNKNOWN")
		if pages.languages() != "" {
			t.Error("a page of this machine was fetched")
		}
		again("media.url_previews.allow_networks=[127.0.0.1/32]")
		refused("/away", "M_UNKNOWN")
		card, err := preview("/page")
		if err != nil {
			t.Fatal(err)
		}
		again()
		if later, err := preview("/page"); err != nil || later.Raw != card.Raw {
			t.Errorf("after a restart %s, %v; before %s", later, err, card)
		}
		if got := pages.languages(); got != "de, en;q=0.5" {
			t.Errorf("asked for %q", got)
		}
		uri := card.Get("og:image").Str
		data, contentType, err := alice.Download(ctx, uri)
		if err != nil || contentType != "image/png" || int64(len(data)) != card.Get("matrix:image:size").Int() || !strings.HasPrefix(uri, "mxc://a.example/") {
			t.Errorf("the image of %s: %s, %d bytes, %v", card, contentType, len(data), err)
		}
		if card.Get("og:title").Str != "The Rock" || card.Get("og:image:width").Int() != 279 || card.Get("og:image:height").Int() != 129 {
			t.Errorf("preview %s", card)
		}
		again("media.url_previews.deny_domains=[127.0.0.1]")
		refused("/away", "M_FORBIDDEN")
	})
}
