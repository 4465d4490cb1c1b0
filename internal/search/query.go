package search

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"slices"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Query is what a user searches.
type Query struct {
	Viewer roomserver.Viewer
	Term   string
	Kinds  Kinds // 0: all
	// Rooms are the ids of the rooms that are searched, with those that they replaced; nil: all that the user is or was
	// in. Others do not count.
	Rooms    *[]string
	NotRooms []string
	Keep     func(*store.Stored) bool // nil: all
	Recent   bool                     // the newest first, else the best matches
	Limit    int
	After    *Cursor // where the page before ended; nil: from the beginning
}

// Result is a text that matches.
type Result struct {
	Event *store.Stored
	Rank  float64 // how much of the text was searched for, from 0 to 1
}

// Page is a part of the results.
type Page struct {
	Results    []Result
	Count      int64    // of all, about
	Highlights []string // words of the results that match, as they are written there
	Next       *Cursor  // nil: there are no more
}

// Cursor is a place among the results. Its text is a token for clients.
type Cursor struct {
	score, ts, nid int64
	count          int64
}

const cursorBytes = 1 + 4*binary.MaxVarintLen64

// String returns the token.
func (c *Cursor) String() string {
	out := make([]byte, 0, cursorBytes)
	for _, n := range []int64{c.score, c.ts, c.nid, c.count} {
		out = binary.AppendVarint(out, n)
	}
	return base64.RawURLEncoding.EncodeToString(out)
}

// ParseCursor reads a token that String made.
func ParseCursor(token string) (*Cursor, bool) {
	if len(token) > 2*cursorBytes {
		return nil, false
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, false
	}
	r := reader{data: data}
	c := &Cursor{score: r.varint(), ts: r.varint(), nid: r.varint(), count: r.varint()}
	return c, !r.bad && len(r.data) == 0
}

// Bounds of a search.
const (
	maxSearches   = 4 // at once
	maxTime       = 10 * time.Second
	maxRanked     = 50_000 // the newest texts that have the words, of which the best are found
	maxExamined   = 2000   // texts that are read for one page
	minExamined   = 32     // read at once
	maxHighlights = 50
)

// ErrBusy means that too many search at once.
var ErrBusy = errors.New("too many searches at once")

