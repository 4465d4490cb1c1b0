package preview

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/unicode"
)

func at(t testing.TB, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		page   string
		want   map[string]string
		images string
	}{
		"declared": {`<html prefix="og: http://ogp.me/ns#"><head><title>Other</title>
			<meta property="og:title" content="The Rock" /><meta property="og:type" content="video.movie">
			<meta property="og:url" content="http://www.imdb.com/title/tt0117500/"><META NAME="OG:Site_Name" CONTENT=IMDb>
			<meta property="og:image" content="rock.png"><meta property="og:image:width" content="9999"></head><body></body></html>`,
			map[string]string{"og:title": "The Rock", "og:type": "video.movie", "og:url": "http://www.imdb.com/title/tt0117500/", "og:site_name": "IMDb"},
			"http://page.example/a/rock.png"},
		"stand-ins": {`<head><title> A
			title &amp; more </title><meta name=description content="What it is about"></head><body>
			<img src="pixel.gif" width=1 height=1><img src="data:image/png;base64,xx"><img src="/b.png" width="640px"><img src="c.png"><p>Text`,
			map[string]string{"og:title": "A title & more", "og:description": "What it is about"},
			"http://page.example/b.png"},
		"cards": {`<meta name="twitter:title" content=T><meta name="twitter:description" content=D><meta name=twitter:image content=//cdn.example/i.png>
			<title>x</title><meta name=description content=y><link rel="icon image_src" href=l.png>`,
			map[string]string{"og:title": "T", "og:description": "D"},
			"http://cdn.example/i.png http://page.example/a/l.png"},
		"paragraphs": {`<title>T</title><body><nav>Menu</nav><p>One <b>t</b>wo<br>three<script>var no = "<p>";</script><style>p{}</style><div>No</div>
			<p>Four<noscript><p>hidden</noscript></p>five`,
			map[string]string{"og:title": "T", "og:description": "One two three Four"}, ""},
		"titles of drawings": {`<body><svg><title>Logo</title></svg><title>Page</title>`, map[string]string{"og:title": "Page"}, ""},
		"another base":       {`<base href="https://static.example/x/"><base href="https://no.example/"><meta property=og:image content=i.png>`, map[string]string{}, "https://static.example/x/i.png"},
		"no pages": {`<meta property=og:url content="javascript:alert(1)"><meta property=og:video:url content="ftp://x/"><meta property=og:video content="v.mp4">
			<meta property=og:image content="file:///etc/passwd"><meta property=og:image content="https://user:pass@x.example/">`,
			map[string]string{"og:video": "http://page.example/a/v.mp4"}, ""},
		"odd names":   {`<meta property="og:a b" content=x><meta property="og:ü" content=x><meta property="og:` + strings.Repeat("a", 100) + `" content=x>`, map[string]string{}, ""},
		"first wins":  {`<meta property=og:title content=1><meta property=og:title content=2>`, map[string]string{"og:title": "1"}, ""},
		"not hidden":  {"<meta property=og:title content='a\u202eb\u2066c&#0;d\x01\ne'>", map[string]string{"og:title": "abcd e"}, ""},
		"long":        {`<meta property=og:title content="` + strings.Repeat("ä", 400) + `">`, map[string]string{"og:title": strings.Repeat("ä", 300) + "…"}, ""},
		"a huge word": {`<title>T</title><script>` + strings.Repeat("x", maxToken+10) + `</script><meta property=og:title content=late>`, map[string]string{"og:title": "T"}, ""},
		"nothing":     {"", map[string]string{}, ""},
		"cut":         {`<title>T</title><meta property="og:desc`, map[string]string{"og:title": "T"}, ""},
	} {
		card := Read(strings.NewReader(c.page), "text/html; charset=utf-8", at(t, "http://page.example/a/index.html?x"))
		if !maps.Equal(card.Properties, c.want) {
			t.Errorf("%s: %q, want %q", name, card.Properties, c.want)
		}
		if images := strings.Trim(fmt.Sprint(card.Images), "[]"); images != c.images {
			t.Errorf("%s: images %s, want %s", name, images, c.images)
		}
	}
}

