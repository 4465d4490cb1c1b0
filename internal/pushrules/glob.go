package pushrules

import (
	"strings"
	"unicode/utf8"
)

// glob is a compiled pattern (appendices, "Glob-style matching"). It matches
// lower-cased text in time that is bounded by the product of both lengths.
type glob struct {
	segments []string // the pattern between its asterisks
	word     bool     // match any substring between word boundaries, not the whole
}

func newGlob(pattern string, word bool) glob {
	return glob{segments: strings.Split(strings.ToLower(pattern), "*"), word: word}
}

// match reports whether the lower-cased text matches.
func (g *glob) match(text string) bool {
	if g.word {
		return g.matchWords(text)
	}
	first, last := g.segments[0], g.segments[len(g.segments)-1]
	at, ok := matchAt(text, 0, first)
	if !ok {
		return false
	}
	if len(g.segments) == 1 {
		return at == len(text)
	}
	if at, ok = skipMiddle(text, at, g.segments); !ok {
		return false
	}
	start, ok := back(text, utf8.RuneCountInString(last))
	if !ok || start < at {
		return false
	}
	_, ok = matchAt(text, start, last)
	return ok
}

// matchWords finds the first segment where a word may start, the middle ones as
// early as possible, and the last one where a word may end. An asterisk at an
// edge reaches the edge of the text, which is always a boundary.
func (g *glob) matchWords(text string) bool {
	if len(g.segments) == 1 {
		return findSegment(text, 0, g.segments[0], func(from, to int) bool {
			return startsWord(text, from) && endsWord(text, to)
		}) >= 0
	}
	at := 0
	if first := g.segments[0]; first != "" {
		at = findSegment(text, 0, first, func(from, _ int) bool { return startsWord(text, from) })
	}
	if at < 0 {
		return false
	}
	at, ok := skipMiddle(text, at, g.segments)
	if !ok {
		return false
	}
	last := g.segments[len(g.segments)-1]
	return last == "" || findSegment(text, at, last, func(_, to int) bool { return endsWord(text, to) }) >= 0
}

// skipMiddle finds all segments but the first and last, in order, and returns
// where the last of them ends.
func skipMiddle(text string, at int, segments []string) (int, bool) {
	for _, s := range segments[1 : len(segments)-1] {
		if at = findSegment(text, at, s, nil); at < 0 {
			return 0, false
		}
	}
	return at, true
}

// findSegment returns the end of the first occurrence of a segment at or after
// from that accept agrees to, or -1.
func findSegment(text string, from int, segment string, accept func(from, to int) bool) int {
	literal, _, _ := strings.Cut(segment, "?")
	for from <= len(text) {
		skip := strings.Index(text[from:], literal)
		if skip < 0 {
			return -1
		}
		from += skip
		if to, ok := matchAt(text, from, segment); ok && (accept == nil || accept(from, to)) {
			return to
		}
		_, n := utf8.DecodeRuneInString(text[from:])
		from += max(n, 1)
	}
	return -1
}

// matchAt matches one segment at an offset and returns where it ends.
func matchAt(text string, at int, segment string) (int, bool) {
	for {
		literal, rest, more := strings.Cut(segment, "?")
		if !strings.HasPrefix(text[at:], literal) {
			return 0, false
		}
		at += len(literal)
		if !more {
			return at, true
		}
		if at == len(text) {
			return 0, false
		}
		_, n := utf8.DecodeRuneInString(text[at:])
		at, segment = at+n, rest
	}
}

// back returns the offset n characters before the end of text.
func back(text string, n int) (int, bool) {
	at := len(text)
	for range n {
		if at == 0 {
			return 0, false
		}
		_, size := utf8.DecodeLastRuneInString(text[:at])
		at -= size
	}
	return at, true
}

// isWord reports whether a byte is one of those that make up words. Everything
// else, also every letter outside ASCII, is a word boundary.
func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// startsWord reports whether a match may start at an offset.
func startsWord(text string, at int) bool {
	return at == 0 || at == len(text) || !isWord(text[at-1]) || !isWord(text[at])
}

// endsWord reports whether a match may end at an offset.
func endsWord(text string, at int) bool { return startsWord(text, at) }

// indexToken returns a token (see tokens) that every text matching the pattern,
// as a word pattern, must have; "" when there is none.
func indexToken(pattern string) string {
	pattern = strings.ToLower(pattern)
	best := ""
	for i := 0; i < len(pattern); {
		n := tokenLen(pattern, i)
		if n > len(best) && !nextToWildcard(pattern, i, i+n) {
			best = pattern[i : i+n]
		}
		i += max(n, 1)
	}
	return best
}

// nextToWildcard reports whether a word in pattern[from:to] may be only a part of
// the text's word. A character outside ASCII is a token wherever it stands.
func nextToWildcard(pattern string, from, to int) bool {
	if !isWord(pattern[from]) {
		return false
	}
	return from > 0 && wildcard(pattern[from-1]) || to < len(pattern) && wildcard(pattern[to])
}

func wildcard(c byte) bool { return c == '*' || c == '?' }

// tokenLen is the length of the token at an offset: a whole word, or one
// character outside ASCII; 0 when there is none.
func tokenLen(text string, at int) int {
	if text[at] >= utf8.RuneSelf {
		_, n := utf8.DecodeRuneInString(text[at:])
		return n
	}
	n := 0
	for at+n < len(text) && isWord(text[at+n]) {
		n++
	}
	return n
}

// eachToken calls fn with every token of a lower-cased text.
func eachToken(text string, fn func(string)) {
	for i := 0; i < len(text); {
		n := tokenLen(text, i)
		if n > 0 {
			fn(text[i : i+n])
		}
		i += max(n, 1)
	}
}