// Search returns a page of the texts that have all words of the term, of those that the user may see.
func (x *Index) Search(ctx context.Context, q Query) (page Page, err error) {
	n := parseNeedle(q.Term)
	if n.empty() || q.Limit <= 0 {
		return page, nil
	}
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, ErrBusy)
	defer cancel()
	select {
	case x.slots <- struct{}{}:
		defer func() { <-x.slots }()
	case <-ctx.Done():
		return page, context.Cause(ctx)
	}
	if err := x.freshen(ctx); err != nil {
		return page, err
	}
	if q.Kinds == 0 {
		q.Kinds = All
	}
	err = x.db.Read(ctx, func(tx *sqldb.Tx) error {
		f := &finder{x: x, tx: tx, q: &q, n: n, seen: map[string]bool{}}
		err := f.run()
		page = f.page
		return err
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	x.stats.took.Observe(time.Since(began).Seconds())
	return page, err
}

// finder is one search in one snapshot.
type finder struct {
	x        *Index
	tx       *sqldb.Tx
	q        *Query
	n        needle
	page     Page
	examined int64
	seen     map[string]bool // highlights
	last     Cursor          // of the candidate that was looked at last
}

func (f *finder) run() error {
	rooms, err := f.x.roomsOf(f.tx, f.q)
	if err != nil || len(rooms) == 0 {
		return err
	}
	runs, err := f.candidates(rooms)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, r := range runs {
		total += int64(len(r.places))
	}
	var source interface {
		next() (candidate, bool, error)
	}
	if f.q.Recent {
		source, err = newRecent(f, runs)
	} else {
		source, err = newRanked(f, runs, total)
	}
	if err != nil {
		return err
	}
	return f.collect(source.next, total)
}

// candidate is a text that has the terms, not yet read. score is 0 when they are ordered by time.
type candidate struct {
	doc
	score int64
}

// before reports whether a candidate comes before a place in the order of the results.
func (c *candidate) before(o *Cursor) bool {
	return cmp.Or(cmp.Compare(c.score, o.score), cmp.Compare(c.ts, o.ts), cmp.Compare(c.nid, o.nid)) > 0
}

func (c *candidate) compare(o *candidate) int {
	return cmp.Or(cmp.Compare(o.score, c.score), cmp.Compare(o.ts, c.ts), cmp.Compare(o.nid, c.nid))
}

// scoreUnit is a score of 1.
const scoreUnit = 1_000_000

// score is how much of a text was searched for.
func (f *finder) score(d *doc) int64 {
	return min(scoreUnit, scoreUnit*int64(f.n.size())/int64(max(d.size, 1)))
}

// collect reads candidates until there are enough results.
func (f *finder) collect(next func() (candidate, bool, error), total int64) error {
	more := true
	for more && len(f.page.Results) < f.q.Limit && f.examined < maxExamined {
		var batch []candidate
		for want := max(minExamined, f.q.Limit-len(f.page.Results)); len(batch) < want; {
			c, ok, err := next()
			if err != nil {
				return err
			}
			if !ok {
				more = false
				break
			}
			if f.wanted(&c) {
				batch = append(batch, c)
			}
		}
		if err := f.examine(batch); err != nil {
			return err
		}
	}
	f.page.Count = f.count(total, more)
	if len(f.page.Results) == f.q.Limit || more {
		next := f.last
		next.count = f.page.Count
		f.page.Next = &next
	}
	return nil
}

// wanted reports whether a candidate can be a result of this page.
func (f *finder) wanted(c *candidate) bool {
	return c.kind&f.q.Kinds != 0 && (f.q.After == nil || !c.before(f.q.After) && c.nid != f.q.After.nid)
}

// count is how many results there are. Of candidates that were not read about as many count as of those that were: how
// many texts have a word tells nothing of those that may not be seen.
func (f *finder) count(total int64, more bool) int64 {
	found := int64(len(f.page.Results))
	switch {
	case f.q.After != nil:
		return max(f.q.After.count, found)
	case !more && len(f.page.Results) < f.q.Limit: // all were read
		return found
	}
	return max(found, total*found/max(f.examined, 1))
}

// examine reads candidates, in their order, and keeps the results among them.
func (f *finder) examine(batch []candidate) error {
	nids := make([]int64, len(batch))
	for i := range batch {
		nids[i] = batch[i].nid
	}
	events, err := f.x.store.Load(f.tx, nids)
	if err != nil {
		return err
	}
	byRoom := map[int64][]*store.Stored{}
	var readable []*store.Stored
	for _, e := range events {
		if searched(e) && f.keeps(e) {
			byRoom[e.Room] = append(byRoom[e.Room], e)
			readable = append(readable, e)
		}
	}
	edits, err := f.x.o.Relations.Edits(f.tx, &f.q.Viewer, readable)
	if err != nil {
		return err
	}
	visible := map[int64]*store.Stored{}
	for _, list := range byRoom {
		seen, err := f.x.o.Rooms.Visible(f.tx, f.q.Viewer.User, list)
		if err != nil {
			return err
		}
		for _, e := range seen {
			visible[e.NID] = e
		}
	}
	for i := range batch {
		c := &batch[i]
		if len(f.page.Results) == f.q.Limit {
			break
		}
		if n := len(f.page.Results); n > 0 && f.page.Results[n-1].Event.NID == c.nid { // a copy of before an edit
			continue
		}
		if c.nid != f.last.nid {
			f.examined++
		}
		f.last = Cursor{score: c.score, ts: c.ts, nid: c.nid}
		if e := visible[c.nid]; e != nil {
			f.take(c, e, edits[c.nid])
		}
	}
	return nil
}

func (f *finder) keeps(e *store.Stored) bool {
	return (f.q.Keep == nil || f.q.Keep(e)) && !f.x.o.Ignores(f.q.Viewer.User, e.Event.Sender())
}

// take keeps a result if its newest text has what is searched for. What the index says of its older text does not count.
func (f *finder) take(c *candidate, e, edit *store.Stored) {
	text := textOf(e.Event, nil)
	if edit != nil {
		text = textOf(e.Event, edit.Event)
	}
	now := parse(text)
	if now.size != c.size || !f.n.matches(now) {
		return
	}
	f.page.Results = append(f.page.Results, Result{e, float64(f.score(&c.doc)) / scoreUnit})
	f.n.highlights(text, func(word string) {
		if !f.seen[word] && len(f.seen) < maxHighlights {
			f.seen[word] = true
			f.page.Highlights = append(f.page.Highlights, word)
		}
	})
}

// run is a part of a segment: texts of one room that have the terms, by their places, the oldest first.
type run struct {
	seg    int64
	places []uint32
}

// span is where the texts of a room are in a segment.
type span struct{ from, to uint32 }

// candidates returns the texts in the given rooms, in order of their numbers, that have all terms.
func (f *finder) candidates(rooms []int64) ([]run, error) {
	list, err := listSegments(f.tx)
	if err != nil {
		return nil, err
	}
	spans := map[int64][]span{}
	var segs []int64
	for _, m := range list {
		if s := spansOf(m.rooms, rooms); len(s) > 0 {
			spans[m.seg] = s
			segs = append(segs, m.seg)
		}
	}
	found := map[int64][]uint32{}
	for i, l := range f.n.lookups() {
		lists, err := f.places(l, segs)
		if err != nil {
			return nil, err
		}
		segs = segs[:0]
		for seg, places := range lists {
			if i > 0 {
				places = intersect(found[seg], places)
			}
			if len(places) > 0 {
				segs = append(segs, seg)
			}
			found[seg] = places
		}
	}
	var runs []run
	for _, seg := range segs {
		for _, s := range spans[seg] {
			if part := within(found[seg], s); len(part) > 0 {
				runs = append(runs, run{seg, part})
			}
		}
	}
	return runs, nil
}

// places returns where a term is in segments; those that do not have it are left out.
func (f *finder) places(l lookup, segs []int64) (map[int64][]uint32, error) {
	out := map[int64][]uint32{}
	if len(segs) == 0 {
		return out, nil
	}
	term := []byte(l.term)
	statement, args, find := findBlocks, []any{term, segs}, findTerm
	if l.prefix {
		statement, args, find = findPrefix, []any{term, segs, append(bytes.Clone(term), 0xff)}, findTerms
	}
	rows, err := f.tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var seg int64
		var data []byte
		if err := rows.Scan(&seg, &data); err != nil {
			return nil, err
		}
		places, err := find(out[seg], data, term)
		if err != nil {
			return nil, err
		}
		if len(places) > 0 {
			out[seg] = places
		}
	}
	if l.prefix {
		for seg := range out {
			out[seg] = sorted(out[seg])
		}
	}
	return out, rows.Err()
}

