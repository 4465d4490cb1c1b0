package ephemeral

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// Bounds of receipts.
const (
	wakeEvery   = time.Second // others' syncs, for a room
	receiptTick = 250 * time.Millisecond
	maxEDU      = 1000 // receipts in one EDU
	maxWaiting  = 2000 // receipts for events that are not here yet
	waitFor     = time.Minute
	maxTS       = 1<<53 - 1
)

// Place is where an event stands in its room.
type Place struct {
	RoomNID int64
	Ord     int64    // order of history
	Pos     int64    // position of the newest timeline event that is not after it
	Thread  string   // root's event id, or "main"
	Related []string // events that it relates to, directly or by one another
}

// Events finds events.
type Events interface {
	// Locate returns an event's place; ok is false when the room does not have it.
	Locate(ctx context.Context, room, eventID string) (p Place, ok bool, err error)
}

// Counts moves read positions of unread counts, in a receipt's transaction.
// thread is a root's event id, "main", or "*" for all threads.
type Counts interface {
	MarkRead(tx *sqldb.Tx, user string, roomNID int64, thread string, pos int64)
}

// AccountData keeps the fully-read marker.
type AccountData interface {
	AccountData(ctx context.Context, user, room, kind string) (json.RawMessage, error)
	PutAccountData(ctx context.Context, user, room, kind string, content json.RawMessage) error
}

// Hub tells whom a receipt concerns.
type Hub interface {
	Waker
	Published() int64
	TouchUser(user string, pos int64)
	TouchRoom(room string, pos int64)
	JoinedCount(room string) int
}

// ReceiptOptions are what Receipts need.
type ReceiptOptions struct {
	DB          *sqldb.DB
	Hub         Hub
	Events      Events
	Counts      Counts // nil: no unread counts
	AccountData AccountData
	Outbox      Outbox                       // nil: nobody
	Clock       clock.Clock                  // nil: the system's
	Member      func(room, user string) bool // whether another server's user is joined; nil: always
	Log         *logrus.Entry
}

// Receipts owns receipts and moves the fully-read marker.
type Receipts struct {
	o    ReceiptOptions
	boot int64 // position when this node started

	mu      sync.Mutex
	queued  map[receiptKey]*queued // written by an operation that has not run yet
	newest  map[string]int64       // room → position of its newest receipt since boot
	woken   map[string]time.Time   // room → when its members were last woken
	dirty   map[string]int64       // rooms to wake later, with the newest position
	out     map[receiptKey]Receipt // for other servers
	told    time.Time              // when they last heard
	waiting map[receiptKey]waiting // for events that are not here yet
}

// queued is an operation in the writer's queue. Until it runs, a newer receipt
// takes the place of its own.
type queued struct {
	placed
	running bool
	ready   chan struct{} // closed when wait is set
	wait    func(context.Context) error
}

type waiting struct {
	Receipt
	until time.Time
}

// NewReceipts returns Receipts; Run wakes and sends what was held back.
func NewReceipts(o ReceiptOptions) *Receipts {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Outbox == nil {
		o.Outbox = silent{}
	}
	return &Receipts{o: o, boot: o.Hub.Published(), queued: map[receiptKey]*queued{}, newest: map[string]int64{},
		woken: map[string]time.Time{}, dirty: map[string]int64{}, out: map[receiptKey]Receipt{},
		waiting: map[receiptKey]waiting{}}
}

// Read stores a local user's receipt; the caller has checked that the user is in
// the room. thread is "" for an unthreaded one. A receipt that is behind the
// stored one changes nothing. It returns after the commit.
// Errors: M_INVALID_PARAM (type, thread), M_NOT_FOUND (event).
func (r *Receipts) Read(ctx context.Context, user, room, kind, eventID, thread string) error {
	if kind != Read && kind != ReadPrivate {
		return matrixerr.InvalidParam("The receipt type must be m.read, m.read.private or m.fully_read")
	}
	if err := checkThread(thread); err != nil {
		return err
	}
	place, err := r.locate(ctx, room, eventID)
	if err != nil {
		return err
	}
	if !place.in(thread, eventID) {
		return matrixerr.InvalidParam("The event is not in the thread that thread_id names")
	}
	p := placed{Receipt{Room: room, User: user, Type: kind, Event: eventID, Thread: thread, TS: r.o.Clock.Millis()}, place}
	if passed, err := r.passed(ctx, p); err != nil || passed {
		return err
	}
	return r.put(p, true)(ctx)
}

// passed reports whether the stored receipt is at or after this one.
func (r *Receipts) passed(ctx context.Context, p placed) (passed bool, err error) {
	err = r.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		ord, ok, err := readOrd(tx, keyOf(&p.Receipt))
		passed = ok && ord >= p.Ord
		return err
	})
	return passed, err
}

// in reports whether a receipt for the event may name the thread. The root and
// what relates to it are in the main timeline, but clients that show them in the
// thread mark them there.
func (p Place) in(thread, eventID string) bool {
	return thread == "" || thread == p.Thread || thread == eventID || slices.Contains(p.Related, thread)
}

func (r *Receipts) locate(ctx context.Context, room, eventID string) (Place, error) {
	if len(eventID) > maxID {
		return Place{}, matrixerr.InvalidParam("An event id has at most 255 bytes")
	}
	p, ok, err := r.o.Events.Locate(ctx, room, eventID)
	if err == nil && !ok {
		err = matrixerr.NotFound("The room does not have this event")
	}
	return p, err
}

