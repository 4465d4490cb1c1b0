package search

import (
	"bytes"
	"context"
	"slices"
	"time"

	"knock/internal/sqldb"
)

// fanIn is how many segments of about one size are merged into one: each text is written once for every power of fanIn
// in the number of texts.
const fanIn = 8

// plan returns the segments that are to be merged, newest first; none when all is well. list is newest first.
func plan(list []meta) []meta {
	for limit := int64(fanIn); ; limit *= fanIn {
		var sum int64
		n := 0
		for n < len(list) && list[n].docs < limit {
			sum += list[n].docs
			n++
		}
		if n > 1 && sum >= limit {
			return list[:n]
		}
		if n == len(list) {
			return nil
		}
	}
}

// cleanEvery is how long the terms of redacted texts may stay in the index, though nobody finds them.
const cleanEvery = 24 * time.Hour

// mergeAll merges until ctx ends.
func (x *Index) mergeAll(ctx context.Context) {
	clean := time.NewTicker(time.Hour)
	defer clean.Stop()
	for {
		if err := x.mergeDue(ctx); err != nil && ctx.Err() == nil {
			x.o.Log.WithError(err).Warn("Segments of the search index could not be merged; trying again later")
		}
		select {
		case <-ctx.Done():
			return
		case <-clean.C:
		case <-x.grown:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(settle):
		}
	}
}

// mergeDue merges what should be merged.
func (x *Index) mergeDue(ctx context.Context) error {
	x.mergeMu.Lock()
	defer x.mergeMu.Unlock()
	if err := x.sweep(ctx); err != nil {
		return err
	}
	for {
		chosen, clean, err := x.due(ctx)
		if err != nil || len(chosen) == 0 {
			return err
		}
		if err := x.merge(ctx, chosen); err != nil {
			return err
		}
		if clean > 0 {
			if err := x.cleaned(ctx, clean); err != nil {
				return err
			}
		}
	}
}

// due returns the segments to merge. When all are, to be rid of redacted texts, clean is how many redactions there were.
func (x *Index) due(ctx context.Context) (chosen []meta, clean int64, err error) {
	var removed, last int64
	err = x.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if chosen, err = listSegments(tx); err == nil {
			removed, last, err = readRemoved(tx)
		}
		return err
	})
	x.measure(chosen)
	if removed > 0 && x.o.Clock().Sub(time.UnixMilli(last)) >= cleanEvery {
		return chosen, removed, err
	}
	return plan(chosen), 0, err
}

func (x *Index) measure(list []meta) {
	docs := int64(0)
	for _, m := range list {
		docs += m.docs
	}
	x.stats.docs.Set(float64(docs))
	x.stats.segments.Set(float64(len(list)))
}

// cleaned notes that the terms of redacted texts are gone.
func (x *Index) cleaned(ctx context.Context, removed int64) error {
	now := x.o.Clock().UnixMilli()
	return x.db.Do(ctx, &sqldb.Op{Name: "search.cleaned", Write: func(tx *sqldb.Tx, _ int64) error {
		_, err := tx.Exec(setCleaned, stateRow, removed, now)
		return err
	}})
}

// merge makes one segment of several, newest first. Texts that were redacted or purged, or are in a newer segment too,
// are left out.
func (x *Index) merge(ctx context.Context, from []meta) error {
	m := &merger{x: x, seg: x.db.NextID()}
	for _, s := range from {
		m.sources = append(m.sources, &source{meta: s, places: make([]uint32, 0, s.docs)})
	}
	if err := m.run(ctx); err != nil {
		x.swept = false // what was written is of no use
		return err
	}
	err := x.db.Do(ctx, &sqldb.Op{Name: "search.merged", Write: func(tx *sqldb.Tx, _ int64) error {
		if _, err := tx.Exec(deleteSegment, segs(from)); err != nil || m.docs == 0 {
			return err
		}
		return tx.Insert(insertSegment, []any{m.seg, from[0].age, m.docs, encodeRooms(m.rooms)})
	}})
	if err != nil {
		x.swept = false
		return err
	}
	for _, s := range from {
		if err := x.remove(ctx, s.seg); err != nil {
			x.swept = false
			return err
		}
	}
	return nil
}

// source is a segment that is merged.
type source struct {
	meta
	docs   []doc    // of the chunk at hand, those that are left
	next   int64    // place of the first doc after it
	places []uint32 // new places of the docs that were taken

	blocks []block // read and not yet used
	read   block   // the last one read
	ended  bool    // no more blocks
	terms  []termList
}

type termList struct{ term, list []byte }

const gone = ^uint32(0) // the place of a doc that is left out

// merger makes one segment.
type merger struct {
	x       *Index
	seg     int64
	sources []*source
	docs    int64
	rooms   []roomDocs

	readyDocs   []doc
	readyBlocks []block
}

