package roomserver

import (
	"context"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// batch is a change of one room that is written whole or not at all: one or
// more events with everything that follows from them. It is filled under the
// room's lock and then only read.
type batch struct {
	r       *room
	baseRev int64
	sender  string // the server whose event is being admitted, "" for events that are built here
	create  bool   // the room's row is new
	enters  bool   // a join brings the room's state
	drafts  []*draft
	sets    []*store.Ref
	final   store.RoomRow
	extra   []func(tx *sqldb.Tx) error // rows of the caller that do not depend on a position
	told    []toldState                // while members are missing
	whole   *completion                // with this batch all members are known
	written func(context.Context) error
}

// draft is one event of a batch.
type draft struct {
	stored  *store.Stored // Pos is set when it is written
	data    []byte
	place   bool // the event is here as an outlier and gets its place now
	live    bool // it takes a position and is delivered
	missing []string
	fills   bool // it was missing
	txnKey  []byte
	redacts string
	view    *View // the room's state from this event on, when it changed; Pos is set when it is written
	members []memberChange
	servers []serverChange
	targets []string // servers that it is sent to
	writes  []func(tx *sqldb.Tx, pos int64) error
	redact  *store.Stored // what it redacts

	noted    bool        // it is judged again when all members are known
	restated bool        // it was, and is what it says now
	opens    *incomplete // members are missing from it on
	ends     *incomplete // nobody of ours is in the room from it on, while members are missing
}

type memberChange struct {
	user     string
	nid      int64
	from, to store.Membership
	event    int64
}

type serverChange struct {
	nid    int64
	joined bool
}

// begin starts a batch on the room's tip. The caller holds the room's lock
// until it has called enqueue.
func (r *room) begin() *batch {
	return &batch{r: r, baseRev: r.tip.rev}
}

// accepted says how an event enters a room.
type acceptance struct {
	before *store.Ref
	flags  store.Flags
	auth   []int64
	state  auth.State // for participants
	origin
	replaces *store.Stored // the outlier row that the event has already
	missing  []string      // prev events that are not here
	exclude  string        // a server that has the event already
	fills    bool          // events that are here name it as a prev event
	ord      *int64        // its place in history, for events that are not live
}

// origin is where the event of a local user comes from.
type origin struct {
	note   store.Note
	txnKey []byte
	also   func(tx *sqldb.Tx, eventID string) error // writes with the event, if it is live; may be nil
}

// add takes an event into the batch and moves the tip over it. Rejected and
// soft-failed events are stored and change nothing else.
func (b *batch) add(ctx context.Context, e *event.Event, a acceptance) (*draft, error) {
	r := b.r
	d, err := b.draft(ctx, e, a)
	if err != nil {
		return nil, err
	}
	if err := b.redactEarly(ctx, d); err != nil {
		return nil, err
	}
	b.drafts = append(b.drafts, d)
	r.remember(d.stored)
	if !d.live {
		b.prepareRefused(d, a)
		return d, b.prepareHistory(ctx, d, a)
	}
	after, err := b.after(d.stored, a.before)
	if err != nil {
		return nil, err
	}
	d.targets = r.receivers(a.exclude, a.flags)
	if user, ok := r.outsider(e); ok && a.flags&store.Outgoing != 0 && a.exclude != user {
		d.targets = append(d.targets, user)
	}
	if !a.fills {
		r.advance(d.stored, after)
		r.capExtremities()
	}
	if err := b.settle(ctx, d); err != nil {
		return nil, err
	}
	return d, b.prepare(ctx, d, a)
}

func (b *batch) draft(ctx context.Context, e *event.Event, a acceptance) (*draft, error) {
	r := b.r
	key, isState := e.Key()
	texts := []string{e.Type(), e.Sender()}
	nids, err := r.s.Store.Intern(ctx, texts...)
	if err != nil {
		return nil, err
	}
	row := store.Row{
		Room: r.key.NID, ID: e.EventID(), Type: nids[0], Sender: nids[1], Depth: e.Depth(), TS: e.TS(),
		Flags: a.flags, State: a.before.NID, Auth: a.auth,
	}
	if isState {
		tuples, err := r.s.Store.InternTuples(ctx, []store.Tuple{{Type: e.Type(), Key: key}})
		if err != nil {
			return nil, err
		}
		row.Tuple = tuples[0]
	}
	d := &draft{missing: a.missing, txnKey: a.txnKey, fills: a.fills, live: a.flags&(store.Rejected|store.SoftFailed|store.Outlier|store.Backfilled) == 0}
	if a.replaces != nil {
		row.NID, d.place = a.replaces.NID, true
	} else {
		row.NID = r.s.db.NextID()
	}
	if len(a.missing) > 0 {
		row.Flags |= store.Gapped
	}
	if e.Redacted() {
		row.Flags |= store.Hollow
	}
	switch {
	case d.live:
		row.Ord, row.HasOrd = r.tip.ord, true
		r.tip.ord += ordStep
	case a.ord != nil:
		row.Ord, row.HasOrd = *a.ord, true
	}
	d.stored = &store.Stored{Row: row, Note: a.note, Event: e}
	d.noted = a.flags&store.Partial != 0 || r.tip.partial != nil && a.flags&store.Backfilled == 0
	d.data = r.s.Store.Pack(e, a.note)
	return d, nil
}

// after returns the state after an event, making a new set when it is state and
// none of the room's newest is the same: forks from one state event have one set.
func (b *batch) after(e *store.Stored, before *store.Ref) (*store.Ref, error) {
	if e.Tuple == 0 || e.Flags&store.Rejected != 0 {
		return before, nil
	}
	set := before.Set.With(e.Tuple, e.NID)
	if set == before.Set {
		return before, nil
	}
	if same(set, b.r.tip.state.Set) {
		return b.r.tip.state, nil
	}
	for _, x := range b.r.tip.extremities {
		if same(set, x.after.Set) {
			return x.after, nil
		}
	}
	return b.extend(before, set), nil
}

// advance makes e a forward extremity in place of its prev events.
func (r *room) advance(e *store.Stored, after *store.Ref) {
	prevs := e.Event.PrevEventIDs()
	kept := slices.DeleteFunc(slices.Clone(r.tip.extremities), func(x extremity) bool {
		return slices.Contains(prevs, x.id)
	})
	r.tip.extremities = append(kept, extremity{nid: e.NID, id: e.ID, depth: e.Depth, after: after, flags: e.Flags})
}

// settle computes the room's state from its forward extremities and what
// changed by it.
func (b *batch) settle(ctx context.Context, d *draft) error {
	r := b.r
	old := r.tip.state
	next, err := b.resolve(ctx, r.tip.extremities)
	if err != nil {
		return err
	}
	if next == old {
		return nil
	}
	changes, err := r.memberChanges(ctx, old, next)
	if err != nil {
		return err
	}
	if err := b.tellReset(ctx, d, old, next); err != nil {
		return err
	}
	r.tip.state = next
	clear(r.auths)
	for _, c := range changes {
		if err := b.changeMember(ctx, d, c); err != nil {
			return err
		}
	}
	d.view = &View{State: next, Joined: r.tip.joined, Invited: r.tip.invited}
	if r.tip.partial != nil && r.tip.servers[r.s.ServerName] == 0 {
		return b.abandonPartial(ctx, d)
	}
	return nil
}

// changeMember applies one membership change to the tip.
func (b *batch) changeMember(ctx context.Context, d *draft, c memberChange) error {
	r := b.r
	server := event.ServerOf(c.user)
	was := r.tip.in(server)
	r.tip.count(c.user, c.from, c.to)
	d.members = append(d.members, c)
	if is := r.tip.in(server); is != was && server != r.s.ServerName {
		nids, err := r.s.Store.Intern(ctx, server)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, serverChange{nid: nids[0], joined: is})
	}
	return nil
}

