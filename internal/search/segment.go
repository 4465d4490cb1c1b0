package search

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"
)

// doc is what a segment knows of an event beside its terms.
type doc struct {
	room, ts, nid int64 // in this order
	sender        int64
	size          int // words and dense characters of its text
	kind          Kinds
	url           bool // has content.url
}

func (d *doc) compare(o *doc) int {
	return cmp.Or(cmp.Compare(d.room, o.room), cmp.Compare(d.ts, o.ts), cmp.Compare(d.nid, o.nid))
}

// Sizes of what is stored in one row.
const (
	docChunk   = 1024
	blockBytes = 8 << 10
)

var errDamaged = errors.New("the search index is damaged; make it anew with: knock search rebuild")

// encodeDocs packs up to docChunk docs.
func encodeDocs(docs []doc) []byte {
	out := make([]byte, 0, 12*len(docs))
	var last doc
	senders := map[int64]uint64{}
	for i := range docs {
		d := &docs[i]
		out = binary.AppendUvarint(out, uint64(d.room-last.room))
		out = binary.AppendVarint(out, d.ts-last.ts)
		out = binary.AppendVarint(out, d.nid-last.nid)
		if place, ok := senders[d.sender]; ok {
			out = binary.AppendUvarint(out, place)
		} else {
			senders[d.sender] = uint64(len(senders) + 1)
			out = binary.AppendUvarint(binary.AppendUvarint(out, 0), uint64(d.sender))
		}
		bits := uint64(d.size)<<4 | uint64(d.kind)<<1
		if d.url {
			bits |= 1
		}
		out = binary.AppendUvarint(out, bits)
		last = *d
	}
	return out
}

func decodeDocs(data []byte) ([]doc, error) {
	r := reader{data: data}
	docs := make([]doc, 0, docChunk)
	var last doc
	var senders []int64
	for len(r.data) > 0 && !r.bad {
		d := doc{room: last.room + int64(r.uvarint()), ts: last.ts + r.varint(), nid: last.nid + r.varint()}
		place := r.uvarint()
		switch {
		case place == 0:
			d.sender = int64(r.uvarint())
			senders = append(senders, d.sender)
		case place > uint64(len(senders)):
			return nil, errDamaged
		default:
			d.sender = senders[place-1]
		}
		bits := r.uvarint()
		d.size, d.kind, d.url = int(bits>>4), Kinds(bits>>1&7), bits&1 == 1
		docs = append(docs, d)
		last = d
	}
	if r.bad {
		return nil, errDamaged
	}
	return docs, nil
}

// reader takes numbers and bytes off data. After too few of them bad is set.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) uvarint() uint64 { return next(r, binary.Uvarint) }
func (r *reader) varint() int64   { return next(r, binary.Varint) }

func next[N int64 | uint64](r *reader, decode func([]byte) (N, int)) N {
	n, size := decode(r.data)
	if size <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[size:]
	return n
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.data)) {
		r.fail()
		return nil
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) fail() { r.data, r.bad = nil, true }

// roomDocs says how many docs of a segment are of a room.
type roomDocs struct{ room, docs int64 }

func encodeRooms(rooms []roomDocs) []byte {
	var out []byte
	last := int64(0)
	for _, c := range rooms {
		out = binary.AppendUvarint(out, uint64(c.room-last))
		out = binary.AppendUvarint(out, uint64(c.docs))
		last = c.room
	}
	return out
}

func decodeRooms(data []byte) ([]roomDocs, error) {
	r := reader{data: data}
	var rooms []roomDocs
	last := int64(0)
	for len(r.data) > 0 {
		last += int64(r.uvarint())
		rooms = append(rooms, roomDocs{last, int64(r.uvarint())})
	}
	if r.bad {
		return nil, errDamaged
	}
	return rooms, nil
}

// countRoom adds a doc, the docs coming in order.
func countRoom(rooms []roomDocs, room int64) []roomDocs {
	if n := len(rooms); n > 0 && rooms[n-1].room == room {
		rooms[n-1].docs++
		return rooms
	}
	return append(rooms, roomDocs{room, 1})
}

// block is a row of terms. A list of places lies in one block, or, when it is too long for one, in several that begin
// with it and hold nothing else.
type block struct {
	term []byte
	doc  int64
	data []byte
}

// blockWriter makes blocks of terms that come in order.
type blockWriter struct {
	emit  func(block) error
	first []byte // term of the block at hand
	last  []byte
	data  []byte
}

