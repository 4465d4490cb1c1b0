package mediaapi

import (
	"mime"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestDisposition(t *testing.T) {
	for _, c := range []struct{ contentType, name, want string }{
		{"image/png", "", "inline"},
		{"image/png", "a.png", `inline; filename="a.png"`},
		{"IMAGE/PNG", "a b;c.png", `inline; filename="a b;c.png"`},
		{"text/plain; charset=utf-8", "a", `inline; filename="a"`},
		{"text/html", "a.html", `attachment; filename="a.html"`},
		{"image/svg+xml", "a.svg", `attachment; filename="a.svg"`},
		{"application/pdf", "", "attachment"},
		{"", "x", `attachment; filename="x"`},
		{"image/png", "☃.png", "inline; filename*=utf-8''%E2%98%83.png"},
		{"image/png", `a"b\c%20.png`, "inline; filename*=utf-8''a%22b%5Cc%2520.png"},
		{"image/png", "it's (1)*.png", `inline; filename="it's (1)*.png"`},
		{"image/png", "é's (1)*.png", "inline; filename*=utf-8''%C3%A9%27s%20%281%29%2A.png"},
	} {
		if got := disposition(c.contentType, c.name); got != c.want {
			t.Errorf("%q %q: %s, want %s", c.contentType, c.name, got, c.want)
		}
	}
}

// A name comes out of the header as it went in, and nothing but the name.
func FuzzDisposition(f *testing.F) {
	for _, s := range []string{"a.png", `"; x="y`, "a\r\nSet-Cookie: b", "☃", "\xff\xfe", "%41", `\`, "a;b", "\u202egnp.exe", "'*'"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		name := cleanName(sent)
		header := disposition("image/png", name)
		if !printableASCII(header) {
			t.Fatalf("%q gives %q", sent, header)
		}
		kind, params, err := mime.ParseMediaType(header)
		if err != nil || kind != "inline" {
			t.Fatalf("%q gives %q: %v", sent, header, err)
		}
		if params["filename"] != name || len(params) > 1 {
			t.Fatalf("%q gives %q: %q", sent, header, params)
		}
		if utf8.ValidString(sent) && !strings.ContainsAny(sent, "\x00\r\n\t\ufffd\x7f") && printableASCII(sent) && name != sent {
			t.Fatalf("%q became %q", sent, name)
		}
	})
}

func FuzzCleanType(f *testing.F) {
	for _, s := range []string{"image/png", "text/plain; charset=utf-8", "a/b; c", "x", "", "text/html\r\nX: y", `a/b; c="d\"e"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		got := cleanType(sent)
		if !printableASCII(got) || len(got) > maxTypeBytes {
			t.Fatalf("%q gives %q", sent, got)
		}
		base, _, err := mime.ParseMediaType(got)
		if err != nil || !strings.Contains(base, "/") {
			t.Fatalf("%q gives %q: %v", sent, got, err)
		}
	})
}

func FuzzMXC(f *testing.F) {
	f.Add("here.example", "abc")
	f.Add("[::1]:8448", "a-b_c")
	f.Add("../..", "..")
	f.Fuzz(func(t *testing.T, origin, id string) {
		if u := (mxc{origin, id}); u.valid() && strings.ContainsAny(u.origin+u.id, "/\\%\x00 \r\n?#@") {
			t.Fatalf("%q is valid", u)
		}
	})
}
