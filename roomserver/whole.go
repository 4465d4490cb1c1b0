package roomserver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// completion is what a batch writes beside events when all members of a room are known that was joined without them.
type completion struct {
	join    int64
	pos     int64 // set when it is written
	view    *View
	members []memberChange
	servers []serverChange
	writes  []func(tx *sqldb.Tx, pos int64) error
}

func (b *batch) writeWhole(tx *sqldb.Tx, pos int64) error {
	st, room, w := b.r.s.Store, b.r.key.NID, b.whole
	w.pos = pos
	st.LogState(tx, room, pos, w.view.State)
	if err := b.writeMembers(tx, w.members, w.servers, pos); err != nil {
		return err
	}
	if err := st.EndPartialJoin(tx, room, w.join, pos, true); err != nil {
		return err
	}
	for _, write := range w.writes {
		if err := write(tx, pos); err != nil {
			return err
		}
	}
	return nil
}

// errOver is returned when a join without members is over by now.
var errOver = errors.New("the join is complete or given up")

// makeWhole gives a room that was joined without its members the state before the join, as after each of the join's
// prev events, and judges again what came since. It is written whole or not at all.
func (s *Server) makeWhole(ctx context.Context, key store.RoomKey, join int64, before []*state.Set) error {
	return s.retry(ctx, func() error {
		r, err := s.handleOf(ctx, key)
		if err != nil {
			return err
		}
		if err := r.lock(); err != nil {
			return err
		}
		if r.tip.partial == nil || r.tip.partial.event != join {
			r.mu.Unlock()
			return errOver
		}
		b := r.begin()
		if err := b.makeWhole(ctx, before); err != nil {
			r.fail() // it has moved the tip
			r.mu.Unlock()
			return err
		}
		b.enqueue()
		r.mu.Unlock()
		return b.wait(ctx)
	})
}

func (b *batch) makeWhole(ctx context.Context, before []*state.Set) error {
	r := b.r
	if err := r.drain(ctx); err != nil {
		return err
	}
	p := &replay{b: b, join: r.tip.partial.event, now: map[int64]*store.Stored{}}
	if err := p.read(ctx); err != nil {
		return err
	}
	refs := make([]*store.Ref, len(before))
	for i, set := range before {
		refs[i] = store.EmptyState().Extend(r.s.db.NextID(), set)
	}
	b.sets = append(b.sets, refs...)
	r.tip.extremities = nil
	var err error
	if p.full, err = b.merge(ctx, refs); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{p.checkJoin, p.restate, p.follow, p.draft, p.finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// replay judges the events again that came while not all members of a room were known, as if they came now, in the
// same order.
type replay struct {
	b      *batch
	join   int64
	full   *store.Ref              // the state before the join
	events []*store.Stored         // as they were judged, in the order in which they came
	now    map[int64]*store.Stored // those that are to be judged again
	sight  map[int64]auth.State    // what the events were judged by
	told   map[string]int64        // states after events that are not here
	named  map[string]bool         // prev events of events that were followed
	joined map[string]bool         // servers of users who joined
}

func (p *replay) read(ctx context.Context) error {
	r := p.b.r
	p.sight, p.named, p.joined = map[int64]auth.State{}, map[string]bool{}, map[string]bool{}
	return r.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := r.s.Store.PartialEvents(tx, r.key.NID)
		if err != nil {
			return err
		}
		if p.events, err = r.s.Store.InOrder(tx, nids); err != nil {
			return err
		}
		p.told, err = r.s.Store.Told(tx, r.key.NID)
		return err
	})
}

// checkJoin refuses a state that does not allow the join, or in which the server is not that took it.
func (p *replay) checkJoin(ctx context.Context) error {
	r := p.b.r
	join, err := r.event(ctx, p.join)
	if err != nil {
		return err
	}
	reason, _, err := r.allowedAt(ctx, join.Event, p.full.Set)
	if err == nil && reason != nil {
		err = fmt.Errorf("%w: its state does not allow the join: %v", ErrBadAnswer, reason)
	}
	if err != nil {
		return err
	}
	members, err := r.memberChanges(ctx, store.EmptyState(), p.full)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.to == store.Join {
			p.joined[serverOf(m.user)] = true
		}
	}
	if through := r.tip.partial.row.Through; !p.joined[through] {
		return fmt.Errorf("%w: by its state %s was not in the room, through which it was joined", ErrBadAnswer, through)
	}
	return nil
}

