package event

import (
	"bytes"
	"math"
	"slices"
	"sync"
)

// maxDepth bounds the nesting of objects and arrays; other servers stop at
// about as much.
const maxDepth = 1000

// scan reads JSON of unknown origin once: it checks everything that canonical
// JSON needs, and notes the members of every object, sorted, so that emit can
// write the canonical form without further questions.
type scan struct {
	src []byte
	rules
	canonical bool // so far src is its own canonical form

	records []record // one an object, in the order of their "{"
	members []member // of closed objects
	open    []member // of objects not closed yet, a stack
	names   []byte   // keys that had escapes, decoded
}

// rules are what a scan allows.
type rules struct {
	strict bool // only integers within ±(2^53 − 1)
	last   bool // a key may come twice in an object; the last one counts
}

// record is one object: its members and what comes after it.
type record struct {
	first, n int32 // in scan.members
	end      int32 // offset after "}"
	after    int32 // number of the next record
}

// member is one key and its value, as offsets into src.
type member struct {
	start        int32 // of the key's quote
	name, nameTo int32 // the key, in src, or in names when decoded
	val, end     int32
	rec          int32 // first record within the value
	decoded      bool
}

var scans = sync.Pool{New: func() any { return new(scan) }}

// newScan reads src to its end. Give it back with free.
func newScan(src []byte, how rules) (*scan, error) {
	s := scans.Get().(*scan)
	s.src, s.rules, s.canonical = src, how, true
	s.records, s.members, s.open, s.names = s.records[:0], s.members[:0], s.open[:0], s.names[:0]
	if err := s.run(); err != nil {
		s.free()
		return nil, err
	}
	return s, nil
}

// free keeps ordinary buffers for the next scan and lets large ones go.
func (s *scan) free() {
	s.src = nil
	if cap(s.members) > 4096 || cap(s.names) > 65536 || cap(s.records) > 4096 {
		*s = scan{}
	}
	scans.Put(s)
}

func (s *scan) run() error {
	if len(s.src) > math.MaxInt32 {
		return ErrTooLarge
	}
	i, err := s.value(s.space(0), 0)
	if err != nil {
		return err
	}
	if s.space(i) != len(s.src) {
		return ErrSyntax
	}
	return nil
}

// name returns the decoded key of m.
func (s *scan) name(m *member) []byte {
	if m.decoded {
		return s.names[m.name:m.nameTo]
	}
	return s.src[m.name:m.nameTo]
}

// space skips white space, which canonical JSON does not have.
func (s *scan) space(i int) int {
	for i < len(s.src) {
		switch s.src[i] {
		case ' ', '\t', '\n', '\r':
			s.canonical = false
			i++
		default:
			return i
		}
	}
	return i
}

// value reads the value at i and returns the offset after it.
func (s *scan) value(i, depth int) (int, error) {
	if i >= len(s.src) {
		return 0, ErrSyntax
	}
	switch s.src[i] {
	case '"':
		end, st, err := scanString(s.src, i+1)
		s.canonical = s.canonical && !st.loose
		return end + 1, err
	case '{':
		return s.object(i, depth+1)
	case '[':
		return s.array(i, depth+1)
	case 't':
		return s.literal(i, "true")
	case 'f':
		return s.literal(i, "false")
	case 'n':
		return s.literal(i, "null")
	}
	end, canonical, err := scanNumber(s.src, i, s.strict)
	s.canonical = s.canonical && canonical
	return end, err
}

func (s *scan) literal(i int, word string) (int, error) {
	if len(s.src)-i < len(word) || string(s.src[i:i+len(word)]) != word {
		return 0, ErrSyntax
	}
	return i + len(word), nil
}

func (s *scan) array(i, depth int) (int, error) {
	if depth > maxDepth {
		return 0, ErrTooDeep
	}
	if i = s.space(i + 1); i < len(s.src) && s.src[i] == ']' {
		return i + 1, nil
	}
	for {
		end, err := s.value(s.space(i), depth)
		if err != nil {
			return 0, err
		}
		if i, err = s.next(end, ']'); err != nil {
			return 0, err
		}
		if s.src[i-1] == ']' {
			return i, nil
		}
	}
}

// next reads "," or the closing bracket and returns the offset after it.
func (s *scan) next(i int, closing byte) (int, error) {
	i = s.space(i)
	if i >= len(s.src) || s.src[i] != ',' && s.src[i] != closing {
		return 0, ErrSyntax
	}
	return i + 1, nil
}

func (s *scan) object(i, depth int) (int, error) {
	if depth > maxDepth {
		return 0, ErrTooDeep
	}
	rec, base := len(s.records), len(s.open)
	s.records = append(s.records, record{})
	if i = s.space(i + 1); i < len(s.src) && s.src[i] == '}' {
		return i + 1, s.closeObject(rec, base, i+1)
	}
	for {
		m, err := s.member(s.space(i), depth)
		if err != nil {
			return 0, err
		}
		s.open = append(s.open, m)
		if i, err = s.next(int(m.end), '}'); err != nil {
			return 0, err
		}
		if s.src[i-1] == '}' {
			return i, s.closeObject(rec, base, i)
		}
	}
}

func (s *scan) member(i, depth int) (m member, err error) {
	if i >= len(s.src) || s.src[i] != '"' {
		return m, ErrSyntax
	}
	nameEnd, st, err := scanString(s.src, i+1)
	if err != nil {
		return m, err
	}
	s.canonical = s.canonical && !st.loose
	m = member{start: int32(i), name: int32(i + 1), nameTo: int32(nameEnd)}
	if st.escaped {
		m.name, m.decoded = int32(len(s.names)), true
		s.names = unescape(s.names, s.src[i+1:nameEnd])
		m.nameTo = int32(len(s.names))
	}
	if i = s.space(nameEnd + 1); i >= len(s.src) || s.src[i] != ':' {
		return m, ErrSyntax
	}
	i = s.space(i + 1)
	m.val, m.rec = int32(i), int32(len(s.records))
	end, err := s.value(i, depth)
	m.end = int32(end)
	return m, err
}

// closeObject moves the members of the object from the stack, in order of their
// keys. Keys in UTF-8 order by bytes as they do by codepoints.
func (s *scan) closeObject(rec, base, end int) error {
	first := len(s.members)
	s.members = append(s.members, s.open[base:]...)
	s.open = s.open[:base]
	list := s.members[first:]
	if !s.ascending(list) {
		s.canonical = false
		slices.SortStableFunc(list, func(a, b member) int { return bytes.Compare(s.name(&a), s.name(&b)) })
		if !s.ascending(list) {
			if !s.last {
				return ErrDuplicateKey
			}
			list = s.lastOnes(list)
		}
	}
	s.records[rec] = record{int32(first), int32(len(list)), int32(end), int32(len(s.records))}
	return nil
}

// lastOnes keeps of each key in a sorted list the last member.
func (s *scan) lastOnes(list []member) []member {
	n := 0
	for i := range list {
		if i+1 < len(list) && bytes.Equal(s.name(&list[i]), s.name(&list[i+1])) {
			continue
		}
		list[n] = list[i]
		n++
	}
	return list[:n]
}

func (s *scan) ascending(list []member) bool {
	for i := 1; i < len(list); i++ {
		if bytes.Compare(s.name(&list[i-1]), s.name(&list[i])) >= 0 {
			return false
		}
	}
	return true
}

// top returns the members of the outermost value, which must be an object.
func (s *scan) top() ([]member, bool) {
	if len(s.records) == 0 || s.src[s.space(0)] != '{' {
		return nil, false
	}
	r := s.records[0]
	return s.members[r.first : r.first+r.n], true
}
