package search

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Kinds are kinds of searched texts; they can be combined.
type Kinds uint8

// The kinds, by the key that is searched.
const (
	Body  Kinds = 1 << iota // content.body of m.room.message
	Name                    // content.name of m.room.name
	Topic                   // content.topic of m.room.topic, and the text/plain form of its content.m.topic
	All   = Body | Name | Topic
)

const (
	typeMessage    = "m.room.message"
	typeName       = "m.room.name"
	typeTopic      = "m.room.topic"
	typeRedaction  = "m.room.redaction"
	typeEncryption = "m.room.encryption"
)

// kindOf is the kind of text that an event has; 0 for none.
func kindOf(e *event.Event) Kinds {
	key, isState := e.Key()
	switch typ := e.Type(); {
	case typ == typeMessage && !isState:
		return Body
	case typ == typeName && isState && key == "":
		return Name
	case typ == typeTopic && isState && key == "":
		return Topic
	}
	return 0
}

// textOf is the searched text of an event, of which edit is the newest replacement, or nil.
func textOf(e, edit *event.Event) string {
	switch kindOf(e) {
	case Body:
		if edit != nil {
			return stringIn(edit.ContentField("m.new_content"), "body")
		}
		return e.ContentString("body")
	case Name:
		return e.ContentString("name")
	case Topic:
		return topicText(e)
	}
	return ""
}

func topicText(e *event.Event) string {
	text := e.ContentString("topic")
	for _, form := range gjson.GetBytes(e.ContentField("m.topic"), `m\.text`).Array() {
		mime := form.Get("mimetype")
		if body := form.Get("body"); body.Type == gjson.String && body.Str != text && (!mime.Exists() || mime.Str == "text/plain") {
			text += "\n" + body.Str
		}
	}
	return text
}

func stringIn(object []byte, key string) string {
	if v := gjson.GetBytes(object, key); v.Type == gjson.String {
		return v.Str
	}
	return ""
}

const (
	batchSize = 2000 // events that become one segment
	roomsPage = 500
)

// begin sets out to index everything that is committed. Without an index yet that is all of the rooms' histories. (The
// published position may be older than changes that the subscription dropped.)
func (x *Index) begin(ctx context.Context) error {
	until, err := x.db.Position(ctx)
	if err == nil && until > x.state.pos {
		x.state.until, x.state.room, x.state.at = until, 0, math.MinInt64
	}
	return err
}

// catchUp goes through the rooms from where it was.
func (x *Index) catchUp(ctx context.Context) error {
	if x.state.until == 0 {
		return nil
	}
	p := progress{x: x, began: time.Now(), told: time.Now()}
	for {
		rooms, err := x.roomsToDo(ctx)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			if err := p.room(ctx, room); err != nil {
				return err
			}
		}
		if len(rooms) < roomsPage {
			break
		}
	}
	if err := p.flush(ctx); err != nil {
		return err
	}
	done := x.state
	done.pos, done.until, done.room, done.at = done.until, 0, 0, 0
	if err := x.save(ctx, done); err != nil {
		return err
	}
	p.end()
	return nil
}

// roomsToDo are the next rooms, the one in which catching up stopped first.
func (x *Index) roomsToDo(ctx context.Context) (rooms []int64, err error) {
	after := x.state.room
	if x.state.at != math.MinInt64 {
		after--
	}
	err = x.db.Read(ctx, func(tx *sqldb.Tx) error {
		if x.state.pos == 0 {
			rooms, err = sqldb.Collect(tx, allRooms, scanOne, after, roomsPage)
		} else {
			rooms, err = sqldb.Collect(tx, changedRooms, scanOne, after, x.state.pos, roomsPage)
		}
		return err
	})
	return rooms, err
}

// progress gathers the events of catching up and tells of it.
type progress struct {
	x       *Index
	waiting []int64
	seen    int64
	began   time.Time
	told    time.Time
}

const tellEvery = 10 * time.Second