// prepare asks the participants what they write with the event.
func (b *batch) prepare(ctx context.Context, d *draft, a acceptance) error {
	r := b.r
	if d.stored.Event.Type() == "m.room.redaction" {
		if err := b.prepareRedaction(ctx, d, a); err != nil {
			return err
		}
	}
	accepted := r.accepted(d, a)
	for _, p := range r.s.Participants {
		if write := p.Prepare(accepted); write != nil {
			d.writes = append(d.writes, write)
		}
	}
	if a.also != nil {
		d.writes = append(d.writes, func(tx *sqldb.Tx, _ int64) error { return a.also(tx, d.stored.ID) })
	}
	return nil
}

// prepareRefused asks the participants that keep an eye on refused events.
func (b *batch) prepareRefused(d *draft, a acceptance) {
	if d.stored.Flags&(store.SoftFailed|store.Rejected|store.Outlier|store.Backfilled) != store.SoftFailed {
		return
	}
	accepted := b.r.accepted(d, a)
	for _, p := range b.r.s.Participants {
		if k, ok := p.(Refuser); ok {
			if write := k.PrepareRefused(accepted); write != nil {
				d.writes = append(d.writes, func(tx *sqldb.Tx, _ int64) error { return write(tx) })
			}
		}
	}
}

// prepareHistory asks the participants that index history, too, what they write
// with an event of it.
func (b *batch) prepareHistory(ctx context.Context, d *draft, a acceptance) error {
	if d.stored.Flags&store.Backfilled == 0 || d.stored.Flags&store.Rejected != 0 {
		return nil
	}
	if d.stored.Event.Type() == "m.room.redaction" {
		if err := b.prepareRedaction(ctx, d, a); err != nil {
			return err
		}
	}
	accepted := b.r.accepted(d, a)
	for _, p := range b.r.s.Participants {
		if h, ok := p.(Historian); ok {
			if write := h.PrepareHistory(accepted); write != nil {
				d.writes = append(d.writes, write)
			}
		}
	}
	return nil
}