// sorted sorts places and leaves each out but once.
func sorted(places []uint32) []uint32 {
	if slices.IsSorted(places) {
		return slices.Compact(places)
	}
	most := slices.Max(places)
	if int(most)/64 > 8*len(places) { // few of many
		slices.Sort(places)
		return slices.Compact(places)
	}
	set := make([]uint64, most/64+1)
	for _, p := range places {
		set[p/64] |= 1 << (p % 64)
	}
	places = places[:0]
	for i, word := range set {
		for ; word != 0; word &= word - 1 {
			places = append(places, uint32(64*i+bits.TrailingZeros64(word)))
		}
	}
	return places
}

// spansOf returns where the texts of the wanted rooms are. Both lists are in the order of the rooms' numbers.
func spansOf(of []roomDocs, wanted []int64) (spans []span) {
	at := uint32(0)
	for _, c := range of {
		next := at + uint32(c.docs)
		if _, ok := slices.BinarySearch(wanted, c.room); ok {
			spans = append(spans, span{at, next})
		}
		at = next
	}
	return spans
}

// within is the part of places that lies in a span.
func within(places []uint32, s span) []uint32 {
	from, _ := slices.BinarySearch(places, s.from)
	to, _ := slices.BinarySearch(places, s.to)
	return places[from:to]
}

// intersect returns what two lists have in common; it uses the first one's memory.
func intersect(a, b []uint32) []uint32 {
	out, j := a[:0], 0
	for _, place := range a {
		for j < len(b) && b[j] < place {
			j++
		}
		if j == len(b) {
			break
		}
		if b[j] == place {
			out = append(out, place)
		}
	}
	return out
}

// chunks reads docs, some rows of a segment at once.
type chunks struct {
	tx   *sqldb.Tx
	docs map[chunkKey][]doc
}

type chunkKey struct{ seg, from int64 }

func keyOf(seg int64, place uint32) chunkKey {
	return chunkKey{seg, int64(place) / docChunk * docChunk}
}

const chunksRead = 64 // in one statement

// load reads the rows of places that are not read yet.
func (c *chunks) load(wanted map[chunkKey]struct{}) error {
	bySeg := map[int64][]int64{}
	for k := range wanted {
		if c.docs[k] == nil {
			bySeg[k.seg] = append(bySeg[k.seg], k.from)
		}
	}
	for seg, all := range bySeg {
		for part := range slices.Chunk(all, chunksRead) {
			read, err := readChunks(c.tx, seg, part)
			if err != nil {
				return err
			}
			for from, docs := range read {
				c.docs[chunkKey{seg, from}] = docs
			}
		}
	}
	return nil
}