// room takes the events of a room.
func (p *progress) room(ctx context.Context, room int64) error {
	x := p.x
	if room != x.state.room {
		x.state.room, x.state.at = room, math.MinInt64
	}
	for {
		page, err := x.eventsToDo(ctx)
		if err != nil {
			return err
		}
		for _, e := range page {
			p.waiting = append(p.waiting, e.nid)
		}
		p.seen += int64(len(page))
		last := len(page) < batchSize
		if last {
			x.state.at = math.MinInt64
		} else {
			x.state.at = page[len(page)-1].at
		}
		if len(p.waiting) >= batchSize {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
	}
}

func (p *progress) flush(ctx context.Context) error {
	err := p.x.index(ctx, p.waiting, p.x.state, nil)
	p.waiting = p.waiting[:0]
	if err == nil && time.Since(p.told) > tellEvery {
		p.told = time.Now()
		p.x.o.Log.WithField("events", p.seen).WithField("seconds", int(time.Since(p.began).Seconds())).Info("bringing the search index up to date")
	}
	return err
}

func (p *progress) end() {
	if p.seen > 0 && time.Since(p.began) > tellEvery {
		p.x.o.Log.WithField("events", p.seen).WithField("seconds", int(time.Since(p.began).Seconds())).Info("the search index is up to date")
	}
}

// eventsToDo are the next events of the room that is being caught up with.
func (x *Index) eventsToDo(ctx context.Context) (page []pair, err error) {
	s := x.state
	err = x.db.Read(ctx, func(tx *sqldb.Tx) error {
		if s.pos == 0 {
			page, err = sqldb.Collect(tx, history, scanPair, s.room, s.at, batchSize)
		} else {
			page, err = sqldb.Collect(tx, delivered, scanPair, s.room, max(s.at, s.pos), s.until, batchSize)
		}
		return err
	})
	return page, err
}

// takeChanges indexes what the subscription holds.
func (x *Index) takeChanges(ctx context.Context, first *stream.Change) error {
	var nids []int64
	s := x.state
	take := func(c stream.Change) {
		if c.Pos > x.state.pos {
			nids = append(nids, c.EventNID)
			s.pos = c.Pos
		}
	}
	if first != nil {
		take(*first)
	}
	for len(nids) < maxChanges {
		select {
		case c := <-x.sub.C:
			take(c)
			continue
		default:
		}
		break
	}
	if x.sub.Overflowed() { // some are lost, from where on is not known
		if err := x.begin(ctx); err != nil {
			return err
		}
		return x.catchUp(ctx)
	}
	for len(nids) > 0 {
		n := min(len(nids), batchSize)
		now := x.state
		if n == len(nids) {
			now = s
		}
		if err := x.index(ctx, nids[:n], now, nil); err != nil {
			return err
		}
		nids = nids[n:]
	}
	return nil
}

// takeQueue indexes fetched history.
func (x *Index) takeQueue(ctx context.Context) error {
	if !x.o.Queue.maybe() {
		return nil
	}
	for {
		var nids []int64
		err := x.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
			nids, err = sqldb.Collect(tx, queued, scanOne, batchSize)
			return err
		})
		if err != nil || len(nids) == 0 {
			return err
		}
		if err := x.index(ctx, nids, x.state, nids); err != nil {
			return err
		}
	}
}

// saveEvery is how many positions without anything to index pass before the position is saved.
const saveEvery = 5000

// index writes the texts of events as a segment, and with it the state and the removal of done from the queue.
func (x *Index) index(ctx context.Context, nids []int64, s state, done []int64) error {
	entries, removed, err := x.entries(ctx, nids)
	if err != nil {
		return err
	}
	if len(entries) == 0 && len(done) == 0 && removed == 0 && s.until == 0 && s.pos-x.state.pos < saveEvery {
		return nil // the next that is written saves it
	}
	seg, err := build(entries)
	if err != nil {
		return err
	}
	number := x.db.NextID()
	err = x.db.Do(ctx, &sqldb.Op{Name: "search.index", Write: func(tx *sqldb.Tx, _ int64) error {
		if len(done) > 0 {
			if _, err := tx.Exec(dequeue, done); err != nil {
				return err
			}
		}
		if err := s.write(tx); err != nil {
			return err
		}
		if removed > 0 {
			if _, err := tx.Exec(addRemoved, stateRow, removed); err != nil {
				return err
			}
		}
		if len(entries) == 0 {
			return nil
		}
		if err := writeBlocks(tx, number, seg.blocks); err != nil {
			return err
		}
		if err := writeDocs(tx, number, 0, seg.docs); err != nil {
			return err
		}
		return tx.Insert(insertSegment, []any{number, number, len(seg.docs), encodeRooms(seg.rooms)})
	}})
	if err != nil {
		return err
	}
	x.state = s
	if len(entries) > 0 {
		x.stats.indexed.Add(float64(len(entries)))
		x.stats.docs.Add(float64(len(entries)))
		x.stats.segments.Add(1)
		signal(x.grown)
	}
	return nil
}