func (r *room) accepted(d *draft, a acceptance) *Accepted {
	return &Accepted{
		RoomID: r.key.ID, RoomNID: r.key.NID, EventNID: d.stored.NID, Event: d.stored.Event,
		State: a.state, JoinedMembers: r.tip.joined,
		IsLocalMember: func(user string) bool { return r.s.IsLocal(user) && r.s.Hub.IsJoined(user, r.key.ID) },
	}
}

// receivers returns the servers that an event made here goes to: those that
// were in the room before it, but for one that has it already.
func (r *room) receivers(exclude string, flags store.Flags) []string {
	if flags&store.Outgoing == 0 {
		return nil
	}
	var out []string
	for _, server := range r.tip.others(r.s.ServerName) {
		if server != exclude {
			out = append(out, server)
		}
	}
	return out
}

// outsider returns the server of the user whom a leave or ban concerns when that
// server is not in the room: it must hear that its user's invite is over.
func (r *room) outsider(e *event.Event) (string, bool) {
	user, isState := e.Key()
	if e.Type() != "m.room.member" || !isState || user == e.Sender() {
		return "", false
	}
	server := event.ServerOf(user)
	m := auth.Membership(e)
	return server, (m == auth.Leave || m == auth.Ban) && server != r.s.ServerName && !r.tip.in(server)
}

// remember makes a queued event visible to this room's own lookups.
func (r *room) remember(e *store.Stored) {
	r.pub.Lock()
	r.pub.pending[e.NID], r.pub.byID[e.ID] = e, e
	r.pub.Unlock()
}

// enqueue hands the batch to the writer. The caller then lets the room go and
// waits.
func (b *batch) enqueue() {
	r := b.r
	r.tip.rev = b.baseRev + 1
	b.final = store.RoomRow{
		NID: r.key.NID, Resident: r.tip.resident, Rev: r.tip.rev, State: r.tip.state.NID,
	}
	for _, x := range r.tip.extremities {
		b.final.Extremities = append(b.final.Extremities, x.nid, x.after.NID)
	}
	if len(r.tip.extremities) > tidyAbove {
		r.s.untidy.note(r.key.ID)
	}
	r.pub.Lock()
	r.pub.queued++
	r.pub.Unlock()
	b.written = r.s.db.Enqueue(&sqldb.Op{
		Name: "room", Positions: b.positions(), Check: b.check, Write: b.write, Committed: b.committed,
	})
	r.last = b
}

// wait returns when the batch is committed, or has failed, or ctx ends. A
// failure that nobody waited for shows at the next write, which then fails too.
func (b *batch) wait(ctx context.Context) error {
	err := b.written(ctx)
	if err != nil && ctx.Err() == nil {
		b.r.fail()
	}
	if sqldb.IsUnique(err) {
		// Another operation stored one of the events meanwhile.
		err = store.ErrRevision
	}
	return err
}

// drain waits until everything queued for the room is written. The caller holds
// the room's lock.
func (r *room) drain(ctx context.Context) error {
	if r.last == nil {
		return nil
	}
	return r.last.written(ctx)
}

func (b *batch) positions() int {
	n := 0
	if b.whole != nil {
		n++
	}
	for _, d := range b.drafts {
		if d.live {
			n++
		}
	}
	return n
}

// fail drops the handle: what it assumed did not come true.
func (r *room) fail() {
	r.broken.Store(true)
	r.s.drop(r)
}
