package preview

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]string{
		"https://Example.ORG":                "https://example.org/",
		" HTTP://example.org:80/a?b=c#d ":    "http://example.org/a?b=c",
		"https://example.org:443":            "https://example.org/",
		"https://example.org:8443/x":         "https://example.org:8443/x",
		"http://example.org.:443/":           "http://example.org:443/",
		"https://bücher.example/ä":           "https://xn--bcher-kva.example/%C3%A4",
		"https://[2001:DB8::1]:443/":         "https://[2001:db8::1]/",
		"http://example。org。/":               "http://example.org/",
		"http://。/":                          "",
		"ftp://example.org/":                 "",
		"file:///etc/passwd":                 "",
		"example.org":                        "",
		"//example.org/":                     "",
		"https:///x":                         "",
		"https:example.org":                  "",
		"https://user:secret@example.org/":   "",
		"https://example.org/" + longPath:    "",
		"https://exa mple.org/":              "",
		"https://example.org/\r\nHost: evil": "",
		"https://example.org:65536":          "",
		"":                                   "",
	} {
		u, err := Parse(raw)
		if want == "" && !errors.Is(err, ErrURL) || want != "" && (err != nil || u.String() != want) {
			t.Errorf("%q: %v, %v; want %q", raw, u, err, want)
		}
	}
}

var longPath = strings.Repeat("x", maxURL)

// web is a server whose host names all lead to itself.
type web struct {
	*httptest.Server
	asked []string
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	w.asked = append(w.asked, r.URL.String())
	there := r.Clone(r.Context())
	there.URL.Scheme, there.URL.Host, there.Host = "http", w.Listener.Addr().String(), r.URL.Host
	resp, err := w.Client().Transport.RoundTrip(there)
	if resp != nil {
		resp.Request = r
	}
	return resp, err
}

func newWeb(t *testing.T, h http.HandlerFunc) *web {
	w := &web{Server: httptest.NewServer(h)}
	t.Cleanup(w.Close)
	return w
}

func TestGet(t *testing.T) {
	w := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
		where := r.Host + r.URL.Path
		for from, to := range map[string]string{
			"a.example/": "https://b.example/x/", "b.example/x/": "../page", "loop.example/": "/", "out.example/": "http://denied.example/",
			"mail.example/": "http://b.example:25/", "file.example/": "file:///etc/passwd", "password.example/": "http://a:b@b.example/page",
		} {
			if where == from {
				http.Redirect(w, r, to, http.StatusFound)
				return
			}
		}
		switch where {
		case "b.example/page":
			w.Header()["Content-Type"] = nil
			if r.Header.Get("Accept-Language") != "de, en;q=0.5" || r.Header.Get("User-Agent") != "Test" || r.Header.Get("Referer") != "" || r.Header.Get("Cookie") != "" {
				t.Errorf("headers %v", r.Header)
			}
			_, _ = io.WriteString(w, "<!DOCTYPE html><title>x</title>")
		case "zip.example/":
			w.Header().Set("Content-Type", "text/html; x")
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, "unpacked")
			_ = z.Close()
		default:
			http.NotFound(w, r)
		}
	})
	f := New(Options{Transport: w, UserAgent: "Test", Languages: []string{"de", "en;q=0.5"}, Allowed: func(host string) bool { return host != "denied.example" }})
	get := func(raw string) (*Answer, error) {
		u, err := Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return f.Get(t.Context(), u)
	}
	for raw, want := range map[string]string{
		"https://a.example/":   "https://b.example/page text/html <!DOCTYPE html><title>x</title>",
		"https://zip.example/": "https://zip.example/ text/html unpacked",
	} {
		a, err := get(raw)
		if err != nil {
			t.Errorf("%s: %v", raw, err)
			continue
		}
		body, err := io.ReadAll(a.Body)
		if got := a.URL.String() + " " + a.MediaType() + " " + string(body); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", raw, got, err, want)
		}
		_ = a.Close()
	}
	for raw, want := range map[string]error{
		"https://denied.example/": ErrDenied, "https://denied.example./": ErrDenied, "http://b.example:25/": ErrDenied,
		"http://out.example/": ErrDenied, "http://mail.example/": ErrDenied, "http://file.example/": ErrURL, "http://password.example/": ErrURL,
	} {
		if _, err := get(raw); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", raw, err, want)
		}
	}
	for _, raw := range w.asked {
		if strings.Contains(raw, "denied") || strings.Contains(raw, ":25") {
			t.Errorf("%s was asked", raw)
		}
	}
	var status *StatusError
	if _, err := get("http://none.example/"); !errors.As(err, &status) || status.Status != 404 {
		t.Errorf("a missing page: %v", err)
	}
	w.asked = nil
	if _, err := get("http://loop.example/"); err == nil || len(w.asked) != maxRedirects+1 {
		t.Errorf("a loop: %v after %d", err, len(w.asked))
	}
}

// FuzzParse holds that all ways to write an address end in one.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"https://Example.ORG", "http://bücher.example:80/ä?ö#ü", "https://[::1]:443/%2e%2e/", "http://a。b/", "http://x../", "http://x./" + strings.Repeat("ä", 700)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := Parse(u.String())
		if err != nil || again.String() != u.String() {
			t.Errorf("%q is %s, which is %v, %v", raw, u, again, err)
		}
		if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
			t.Errorf("%q is %#v", raw, u)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	row := `<div class="row"><a href="/item?id=1">A title that is long enough</a><span>12 points</span></div>`
	pages := map[string]string{
		"declared": `<head><meta property="og:title" content=T><meta property="og:description" content=D><meta property="og:image" content=i.png></head><body>`,
		"searched": `<head><title>T</title></head><body>`,
	}
	base, err := Parse("https://page.example/")
	if err != nil {
		b.Fatal(err)
	}
	for name, head := range pages {
		page := head + strings.Repeat(row, (1<<20)/len(row))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(page)))
			for b.Loop() {
				Read(strings.NewReader(page), "text/html", base)
			}
		})
	}
}