func TestCharsets(t *testing.T) {
	encode := func(s string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const page = "<title>日本語</title>"
	sjis := encode(japanese.ShiftJIS.NewEncoder().String(page))
	late := strings.Repeat("<!-- x -->", 1000)
	for name, c := range map[string]struct{ contentType, page, want string }{
		"header":            {"text/html; charset=Shift_JIS", sjis, "日本語"},
		"page":              {"text/html", `<meta charset="shift_jis">` + sjis, "日本語"},
		"page, as of old":   {"text/html", `<meta http-equiv=content-type content="text/html; charset=shift_jis">` + sjis, "日本語"},
		"nobody":            {"text/html", page, "日本語"},
		"nobody, and late":  {"text/html", late + page, "日本語"},
		"mark":              {"text/html", encode(unicode.UTF16(unicode.BigEndian, unicode.UseBOM).NewEncoder().String(page)), "日本語"},
		"wrongly":           {"text/html", `<meta charset=iso-8859-1>` + page, "日本語"},
		"Latin-1":           {"text/html", "<title>caf\xe9</title>", "café"},
		"unknown":           {"text/html; charset=klingon", page, "日本語"},
		"replaced":          {"text/html; charset=hz-gb-2312", page, ""},
		"broken":            {"text/html; charset=utf-8", "<title>a\xff\xfeb</title>", "ab"},
		"ends in a letter":  {"text/html", strings.Repeat("x", sniffed-len("<title>")-1-2) + "<title>é</title>", "é"},
		"a mark in between": {"text/html; charset=utf-8", "\xef\xbb\xbf<title>T</title>", "T"},
	} {
		card := Read(strings.NewReader(c.page), c.contentType, at(t, "http://page.example/"))
		if got := card.Properties["og:title"]; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// counter counts what is read of a page.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// A page that has said everything is not read to its end, and one that breaks off has said something.
func TestReadNoFurther(t *testing.T) {
	head := `<title>T</title><meta name=description content=D><meta property=og:image content=i.png></head><body>`
	c := &counter{Reader: io.MultiReader(strings.NewReader(head), strings.NewReader(strings.Repeat("<i>x</i>", 1<<20)))}
	if card := Read(c, "text/html", at(t, "http://page.example/")); len(card.Images) != 1 || c.n > 2*sniffed {
		t.Errorf("%d bytes read for %v", c.n, card)
	}
	broken := io.MultiReader(strings.NewReader(head), iotest.ErrReader(io.ErrUnexpectedEOF))
	if card := Read(broken, "text/html", at(t, "http://page.example/")); card.Properties["og:title"] != "T" {
		t.Errorf("of a broken page: %v", card)
	}
}

func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`<title>T</title><meta property="og:title" content="x"><meta property=og:image content=i.png><img src=a.png><p>x<br>y</p>`,
		`<base href="https://x.example/"><svg><title></svg><script><!--</script><p>a<table>b`, "\xff\xfe<\x00t\x00", `<meta charset=utf-16be>`,
		`<meta property=og:url content="http://[::1%25x]/">`, "<title>\u202e&#x202e;</title>", `<plaintext><title>x`,
	} {
		f.Add([]byte(seed), "text/html")
		f.Add([]byte(seed), "text/html; charset=iso-2022-jp")
	}
	base := at(f, "https://page.example/a/")
	f.Fuzz(func(t *testing.T, data []byte, contentType string) {
		card := Read(strings.NewReader(string(data)), contentType, base)
		if len(card.Properties) > maxProperties+2 || len(card.Images) > maxImages {
			t.Errorf("%d properties, %d images", len(card.Properties), len(card.Images))
		}
		for name, text := range card.Properties {
			if !validName(name) || text == "" || len(text) > maxURL && utf8.RuneCountInString(text) > maxAbout+1 || !utf8.ValidString(text) || slices.ContainsFunc([]rune(text), turns) {
				t.Errorf("%q: %q", name, text)
			}
		}
		for _, u := range card.Images {
			again, err := Parse(u.String())
			if err != nil || again.String() != u.String() {
				t.Errorf("%s is no address: %v", u, err)
			}
		}
	})
}