// restate gives each event that was judged by a state without members the state before it, and judges it by that.
func (p *replay) restate(ctx context.Context) error {
	byID := make(map[string]*event.Event, len(p.events))
	stored := make(map[string]*store.Stored, len(p.events))
	for _, e := range p.events {
		if e.Flags&store.Partial != 0 {
			byID[e.ID], stored[e.ID] = e.Event, e
		}
	}
	for _, e := range dagOrder(byID) {
		if err := p.judge(ctx, stored[e.EventID()]); err != nil {
			return err
		}
	}
	return nil
}

func (p *replay) judge(ctx context.Context, e *store.Stored) error {
	r := p.b.r
	n := *e
	n.Flags &^= store.Partial | store.Rejected
	before := p.full
	if e.NID != p.join {
		var err error
		if before, err = p.before(ctx, e.Event); err != nil {
			return err
		}
	}
	cited, err := r.cited(ctx, e.Event)
	if err != nil {
		return err
	}
	reason := cited.reason
	if e.Event.Oversized() {
		reason = &NotAllowed{Reason: "a field of the event is too long"}
	}
	if reason == nil {
		if reason, p.sight[e.NID], err = r.allowedAt(ctx, e.Event, before.Set); err != nil {
			return err
		}
	}
	n.State = before.NID
	switch {
	case reason != nil:
		n.Flags = n.Flags&^(store.Outgoing|store.SoftFailed) | store.Rejected
		r.logRefusal(e.Event, "rejected now that the room's members are known", reason)
	case e.Flags&store.Backfilled != 0 && e.Flags&store.Rejected != 0: // it has no place: it is fetched again when it is wanted
		n.Flags, n.State = n.Flags&^store.Backfilled|store.Outlier, 0
	}
	p.now[e.NID] = &n
	r.remember(&n)
	return nil
}

// before returns the state before an event from its prev events. Those of an earlier stay that never was complete say
// nothing; where there are no others, the state before the join is the best that is known.
func (p *replay) before(ctx context.Context, e *event.Event) (*store.Ref, error) {
	var refs []*store.Ref
	for _, id := range e.PrevEventIDs() {
		ref, flags, err := p.b.afterID(ctx, id)
		if err != nil {
			return nil, err
		}
		if ref == nil || flags&store.Partial != 0 {
			if p.told[id] == 0 {
				continue
			}
			if ref, err = p.b.set(ctx, p.told[id]); err != nil {
				return nil, err
			}
		}
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		return p.full, nil
	}
	return p.b.merge(ctx, refs)
}

// delivered reports whether an event with these flags belongs to the timeline.
func delivered(f store.Flags) bool {
	return f&(store.Rejected|store.SoftFailed|store.Outlier|store.Backfilled) == 0
}

// follow moves the forward extremities over the events again. Those that the room's state at that time refuses fail
// softly; those that it refused for want of members do not.
func (p *replay) follow(ctx context.Context) error {
	for _, e := range p.events {
		n := p.newest(e)
		if n.Flags&(store.Rejected|store.Outlier|store.Backfilled) != 0 {
			continue
		}
		before, err := p.b.set(ctx, n.State)
		if err != nil {
			return err
		}
		soft, err := p.failsSoftly(ctx, e, before)
		if err != nil {
			return err
		}
		if soft != (n.Flags&store.SoftFailed != 0) {
			n = p.change(e)
			n.Flags ^= store.SoftFailed
		}
		if soft {
			continue
		}
		if err := p.advance(n, before); err != nil {
			return err
		}
	}
	return nil
}

func (p *replay) advance(n *store.Stored, before *store.Ref) error {
	after, err := p.b.after(n, before)
	if err != nil {
		return err
	}
	if !p.named[n.ID] {
		p.b.r.advance(n, after)
		p.b.r.capExtremities()
	}
	for _, prev := range n.Event.PrevEventIDs() {
		p.named[prev] = true
	}
	if user, isState := n.Event.Key(); isState && n.Event.Type() == "m.room.member" && auth.Membership(n.Event) == auth.Join {
		p.joined[serverOf(user)] = true
	}
	return nil
}

// failsSoftly checks an event against the state at the forward extremities, as it was when the event came. What this
// server made or let in goes on: others have it.
func (p *replay) failsSoftly(ctx context.Context, e *store.Stored, before *store.Ref) (bool, error) {
	r := p.b.r
	if e.NID == p.join || e.Flags&store.Outgoing != 0 {
		return false, nil
	}
	tip, err := p.b.resolve(ctx, r.tip.extremities)
	if err != nil {
		return false, err
	}
	reason, _, err := r.allowedAt(ctx, e.Event, tip.Set)
	if err != nil || reason != nil && tip.Set != before.Set {
		return err == nil, err
	}
	if e.Flags&store.SoftFailed == 0 {
		return false, nil
	}
	policy, err := r.policy(ctx)
	return err == nil && !policy.signed(e.Event), err
}