// get returns a doc of which the row is read.
func (c *chunks) get(seg int64, place uint32) (doc, error) {
	k := keyOf(seg, place)
	if docs, i := c.docs[k], int64(place)-k.from; i < int64(len(docs)) {
		return docs[i], nil
	}
	return doc{}, errDamaged
}

// recent gives candidates, the newest first: a heap of runs by their last one.
type recent struct {
	chunks
	heap []tail
}

type tail struct {
	run
	last candidate
}

func newRecent(f *finder, runs []run) (*recent, error) {
	r := &recent{chunks: chunks{f.tx, map[chunkKey][]doc{}}, heap: make([]tail, 0, len(runs))}
	wanted := map[chunkKey]struct{}{}
	for _, run := range runs {
		wanted[keyOf(run.seg, run.places[len(run.places)-1])] = struct{}{}
	}
	if err := r.load(wanted); err != nil {
		return nil, err
	}
	for _, run := range runs {
		t := tail{run: run}
		if f.q.After != nil {
			if err := r.skip(&t, f.q.After.ts); err != nil {
				return nil, err
			}
		}
		if ok, err := r.shorten(&t); err != nil {
			return nil, err
		} else if ok {
			r.heap = append(r.heap, t)
		}
	}
	for i := len(r.heap)/2 - 1; i >= 0; i-- {
		r.sink(i)
	}
	return r, nil
}

// skip leaves out what is newer than a time.
func (r *recent) skip(t *tail, ts int64) error {
	low, high := 0, len(t.places) // those from high on are newer
	for low < high {
		mid := (low + high) / 2
		d, err := r.read(t.seg, t.places[mid])
		if err != nil {
			return err
		}
		if d.ts <= ts {
			low = mid + 1
		} else {
			high = mid
		}
	}
	t.places = t.places[:low]
	return nil
}

func (r *recent) read(seg int64, place uint32) (doc, error) {
	k := keyOf(seg, place)
	if r.docs[k] == nil {
		if err := r.load(map[chunkKey]struct{}{k: {}}); err != nil {
			return doc{}, err
		}
	}
	return r.get(seg, place)
}

// shorten takes the last candidate of a run; it reports false when there is none.
func (r *recent) shorten(t *tail) (bool, error) {
	n := len(t.places)
	if n == 0 {
		return false, nil
	}
	d, err := r.read(t.seg, t.places[n-1])
	t.places, t.last = t.places[:n-1], candidate{doc: d}
	return true, err
}

func (r *recent) sink(i int) {
	for {
		first := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(r.heap); child++ {
			if r.heap[child].last.compare(&r.heap[first].last) < 0 {
				first = child
			}
		}
		if first == i {
			return
		}
		r.heap[i], r.heap[first] = r.heap[first], r.heap[i]
		i = first
	}
}

func (r *recent) next() (candidate, bool, error) {
	if len(r.heap) == 0 {
		return candidate{}, false, nil
	}
	c := r.heap[0].last
	ok, err := r.shorten(&r.heap[0])
	if !ok {
		n := len(r.heap) - 1
		r.heap[0] = r.heap[n]
		r.heap = r.heap[:n]
	}
	r.sink(0)
	return c, true, err
}

// ranked gives candidates, the best matches first.
type ranked struct{ list []candidate }

func newRanked(f *finder, runs []run, total int64) (*ranked, error) {
	share := 1.0 // of each run, its newest
	if total > maxRanked {
		share = maxRanked / float64(total)
	}
	read := chunks{f.tx, map[chunkKey][]doc{}}
	wanted := map[chunkKey]struct{}{}
	for i, run := range runs {
		n := int(math.Ceil(share * float64(len(run.places))))
		runs[i].places = run.places[len(run.places)-n:]
		for _, place := range runs[i].places {
			wanted[keyOf(run.seg, place)] = struct{}{}
		}
	}
	if err := read.load(wanted); err != nil {
		return nil, err
	}
	r := &ranked{}
	for _, run := range runs {
		for _, place := range run.places {
			d, err := read.get(run.seg, place)
			if err != nil {
				return nil, err
			}
			r.list = append(r.list, candidate{d, f.score(&d)})
		}
	}
	slices.SortFunc(r.list, func(a, b candidate) int { return a.compare(&b) })
	return r, nil
}

func (r *ranked) next() (candidate, bool, error) {
	if len(r.list) == 0 {
		return candidate{}, false, nil
	}
	c := r.list[0]
	r.list = r.list[1:]
	return c, true, nil
}
