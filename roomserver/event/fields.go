package event

import (
	"bytes"
	"strings"
)

// field is one member of an object in canonical JSON, as offsets: its key (the
// text between the quotes) and its value. A comma or bracket follows at end.
type field struct{ name, nameTo, val, end int }

// fieldsOf appends the members of the canonical object b. It is for text that a
// scan has passed; anything else ends in false, never in a panic.
func fieldsOf(dst []field, b []byte) ([]field, bool) {
	if len(b) < 2 || b[0] != '{' || b[len(b)-1] != '}' {
		return dst, false
	}
	if len(b) == 2 {
		return dst, true
	}
	for i := 1; ; {
		if i >= len(b) || b[i] != '"' {
			return dst, false
		}
		f := field{name: i + 1, nameTo: skipString(b, i) - 1}
		if f.val = f.nameTo + 2; f.nameTo < f.name || f.val >= len(b) || b[f.val-1] != ':' {
			return dst, false
		}
		if f.end = skipValue(b, f.val); f.end <= f.val || f.end >= len(b) {
			return dst, false
		}
		dst = append(dst, f)
		if b[f.end] != ',' {
			return dst, b[f.end] == '}' && f.end == len(b)-1
		}
		i = f.end + 1
	}
}

// lookup returns the value of a key of the canonical object b; nil when absent.
func lookup(b []byte, key string) []byte {
	var buf [16]field
	list, _ := fieldsOf(buf[:0], b)
	return find(b, list, key)
}

// find is lookup among members already known.
func find(b []byte, list []field, key string) []byte {
	for _, f := range list {
		if keyIs(b[f.name:f.nameTo], key) {
			return b[f.val:f.end]
		}
	}
	return nil
}

// keyIs compares a key as it is written with one as it is meant.
func keyIs(raw []byte, key string) bool {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw) == key
	}
	return string(unescape(nil, raw)) == key
}

// keyText returns the key as it is meant.
func keyText(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return view(raw)
	}
	return string(unescape(nil, raw))
}

// stringValue decodes a JSON string; false when val is something else. The text
// is cut from val unless it has escapes.
func stringValue(val []byte) (string, bool) {
	if len(val) < 2 || val[0] != '"' || val[len(val)-1] != '"' {
		return "", false
	}
	return keyText(val[1 : len(val)-1]), true
}

// skipValue returns the offset after the value at i, or -1.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		return skipNested(b, i)
	}
	return skipScalar(b, i)
}

// skipString returns the offset after the string at i, or -1.
func skipString(b []byte, i int) int {
	for from := i + 1; from < len(b); {
		n := bytes.IndexByte(b[from:], '"')
		if n < 0 {
			return -1
		}
		end := from + n
		slashes := 0
		for b[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return end + 1
		}
		from = end + 1
	}
	return -1
}

func skipNested(b []byte, i int) int {
	for depth := 0; i < len(b); {
		switch b[i] {
		case '"':
			if i = skipString(b, i); i < 0 {
				return -1
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return -1
}

// skipScalar ends at what cannot be part of a number or a literal.
func skipScalar(b []byte, i int) int {
	for i < len(b) && (digit(b[i]) || lower(b[i]) || b[i] == '-' || b[i] == '.' || b[i] == '+' || b[i] == 'E') {
		i++
	}
	return i
}

// setMember returns a copy of the canonical object b with a member set, in its
// place in the order of keys.
func setMember(b []byte, key string, val []byte) []byte {
	var buf [24]field
	list, _ := fieldsOf(buf[:0], b)
	from, to := len(b)-1, len(b)-1
	for _, f := range list {
		if c := strings.Compare(keyText(b[f.name:f.nameTo]), key); c == 0 {
			from, to = f.name-1, f.end
			break
		} else if c > 0 {
			from, to = f.name-1, f.name-1
			break
		}
	}
	out := make([]byte, 0, len(b)+len(key)+len(val)+len(`,"":`))
	out = append(out, b[:from]...)
	if from == len(b)-1 && len(list) > 0 {
		out = append(out, ',')
	}
	out = append(AppendString(out, key), ':')
	out = append(out, val...)
	if from == to && from != len(b)-1 {
		out = append(out, ',')
	}
	return append(out, b[to:]...)
}
