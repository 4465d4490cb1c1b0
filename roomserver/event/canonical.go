package event

// Canonical appends the canonical form of raw to dst (appendices, Canonical
// JSON). With dst nil and raw already canonical, raw itself is returned. Numbers
// that canonical JSON does not know are kept, as rooms before version 6 need it.
func Canonical(dst, raw []byte) ([]byte, error) { return canonical(dst, raw, rules{}) }

// CanonicalStrict is Canonical with the number rules of room version 6 and
// later: anything but integers within ±(2^53 − 1) is ErrNumber.
func CanonicalStrict(dst, raw []byte) ([]byte, error) {
	return canonical(dst, raw, rules{strict: true})
}

// CanonicalLoose is Canonical for what need not be taken as an event: where an
// object has a key twice the last one counts, as in other servers' libraries.
func CanonicalLoose(dst, raw []byte) ([]byte, error) { return canonical(dst, raw, rules{last: true}) }

func canonical(dst, raw []byte, how rules) ([]byte, error) {
	s, err := newScan(raw, how)
	if err != nil {
		return nil, err
	}
	defer s.free()
	if !s.canonical {
		dst, _, _ = s.emit(dst, s.space(0), 0)
		return dst, nil
	}
	if dst == nil {
		return raw, nil
	}
	return append(dst, raw...), nil
}

// canonicalObject appends the canonical form of an object without the members
// that drop names.
func canonicalObject(dst, raw []byte, strict bool, drop func(name []byte) bool) ([]byte, error) {
	s, err := newScan(raw, rules{strict: strict})
	if err != nil {
		return nil, err
	}
	defer s.free()
	top, ok := s.top()
	if !ok {
		return nil, ErrFormat
	}
	return s.appendMembers(dst, top, drop), nil
}

// emit appends the canonical form of the value at i, whose first object is
// record rec. It returns what follows: the next offset and record.
func (s *scan) emit(dst []byte, i int, rec int32) ([]byte, int, int32) {
	switch s.src[i] {
	case '{':
		r := s.records[rec]
		return s.appendMembers(dst, s.members[r.first:r.first+r.n], nil), int(r.end), r.after
	case '[':
		return s.emitArray(dst, i, rec)
	case '"':
		end, st, _ := scanString(s.src, i+1)
		if st.loose {
			return AppendString(dst, view(unescape(nil, s.src[i+1:end]))), end + 1, rec
		}
		return append(dst, s.src[i:end+1]...), end + 1, rec
	}
	end := skipScalar(s.src, i)
	if c := s.src[i]; c == '-' || digit(c) {
		return appendNumber(dst, s.src[i:end]), end, rec
	}
	return append(dst, s.src[i:end]...), end, rec
}

func (s *scan) emitArray(dst []byte, i int, rec int32) ([]byte, int, int32) {
	dst = append(dst, '[')
	for i = s.space(i + 1); s.src[i] != ']'; {
		dst, i, rec = s.emit(dst, i, rec)
		if i = s.space(i); s.src[i] == ',' {
			dst = append(dst, ',')
			i = s.space(i + 1)
		}
	}
	return append(dst, ']'), i + 1, rec
}

func (s *scan) appendMembers(dst []byte, list []member, drop func(name []byte) bool) []byte {
	dst = append(dst, '{')
	sep := false
	for k := range list {
		m := &list[k]
		if drop != nil && drop(s.name(m)) {
			continue
		}
		if sep {
			dst = append(dst, ',')
		}
		sep = true
		if s.canonical {
			dst = append(dst, s.src[m.start:m.end]...)
			continue
		}
		dst = append(AppendString(dst, view(s.name(m))), ':')
		dst, _, _ = s.emit(dst, int(m.val), m.rec)
	}
	return append(dst, '}')
}