func (m *merger) run(ctx context.Context) error {
	if err := m.mergeDocs(ctx); err != nil {
		return err
	}
	return m.mergeTerms(ctx)
}

// taken is a doc with the source that it came from.
type taken struct {
	doc
	from *source
}

// mergeDocs writes the docs and gives each its new place.
func (m *merger) mergeDocs(ctx context.Context) error {
	for {
		chunk := make([]taken, 0, docChunk)
		for len(chunk) < docChunk {
			d, err := m.nextDoc(ctx)
			if err != nil {
				return err
			}
			if d.from == nil {
				break
			}
			chunk = append(chunk, d)
		}
		if len(chunk) == 0 {
			return m.flushDocs(ctx, true)
		}
		if err := m.place(ctx, chunk); err != nil {
			return err
		}
	}
}

// nextDoc takes the first doc of the sources, the newest of several of one event coming first. from is nil at the end.
func (m *merger) nextDoc(ctx context.Context) (first taken, err error) {
	for _, s := range m.sources {
		if len(s.docs) == 0 && s.next < s.meta.docs {
			if err := m.readDocs(ctx, s); err != nil {
				return first, err
			}
		}
		if len(s.docs) > 0 && (first.from == nil || s.docs[0].compare(&first.doc) < 0) {
			first = taken{s.docs[0], s}
		}
	}
	if first.from != nil {
		first.from.docs = first.from.docs[1:]
	}
	return first, nil
}

func (m *merger) readDocs(ctx context.Context, s *source) error {
	return m.x.db.Read(ctx, func(tx *sqldb.Tx) error {
		chunks, err := readChunks(tx, s.seg, []int64{s.next})
		if err != nil {
			return err
		}
		s.docs = chunks[s.next]
		if s.next += int64(len(s.docs)); len(s.docs) == 0 {
			return errDamaged
		}
		return nil
	})
}

// place gives docs their new places, in order, leaving out those that are no more or came from a newer source already.
func (m *merger) place(ctx context.Context, chunk []taken) error {
	alive, err := m.alive(ctx, chunk)
	if err != nil {
		return err
	}
	for _, d := range chunk {
		if !alive[d.nid] {
			d.from.places = append(d.from.places, gone)
			continue
		}
		delete(alive, d.nid)
		d.from.places = append(d.from.places, uint32(m.docs))
		m.docs++
		m.rooms = countRoom(m.rooms, d.room)
		m.readyDocs = append(m.readyDocs, d.doc)
	}
	return m.flushDocs(ctx, false)
}

// alive returns which of the docs' events are still there, all but the last of the chunk before.
func (m *merger) alive(ctx context.Context, chunk []taken) (map[int64]bool, error) {
	nids := make([]int64, len(chunk))
	for i, d := range chunk {
		nids[i] = d.nid
	}
	out := make(map[int64]bool, len(nids))
	err := m.x.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := sqldb.Collect(tx, living, scanOne, nids, 0)
		for _, nid := range found {
			out[nid] = true
		}
		return err
	})
	if n := len(m.readyDocs); n > 0 { // its copies may have fallen into this chunk
		delete(out, m.readyDocs[n-1].nid)
	}
	return out, err
}

// flushDocs writes whole rows of docs; at the end, what is left too.
func (m *merger) flushDocs(ctx context.Context, end bool) error {
	n := len(m.readyDocs)
	if !end {
		n = max(0, n-1) / docChunk * docChunk // one stays, so that its copies are known
	}
	if n == 0 {
		return nil
	}
	from := m.docs - int64(len(m.readyDocs))
	err := m.x.db.Do(ctx, &sqldb.Op{Name: "search.docs", Write: func(tx *sqldb.Tx, _ int64) error {
		return writeDocs(tx, m.seg, from, m.readyDocs[:n])
	}})
	m.readyDocs = slices.Clone(m.readyDocs[n:])
	return err
}

const (
	blocksRead    = 16 // at once, of each source
	blocksWritten = 32 // in one transaction
)

