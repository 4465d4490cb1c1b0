package event

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// stringForm says what scanString met.
type stringForm struct {
	escaped bool // there are escapes
	loose   bool // some of them are not how canonical JSON would write them
}

// scanString checks the string that begins at i, after its quote, and returns
// the offset of the closing quote.
func scanString(b []byte, i int) (end int, f stringForm, err error) {
	for {
		i = plain(b, i)
		if i >= len(b) || b[i] < ' ' {
			return 0, f, ErrSyntax
		}
		switch c := b[i]; {
		case c == '"':
			return i, f, nil
		case c == '\\':
			n, loose, err := scanEscape(b[i:])
			if err != nil {
				return 0, f, err
			}
			f.escaped, f.loose = true, f.loose || loose
			i += n
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return 0, f, ErrUTF8
			}
			i += n
		}
	}
}

// plain skips printable ASCII other than quotes and backslashes, eight bytes at
// a time: a byte is special if its top bit is set here.
func plain(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		special := (x | (x - ' '*ones) | ((x ^ '"'*ones) - ones) | ((x ^ '\\'*ones) - ones)) & tops
		if special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
		i += 8
	}
	for i < len(b) && b[i] >= ' ' && b[i] < utf8.RuneSelf && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// scanEscape checks one escape (a surrogate pair counts as one) and returns its
// length, and whether canonical JSON would write it otherwise.
func scanEscape(b []byte) (n int, loose bool, err error) {
	if len(b) < 2 {
		return 0, false, ErrSyntax
	}
	switch b[1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		return 2, false, nil
	case '/':
		return 2, true, nil
	case 'u':
	default:
		return 0, false, ErrSyntax
	}
	r, ok := hex4(b, 2)
	switch {
	case !ok:
		return 0, false, ErrSyntax
	case !utf16.IsSurrogate(r):
		return 6, looseEscape(b[2:6], r), nil
	case len(b) < 12 || b[6] != '\\' || b[7] != 'u':
		return 0, false, ErrUTF8
	}
	low, ok := hex4(b, 8)
	if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
		return 0, false, ErrUTF8
	}
	return 12, true, nil
}

// looseEscape: canonical JSON uses \u only for control characters that have no
// letter, in lower case.
func looseEscape(digits []byte, r rune) bool {
	return r >= ' ' || short[r] != 0 || bytes.ContainsAny(digits, "ABCDEF")
}

// short holds the letters of the escapes of control characters that have one.
var short = [32]byte{'\b': 'b', '\t': 't', '\n': 'n', '\f': 'f', '\r': 'r'}

func hex4(b []byte, i int) (r rune, ok bool) {
	if i+4 > len(b) {
		return 0, false
	}
	for _, c := range b[i : i+4] {
		switch {
		case digit(c):
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape appends the text of a string that scanString has passed.
func unescape(dst, raw []byte) []byte {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 || i+1 >= len(raw) {
			return append(dst, raw...)
		}
		dst = append(dst, raw[:i]...)
		raw = raw[i:]
		n, r := unescapeOne(raw)
		dst, raw = utf8.AppendRune(dst, r), raw[n:]
	}
}

func unescapeOne(b []byte) (n int, r rune) {
	if i := bytes.IndexByte(short[:], b[1]); i > 0 {
		return 2, rune(i)
	}
	if b[1] != 'u' {
		return 2, rune(b[1])
	}
	r, _ = hex4(b, 2)
	if !utf16.IsSurrogate(r) {
		return min(6, len(b)), r
	}
	low, _ := hex4(b, 8)
	return min(12, len(b)), utf16.DecodeRune(r, low)
}

// AppendString appends s as a canonical JSON string. What is not UTF-8 in s
// becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i, r := range s {
		if r >= ' ' && r != '"' && r != '\\' && r != utf8.RuneError {
			continue
		}
		n := 1
		dst = append(dst, s[start:i]...)
		switch {
		case r == utf8.RuneError:
			_, n = utf8.DecodeRuneInString(s[i:])
			dst = append(dst, "\uFFFD"...)
		case r >= ' ':
			dst = append(dst, '\\', byte(r))
		case short[r] != 0:
			dst = append(dst, '\\', short[r])
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		}
		start = i + n
	}
	return append(append(dst, s[start:]...), '"')
}

// view returns b as a string without copying. b must never change afterwards.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