// add takes the next term with its places, in order.
func (w *blockWriter) add(term []byte, places []uint32) error {
	list := encodePlaces(places)
	if len(w.data) > 0 && len(w.data)+len(term)+len(list) > blockBytes {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(list) > blockBytes {
		return w.addLong(term, places)
	}
	w.append(term, list)
	return nil
}

func (w *blockWriter) append(term, list []byte) {
	if len(w.data) == 0 {
		w.first, w.last = bytes.Clone(term), nil
	}
	shared := 0
	for shared < min(len(w.last), len(term)) && w.last[shared] == term[shared] {
		shared++
	}
	w.data = binary.AppendUvarint(w.data, uint64(shared))
	w.data = binary.AppendUvarint(w.data, uint64(len(term)-shared))
	w.data = append(w.data, term[shared:]...)
	w.data = binary.AppendUvarint(w.data, uint64(len(list)))
	w.data = append(w.data, list...)
	w.last = append(w.last[:0], term...)
}

// addLong writes a list in parts.
func (w *blockWriter) addLong(term []byte, places []uint32) error {
	for part := range slices.Chunk(places, blockBytes/2) {
		w.append(term, encodePlaces(part))
		if err := w.emit(block{w.first, int64(part[0]), w.data}); err != nil {
			return err
		}
		w.data = nil
	}
	return nil
}

func (w *blockWriter) flush() error {
	if len(w.data) == 0 {
		return nil
	}
	b := block{w.first, 0, w.data}
	w.data = nil
	return w.emit(b)
}

func encodePlaces(places []uint32) []byte {
	out := make([]byte, 0, 2*len(places))
	last := uint32(0)
	for _, p := range places {
		out = binary.AppendUvarint(out, uint64(p-last))
		last = p
	}
	return out
}

// decodePlaces appends the places of a list.
func decodePlaces(dst []uint32, list []byte) ([]uint32, error) {
	last := uint32(0)
	for i := 0; i < len(list); {
		if b := list[i]; b < 0x80 { // most are one byte
			last += uint32(b)
			i++
		} else {
			n, size := binary.Uvarint(list[i:])
			if size <= 0 {
				return dst, errDamaged
			}
			last += uint32(n)
			i += size
		}
		dst = append(dst, last)
	}
	return dst, nil
}

// eachTermOf calls fn with the terms of a block and their lists until it returns false. The term is fn's until it
// returns.
func eachTermOf(data []byte, fn func(term, list []byte) bool) error {
	r := reader{data: data}
	var term []byte
	for len(r.data) > 0 {
		shared := r.uvarint()
		suffix := r.take(r.uvarint())
		list := r.take(r.uvarint())
		if r.bad || shared > uint64(len(term)) {
			return errDamaged
		}
		term = append(term[:shared], suffix...)
		if !fn(term, list) {
			return nil
		}
	}
	return nil
}

// findTerm appends the places of a term in a block.
func findTerm(dst []uint32, data []byte, want []byte) ([]uint32, error) {
	var found []byte
	err := eachTermOf(data, func(term, list []byte) bool {
		c := bytes.Compare(term, want)
		if c == 0 {
			found = list
		}
		return c < 0
	})
	if err != nil || found == nil {
		return dst, err
	}
	return decodePlaces(dst, found)
}

// findTerms appends the places of all terms in a block that begin with a prefix, each list for itself.
func findTerms(dst []uint32, data []byte, prefix []byte) ([]uint32, error) {
	var bad error
	err := eachTermOf(data, func(term, list []byte) bool {
		if bytes.HasPrefix(term, prefix) {
			dst, bad = decodePlaces(dst, list)
			return bad == nil
		}
		return bytes.Compare(term, prefix) < 0
	})
	return dst, cmp.Or(err, bad)
}

// entry is a doc with its terms.
type entry struct {
	doc
	terms []string
}

// segment is one in memory, to be written.
type segment struct {
	docs   []doc
	rooms  []roomDocs
	blocks []block
}

// build makes a segment of entries of different events.
func build(entries []entry) (*segment, error) {
	slices.SortFunc(entries, func(a, b entry) int { return a.compare(&b.doc) })
	s := &segment{docs: make([]doc, len(entries))}
	places := map[string][]uint32{}
	for i := range entries {
		s.docs[i] = entries[i].doc
		s.rooms = countRoom(s.rooms, entries[i].room)
		for _, term := range entries[i].terms {
			places[term] = append(places[term], uint32(i))
		}
	}
	terms := make([]string, 0, len(places))
	for term := range places {
		terms = append(terms, term)
	}
	slices.Sort(terms)
	w := blockWriter{emit: func(b block) error {
		s.blocks = append(s.blocks, b)
		return nil
	}}
	for _, term := range terms {
		if err := w.add([]byte(term), places[term]); err != nil {
			return nil, err
		}
	}
	return s, w.flush()
}