func (x *Index) save(ctx context.Context, s state) error {
	err := x.db.Do(ctx, &sqldb.Op{Name: "search.state", Write: func(tx *sqldb.Tx, _ int64) error { return s.write(tx) }})
	if err == nil {
		x.state = s
	}
	return err
}

// entries reads the events, and returns what is to be indexed: of a replacement, the event that it replaces. removed is
// how many of the events redact another.
func (x *Index) entries(ctx context.Context, nids []int64) (entries []entry, removed int64, err error) {
	err = x.db.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := x.store.Load(tx, nids)
		if err != nil {
			return err
		}
		targets := map[int64]*store.Stored{}
		var edited []*store.Stored // of which there may be edits
		for _, e := range found {
			if e.Event.Type() == typeRedaction {
				removed++
			}
			target, err := x.target(tx, e)
			if err != nil {
				return err
			}
			if target == nil {
				continue
			}
			targets[target.NID] = target
			if target.NID != e.NID || mayComeAfterEdits(e) {
				edited = append(edited, target)
			}
		}
		entries, err = x.texts(tx, targets, edited)
		return err
	})
	return entries, removed, err
}

// target returns the event that is indexed because of another, or nil.
func (x *Index) target(tx *sqldb.Tx, e *store.Stored) (*store.Stored, error) {
	if !searched(e) {
		return nil, nil
	}
	r, related := relations.Of(e.Event)
	if !related || r.Type != relations.Replace {
		return e, nil
	}
	original, err := x.store.EventByID(tx, r.Parent)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // its edits are looked up when it comes
	}
	if err != nil || original.Room != e.Room || !searched(original) {
		return nil, err
	}
	return original, nil
}

// mayComeAfterEdits reports whether edits of an event may have been looked at before it was here. Those that come later
// bring it up again.
func mayComeAfterEdits(e *store.Stored) bool { return e.Flags&store.Outgoing == 0 }

// searched reports whether an event can be found.
func searched(e *store.Stored) bool {
	return kindOf(e.Event) != 0 && e.RedactedBy == 0 && e.HasOrd && e.Flags&(store.Outlier|store.Rejected|store.SoftFailed) == 0
}

// texts returns the targets with their texts; edited are those of them of which there may be edits.
func (x *Index) texts(tx *sqldb.Tx, targets map[int64]*store.Stored, edited []*store.Stored) ([]entry, error) {
	edits, err := x.edits(tx, edited)
	if err != nil {
		return nil, err
	}
	encryption, err := x.store.FindTuple(tx, store.Tuple{Type: typeEncryption})
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, e := range targets {
		c := parse(textOf(e.Event, edits[e.NID]))
		if c.size == 0 && edits[e.NID] == nil {
			continue
		}
		encrypted, err := x.encrypted(tx, e, encryption)
		if err != nil {
			return nil, err
		}
		if !encrypted {
			d := doc{room: e.Room, ts: e.TS, nid: e.NID, sender: e.Sender, size: c.size, kind: kindOf(e.Event), url: e.Event.ContentField("url") != nil}
			entries = append(entries, entry{d, c.terms()})
		}
	}
	return entries, nil
}

func (x *Index) edits(tx *sqldb.Tx, list []*store.Stored) (map[int64]*event.Event, error) {
	out := map[int64]*event.Event{}
	for chunk := range slices.Chunk(list, 500) {
		edits, err := x.o.Relations.Edits(tx, nil, chunk)
		if err != nil {
			return nil, err
		}
		for nid, edit := range edits {
			out[nid] = edit.Event
		}
	}
	return out, nil
}

// encrypted reports whether an event was sent when its room was encrypted; then it is not searched. encryption is the
// number of the state that says so, 0 if no room has it.
func (x *Index) encrypted(tx *sqldb.Tx, e *store.Stored, encryption int64) (bool, error) {
	if encryption == 0 {
		return false, nil
	}
	before, err := x.store.Set(tx, e.State)
	if err != nil {
		return false, err
	}
	_, yes := before.Set.Get(encryption)
	return yes, nil
}
