package preview

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

// tidy makes a text of a page one line of at most limit characters, without what could make it look like something
// else where it is shown: control characters and those that turn the direction of writing.
func tidy(s string, limit int) string {
	var b strings.Builder
	n, space := 0, false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = n > 0
			continue
		case r == utf8.RuneError, unicode.IsControl(r), turns(r):
			continue
		}
		needed := 1
		if space {
			needed = 2
		}
		if n+needed > limit {
			return b.String() + "…"
		}
		if space {
			b.WriteByte(' ')
		}
		b.WriteRune(r)
		n, space = n+needed, false
	}
	return b.String()
}

// turns reports whether a character changes the direction of those that follow (Unicode, bidirectional formatting).
func turns(r rune) bool {
	return r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069
}

// FileTitle is what a file is called by its address, "" where that has no name.
func FileTitle(u *url.URL) string {
	return tidy(u.Path[strings.LastIndexByte(u.Path, '/')+1:], maxText)
}