// put queues a receipt, or gives it to an operation that is queued for the same
// key, and returns how to wait for the commit.
func (r *Receipts) put(p placed, local bool) (wait func(context.Context) error) {
	k := keyOf(&p.Receipt)
	r.mu.Lock()
	if q := r.queued[k]; q != nil {
		if p.Ord > q.Ord {
			q.placed = p
		}
		r.mu.Unlock()
		<-q.ready
		return q.wait
	}
	q := &queued{placed: p, ready: make(chan struct{})}
	r.queued[k] = q
	r.mu.Unlock()
	q.wait = r.o.DB.Enqueue(r.op(k, q, local))
	close(q.ready)
	return q.wait
}

func (r *Receipts) op(k receiptKey, q *queued, local bool) *sqldb.Op {
	return &sqldb.Op{
		Name:      "receipt",
		Positions: 1,
		Write: func(tx *sqldb.Tx, pos int64) error {
			p := r.take(k, q)
			writesOf(tx).add(p, pos)
			if local && r.o.Counts != nil {
				r.o.Counts.MarkRead(tx, p.User, p.RoomNID, p.storedThread(), p.Pos)
			}
			return nil
		},
		Committed: func(pos int64) { r.committed(q.Receipt, pos, local) },
	}
}

// take fixes what the operation writes: from now on newer receipts queue anew.
func (r *Receipts) take(k receiptKey, q *queued) placed {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !q.running {
		q.running = true
		delete(r.queued, k)
	}
	return q.placed
}

// committed wakes the reader at once, and others at most once a second.
func (r *Receipts) committed(receipt Receipt, pos int64, local bool) {
	now := r.o.Clock()
	r.mu.Lock()
	r.newest[receipt.Room] = pos
	others := receipt.Type != ReadPrivate
	if others && local {
		r.out[keyOf(&receipt)] = receipt
	}
	soon := others && now.Sub(r.woken[receipt.Room]) < wakeEvery
	switch {
	case soon:
		r.dirty[receipt.Room] = pos
	case others:
		r.woken[receipt.Room] = now
	}
	r.mu.Unlock()
	if local {
		r.o.Hub.TouchUser(receipt.User, pos)
	}
	if others && !soon {
		r.o.Hub.TouchRoom(receipt.Room, pos)
	}
}

// MarkFullyRead moves the user's fully-read marker forward to an event
// (Client-Server API, "Fully read markers").
func (r *Receipts) MarkFullyRead(ctx context.Context, user, room, eventID string) error {
	place, err := r.locate(ctx, room, eventID)
	if err != nil {
		return err
	}
	if behind, err := r.behind(ctx, user, room, place.Ord); err != nil || behind {
		return err
	}
	content, err := json.Marshal(fullyRead{eventID})
	if err != nil {
		return err
	}
	return r.o.AccountData.PutAccountData(ctx, user, room, FullyRead, content)
}

type fullyRead struct {
	Event string `json:"event_id"`
}

// behind reports whether the marker is at or after a place already.
func (r *Receipts) behind(ctx context.Context, user, room string, ord int64) (bool, error) {
	content, err := r.o.AccountData.AccountData(ctx, user, room, FullyRead)
	if err != nil {
		if matrixerr.From(err).Code == "M_NOT_FOUND" {
			return false, nil
		}
		return false, err
	}
	var now fullyRead
	if json.Unmarshal(content, &now) != nil {
		return false, nil
	}
	place, ok, err := r.o.Events.Locate(ctx, room, now.Event)
	return ok && place.Ord >= ord, err
}

// ReceiptsSince returns the receipts of rooms with from < position ≤ to, by room,
// without others' private ones. Ask for all of the user's joined rooms at each
// sync: syncs that wake for something else bring held-back receipts along. Rooms
// without newer receipts cost no SQL.
func (r *Receipts) ReceiptsSince(tx *sqldb.Tx, user string, rooms []string, from, to int64) (map[string][]Receipt, error) {
	rooms = r.changed(rooms, from)
	if len(rooms) == 0 {
		return nil, nil
	}
	return readReceipts(tx, user, rooms, from, to)
}

// changed leaves out rooms that have no receipt after from.
func (r *Receipts) changed(rooms []string, from int64) []string {
	if from < r.boot {
		return rooms
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, id := range rooms {
		if r.newest[id] > from {
			out = append(out, id)
		}
	}
	return out
}

// DeleteRoom deletes a purged room's receipts.
func (r *Receipts) DeleteRoom(tx *sqldb.Tx, room string) error {
	_, err := tx.Exec(deleteReceipts, room)
	return err
}

// Run wakes the rooms and tells the servers that had to wait, until ctx ends.
func (r *Receipts) Run(ctx context.Context) error {
	tick := time.NewTicker(receiptTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.flush(ctx)
		}
	}
}

func (r *Receipts) flush(ctx context.Context) {
	rooms, out := r.due()
	for _, room := range rooms {
		r.o.Hub.WakeRoom(room, r.o.Hub.NextEphemeral())
	}
	for _, receipt := range out {
		r.o.Outbox.Receipt(receipt)
	}
	r.retry(ctx)
}

// due takes the rooms whose second is over and whose receipts are published, and
// the receipts for other servers.
func (r *Receipts) due() (rooms []string, out map[receiptKey]Receipt) {
	now, published := r.o.Clock(), r.o.Hub.Published()
	r.mu.Lock()
	defer r.mu.Unlock()
	for room, pos := range r.dirty {
		if pos <= published && now.Sub(r.woken[room]) >= wakeEvery {
			rooms = append(rooms, room)
			r.woken[room] = now
			delete(r.dirty, room)
		}
	}
	for room, at := range r.woken {
		if now.Sub(at) >= wakeEvery {
			delete(r.woken, room)
		}
	}
	if now.Sub(r.told) >= wakeEvery && len(r.out) > 0 {
		out, r.out, r.told = r.out, map[receiptKey]Receipt{}, now
	}
	return rooms, out
}