func (p *replay) newest(e *store.Stored) *store.Stored {
	if n := p.now[e.NID]; n != nil {
		return n
	}
	return e
}

// change returns the event as it is from now on, to be changed.
func (p *replay) change(e *store.Stored) *store.Stored {
	n := p.now[e.NID]
	if n == nil {
		c := *e
		n = &c
		p.now[e.NID] = n
		p.b.r.remember(n)
	}
	return n
}

// draft has the batch write the events as they are now. Those that are good after all are delivered, those that are
// not any more lose their place.
func (p *replay) draft(ctx context.Context) error {
	b := p.b
	for _, e := range p.events {
		n := p.now[e.NID]
		if n == nil {
			continue
		}
		d := &draft{stored: n, place: true, restated: true}
		b.drafts = append(b.drafts, d)
		was, is := delivered(e.Flags), delivered(n.Flags)
		switch {
		case is && !was:
			if err := p.deliver(ctx, d); err != nil {
				return err
			}
		case !is && n.Flags&store.Backfilled == 0 || n.Flags&store.Rejected != 0:
			n.Pos, n.Ord, n.HasOrd = 0, 0, false
		}
		if was && is && e.Flags&store.Partial != 0 && n.Event.Type() == "m.room.redaction" {
			if err := p.redact(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// deliver makes an event take its place at the end of the timeline.
func (p *replay) deliver(ctx context.Context, d *draft) error {
	b := p.b
	before, err := b.set(ctx, d.stored.State)
	if err != nil {
		return err
	}
	st := p.sight[d.stored.NID]
	if st == nil {
		if _, st, err = b.r.allowedAt(ctx, d.stored.Event, before.Set); err != nil {
			return err
		}
	}
	d.live = true
	d.stored.Ord, d.stored.HasOrd = b.r.tip.ord, true
	b.r.tip.ord += ordStep
	return b.prepare(ctx, d, acceptance{before: before, state: st})
}

// redact does what a redaction says that was held back.
func (p *replay) redact(ctx context.Context, d *draft) error {
	before, err := p.b.set(ctx, d.stored.State)
	if err != nil {
		return err
	}
	return p.b.prepareRedaction(ctx, d, acceptance{before: before})
}

// finish makes the room's newest state that of the forward extremities, and says what that changes.
func (p *replay) finish(ctx context.Context) error {
	b, r := p.b, p.b.r
	next, err := b.resolve(ctx, r.tip.extremities)
	if err != nil {
		return err
	}
	b.whole = &completion{join: p.join}
	old := r.tip.state
	was := those(r.tip.others(r.s.ServerName))
	named := r.tip.partial.named
	if b.whole.members, err = r.memberChanges(ctx, old, next); err != nil {
		return err
	}
	var gone []string
	for _, c := range b.whole.members {
		r.tip.count(c.user, c.from, c.to)
		if c.from == store.Join && c.to != store.Join && !r.s.IsLocal(c.user) {
			gone = append(gone, c.user)
		}
	}
	r.tip.state, r.tip.partial, r.tip.torn = next, nil, false
	clear(r.auths)
	b.whole.view = &View{State: next, Joined: r.tip.joined, Invited: r.tip.invited}
	is := those(r.tip.others(r.s.ServerName))
	if err := b.whole.moved(ctx, r.s, was, is); err != nil {
		return err
	}
	done := &Completed{RoomID: r.key.ID, RoomNID: r.key.NID, Join: p.join, Servers: p.unnamed(named), Gone: gone}
	for _, participant := range r.s.Participants {
		if c, ok := participant.(Completer); ok {
			if write := c.Completed(done); write != nil {
				b.whole.writes = append(b.whole.writes, write)
			}
		}
	}
	return nil
}

// moved notes which servers were taken for being in the room and are not, and the other way round.
func (w *completion) moved(ctx context.Context, s *Server, was, is map[string]bool) error {
	for joined, from := range map[bool][2]map[string]bool{true: {is, was}, false: {was, is}} {
		for server := range from[0] {
			if from[1][server] {
				continue
			}
			nids, err := s.Store.Intern(ctx, server)
			if err != nil {
				return err
			}
			w.servers = append(w.servers, serverChange{nid: nids[0], joined: joined})
		}
	}
	return nil
}

// unnamed returns the other servers that were in the room at any time since the join, and were not named as such.
func (p *replay) unnamed(named map[string]bool) (out []string) {
	for server := range p.joined {
		if server != p.b.r.s.ServerName && !named[server] {
			out = append(out, server)
		}
	}
	slices.Sort(out)
	return out
}

func those(list []string) map[string]bool {
	out := make(map[string]bool, len(list))
	for _, v := range list {
		out[v] = true
	}
	return out
}
