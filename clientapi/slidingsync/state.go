package slidingsync

import (
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// kind is how the user stood to a room when it was last told.
type kind uint8

const (
	joined  kind = iota
	outside      // invited or knocking
	gone         // left, or kicked or banned
)

// marks are what else was told of a room.
type marks uint8

const (
	markDM marks = 1 << iota
	markData
	markReceipts
	markTyping
)

// record is what a client has been told of one room.
type record struct {
	room  int64
	upto  int64 // 0: the room is live, everything up to the token's position
	union uint16
	limit uint8 // the client has at least so many of the newest events
	kind  kind
	marks marks
}

// connState is what a client has been told on a connection. It is immutable once
// its generation is set.
type connState struct {
	gen    int64
	global bool // all global account data
	follow bool // the threads that the user follows
	unions []*union
	rooms  []record // ascending by room
}

// find returns a room's place. It is asked for every room in view, at every look.
func (s *connState) find(room int64) (int, bool) {
	lo, hi := 0, len(s.rooms)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if s.rooms[mid].room < room {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(s.rooms) && s.rooms[lo].room == room
}

// draft is how an answer changes the state of its connection.
type draft struct {
	base   *connState
	global bool
	follow bool
	unions []*union // base's and new ones
	set    map[int64]record
	drop   map[int64]bool
}

func newDraft(base *connState) *draft {
	return &draft{base: base, global: base.global, follow: base.follow, unions: slices.Clip(base.unions), set: map[int64]record{}, drop: map[int64]bool{}}
}

// intern returns the number of a union.
func (d *draft) intern(u *union) uint16 {
	for i, known := range d.unions {
		if known.text == u.text {
			return uint16(i)
		}
	}
	d.unions = append(d.unions, u)
	return uint16(len(d.unions) - 1)
}

func (d *draft) changed() bool {
	return len(d.set) > 0 || len(d.drop) > 0 || d.global != d.base.global || d.follow != d.base.follow
}

// maxUnions bounds the unions that a state keeps although no room needs them.
const maxUnions = 64

// apply returns the state after the answer: base itself when nothing changed.
func (d *draft) apply() *connState {
	if !d.changed() {
		return d.base
	}
	next := &connState{global: d.global, follow: d.follow, unions: d.unions, rooms: make([]record, 0, len(d.base.rooms)+len(d.set))}
	for _, r := range d.base.rooms {
		if now, ok := d.set[r.room]; ok {
			r = now
			delete(d.set, r.room)
		}
		if !d.drop[r.room] {
			next.rooms = append(next.rooms, r)
		}
	}
	for _, r := range d.set {
		next.rooms = append(next.rooms, r)
	}
	slices.SortFunc(next.rooms, func(a, b record) int { return cmp.Compare(a.room, b.room) })
	if len(next.unions) > maxUnions {
		next.collect()
	}
	return next
}

// collect drops the unions that no room has.
func (s *connState) collect() {
	moved := make(map[uint16]uint16, len(s.unions))
	var kept []*union
	for i, r := range s.rooms {
		to, ok := moved[r.union]
		if !ok {
			to = uint16(len(kept))
			kept = append(kept, s.unions[r.union])
			moved[r.union] = to
		}
		s.rooms[i].union = to
	}
	s.unions = kept
}

// The stored form: version, flags, unions, and rooms as differences.
const codecVersion = 1

const (
	flagGlobal = 1 << iota
	flagFollow
)

func (s *connState) encode() []byte {
	b := append(make([]byte, 0, 64+8*len(s.rooms)), codecVersion, 0)
	if s.global {
		b[1] |= flagGlobal
	}
	if s.follow {
		b[1] |= flagFollow
	}
	b = binary.AppendUvarint(b, uint64(len(s.unions)))
	for _, u := range s.unions {
		b = append(binary.AppendUvarint(b, uint64(len(u.text))), u.text...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.rooms)))
	var last int64
	for _, r := range s.rooms {
		b = binary.AppendUvarint(b, uint64(r.room-last))
		b = binary.AppendUvarint(b, uint64(r.upto))
		b = binary.AppendUvarint(b, uint64(r.union))
		b = append(b, r.limit, byte(r.kind)|byte(r.marks)<<2)
		last = r.room
	}
	return b
}

var errCorrupt = errors.New("the stored state of a sliding sync connection is damaged")

// reader reads the stored form and keeps the first mistake.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad = true
		return 0
	}
	r.data = r.data[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.data)) {
		r.bad = true
		return make([]byte, min(n, 2))
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b
}

func decodeState(data []byte) (*connState, error) {
	r := &reader{data: data}
	head := r.bytes(2)
	if r.bad || head[0] != codecVersion {
		return nil, errCorrupt
	}
	s := &connState{global: head[1]&flagGlobal != 0, follow: head[1]&flagFollow != 0}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		u, err := parseUnion(string(r.bytes(r.uvarint())))
		if err != nil {
			return nil, errors.Join(errCorrupt, err)
		}
		s.unions = append(s.unions, u)
	}
	var last int64
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		rec := record{room: last + int64(r.uvarint()), upto: int64(r.uvarint())}
		index := r.uvarint()
		tail := r.bytes(2)
		rec.union, rec.limit, rec.kind, rec.marks = uint16(index), tail[0], kind(tail[1]&3), marks(tail[1]>>2)
		if index >= uint64(len(s.unions)) || rec.room <= last {
			return nil, errCorrupt
		}
		s.rooms = append(s.rooms, rec)
		last = rec.room
	}
	if r.bad || len(r.data) > 0 {
		return nil, errCorrupt
	}
	return s, nil
}