// mergeTerms writes the terms with the new places.
func (m *merger) mergeTerms(ctx context.Context) error {
	w := blockWriter{emit: func(b block) error {
		m.readyBlocks = append(m.readyBlocks, b)
		if len(m.readyBlocks) < blocksWritten {
			return nil
		}
		return m.flushBlocks(ctx)
	}}
	for {
		term, places, err := m.nextTerm(ctx)
		if err != nil {
			return err
		}
		if term == nil {
			break
		}
		if len(places) == 0 {
			continue
		}
		if err := w.add(term, places); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	return m.flushBlocks(ctx)
}

// nextTerm takes the first term of the sources; it is nil at the end.
func (m *merger) nextTerm(ctx context.Context) (term []byte, places []uint32, err error) {
	for _, s := range m.sources {
		if err := m.fillTerms(ctx, s); err != nil {
			return nil, nil, err
		}
		if len(s.terms) > 0 && (term == nil || bytes.Compare(s.terms[0].term, term) < 0) {
			term = s.terms[0].term
		}
	}
	if term == nil {
		return nil, nil, nil
	}
	for _, s := range m.sources { // a long list is in several parts
		for len(s.terms) > 0 && bytes.Equal(s.terms[0].term, term) {
			if places, err = s.takeTerm(places); err != nil {
				return nil, nil, err
			}
			if err = m.fillTerms(ctx, s); err != nil {
				return nil, nil, err
			}
		}
	}
	slices.Sort(places)
	return term, places, nil
}

// takeTerm takes the next term of a source and appends its new places.
func (s *source) takeTerm(dst []uint32) ([]uint32, error) {
	old, err := decodePlaces(nil, s.terms[0].list)
	if err != nil {
		return dst, err
	}
	s.terms = s.terms[1:]
	for _, place := range old {
		if int(place) >= len(s.places) {
			return dst, errDamaged
		}
		if now := s.places[place]; now != gone {
			dst = append(dst, now)
		}
	}
	return dst, nil
}

// fillTerms makes sure that the next term of a source is known, unless there is none.
func (m *merger) fillTerms(ctx context.Context, s *source) error {
	for len(s.terms) == 0 {
		if len(s.blocks) == 0 && !s.ended {
			if err := m.readBlocks(ctx, s); err != nil {
				return err
			}
		}
		if len(s.blocks) == 0 {
			return nil
		}
		err := eachTermOf(s.blocks[0].data, func(term, list []byte) bool {
			s.terms = append(s.terms, termList{bytes.Clone(term), list})
			return true
		})
		if err != nil {
			return err
		}
		s.blocks = s.blocks[1:]
	}
	return nil
}

func (m *merger) readBlocks(ctx context.Context, s *source) error {
	if s.read.term == nil {
		s.read = block{term: []byte{}, doc: -1}
	}
	return m.x.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		s.blocks, err = sqldb.Collect(tx, nextBlocks, scanBlock, s.seg, s.read.term, s.read.doc, blocksRead)
		if n := len(s.blocks); n > 0 {
			s.read = s.blocks[n-1]
		}
		s.ended = len(s.blocks) < blocksRead
		return err
	})
}

func scanBlock(rows *sqldb.Rows) (b block, err error) {
	err = rows.Scan(&b.term, &b.doc, &b.data)
	return b, err
}

func (m *merger) flushBlocks(ctx context.Context) error {
	if len(m.readyBlocks) == 0 {
		return nil
	}
	err := m.x.db.Do(ctx, &sqldb.Op{Name: "search.blocks", Write: func(tx *sqldb.Tx, _ int64) error {
		return writeBlocks(tx, m.seg, m.readyBlocks)
	}})
	m.readyBlocks = nil
	return err
}

// sweep removes rows of segments that are no more, such as a crash left, once.
func (x *Index) sweep(ctx context.Context) error {
	if x.swept {
		return nil
	}
	known := map[int64]bool{}
	err := x.db.Read(ctx, func(tx *sqldb.Tx) error {
		list, err := listSegments(tx)
		for _, m := range list {
			known[m.seg] = true
		}
		return err
	})
	for _, after := range []*sqldb.Stmt{blocksAfter, docsAfter} {
		if err == nil {
			err = x.sweepTable(ctx, after, known)
		}
	}
	x.swept = err == nil
	return err
}

func (x *Index) sweepTable(ctx context.Context, after *sqldb.Stmt, known map[int64]bool) error {
	for last := int64(-1); ; {
		var next []int64
		var listed bool
		err := x.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			if next, err = sqldb.Collect(tx, after, scanOne, last); err != nil || len(next) == 0 {
				return err
			}
			here, err := sqldb.Collect(tx, isSegment, scanOne, next[0])
			listed = len(here) > 0
			return err
		})
		if err != nil || len(next) == 0 {
			return err
		}
		if last = next[0]; known[last] || listed { // a new one may have come meanwhile
			continue
		}
		if err := x.remove(ctx, last); err != nil {
			return err
		}
	}
}

const removedRows = 64 // in one transaction

// remove deletes the rows of a segment that is no more.
func (x *Index) remove(ctx context.Context, seg int64) error {
	for _, del := range []*sqldb.Stmt{deleteBlocks, deleteDocs} {
		for more := true; more; {
			err := x.db.Do(ctx, &sqldb.Op{Name: "search.remove", Write: func(tx *sqldb.Tx, _ int64) error {
				n, err := tx.Exec(del, seg, removedRows)
				more = n > 0
				return err
			}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
