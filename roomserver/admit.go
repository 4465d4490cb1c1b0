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

// errMissingAuth is returned for an event that cites auth events which are not
// here; they must be fetched first.
var errMissingAuth = errors.New("the event cites auth events that are not here")

// errForeign is returned for an event that names one of another room. No honest
// server makes such an event, so it is dropped.
var errForeign = errors.New("the event refers to an event of another room")

// errRootless is returned for an event that names no prev events. A room has one
// such event, its m.room.create, and that comes with the state.
var errRootless = errors.New("the event names no prev events, which only the room's first one may")

// hopeless reports whether an event can never be taken, whatever is fetched.
func hopeless(err error) bool { return errors.Is(err, errForeign) || errors.Is(err, errRootless) }

// admission says how an event that was built elsewhere enters a room.
type admission struct {
	// state is the state before the event where its prev events do not tell.
	state *state.Set
	// after has the states after those of its prev events that are not here.
	after   map[string]*state.Set
	flags   store.Flags
	exclude string // the server that has the event already
	policy  verdict

	origin // of an event of a local user
}

// admit applies the checks performed on receipt of a PDU (server-server API,
// steps 4 to 6: signatures and hashes are checked before) and takes the event
// into the batch. A refused event is stored as rejected or soft-failed, which
// is no error. It returns nil for an event that is here already.
func (b *batch) admit(ctx context.Context, e *event.Event, a admission) (*draft, error) {
	b.sender = serverOf(e.Sender())
	known, err := b.r.known(ctx, e.EventID())
	if err != nil || known != nil && known.Flags&store.Outlier == 0 {
		return nil, err
	}
	cited, err := b.r.cited(ctx, e)
	if err != nil {
		return nil, err
	}
	acc := acceptance{flags: a.flags, auth: cited.nids, exclude: a.exclude, replaces: known}
	prior, err := b.before(ctx, e, a)
	if err != nil {
		return nil, err
	}
	acc.before, acc.missing = prior.state, prior.missing
	now := b.r.tip.state.Set // against which the event may fail softly
	if prior.partial {
		acc.flags |= store.Partial
		if acc.before, err = b.vouchBefore(ctx, acc.before, cited.nids); err != nil {
			return nil, err
		}
	}
	if b.r.tip.partial != nil {
		if now, err = b.r.vouched(ctx, now, cited.nids); err != nil {
			return nil, err
		}
	}
	if known != nil {
		if err := b.r.drain(ctx); err != nil {
			return nil, err
		}
	}
	if acc.fills, err = b.r.isMissing(ctx, e.EventID()); err != nil {
		return nil, err
	}
	reason := cited.reason
	if e.Oversized() {
		reason = &NotAllowed{Reason: "a field of the event is too long"}
	}
	if reason == nil {
		reason, acc.state, err = b.r.allowedAt(ctx, e, acc.before.Set)
		if err != nil {
			return nil, err
		}
	}
	if reason != nil {
		acc.flags = acc.flags&^store.Outgoing | store.Rejected
		b.r.logRefusal(e, "rejected", reason)
		return b.add(ctx, e, acc)
	}
	if reason, _, err = b.r.allowedAt(ctx, e, now); err != nil {
		return nil, err
	}
	if reason != nil && now != acc.before.Set {
		acc.flags |= store.SoftFailed
		b.r.logRefusal(e, "soft-failed", reason)
		return b.add(ctx, e, acc)
	}
	p, err := b.r.policy(ctx)
	if err != nil {
		return nil, err
	}
	if a.policy != excused && !p.signed(e) {
		if a.policy == unasked {
			return nil, errUnasked
		}
		acc.flags |= store.SoftFailed
		return b.add(ctx, e, acc)
	}
	acc.origin = a.origin
	return b.add(ctx, e, acc)
}

// isMissing reports whether an event that is here names the id as a prev event,
// so that the event is no new forward extremity.
func (r *room) isMissing(ctx context.Context, id string) (missing bool, err error) {
	err = r.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		missing, err = r.s.Store.IsMissing(tx, r.key.NID, id)
		return err
	})
	return missing, err
}

func (r *room) logRefusal(e *event.Event, what string, reason error) {
	r.s.Log.WithError(reason).WithField("room", r.key.ID).WithField("event", e.EventID()).Debug("Event " + what)
}

// known returns the row of an event id, nil when it has none.
func (r *room) known(ctx context.Context, id string) (*store.Stored, error) {
	if e := r.pendingByID(id); e != nil {
		return e, nil
	}
	var e *store.Stored
	err := r.s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		e, err = r.s.Store.EventByID(tx, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err == nil && e.Room != r.key.NID {
		return nil, fmt.Errorf("%w: %s", errForeign, id)
	}
	return e, err
}

func (r *room) pendingByID(id string) *store.Stored {
	r.pub.RLock()
	defer r.pub.RUnlock()
	return r.pub.byID[id]
}

// citation is what the auth events that an event cites say about it.
type citation struct {
	nids   []int64
	reason error // the event is to be rejected
}

// cited checks an event against the auth events that it cites itself.
func (r *room) cited(ctx context.Context, e *event.Event) (citation, error) {
	var c citation
	ids := e.AuthRefs()
	events := make([]*event.Event, 0, len(ids)+1)
	for _, id := range ids {
		a, err := r.known(ctx, id)
		if err != nil {
			return c, err
		}
		if a == nil {
			return c, fmt.Errorf("%w: %s", errMissingAuth, id)
		}
		if a.Flags&store.Rejected != 0 && c.reason == nil {
			c.reason = &NotAllowed{Reason: "the event cites a rejected auth event"}
		}
		c.nids = append(c.nids, a.NID)
		events = append(events, a.Event)
	}
	if c.reason == nil {
		c.reason = auth.CheckAuthEvents(e, events)
	}
	if r.key.Version.DomainlessRoomIDs && e.Type() != "m.room.create" {
		create, err := r.known(ctx, e.CreateID())
		if err != nil {
			return c, err
		}
		if create == nil {
			return c, fmt.Errorf("%w: %s", errMissingAuth, e.CreateID())
		}
		c.nids = append(c.nids, create.NID)
		events = append(events, create.Event)
	}
	if c.reason == nil {
		c.reason = auth.Check(e, auth.NewState(events))
	}
	return c, nil
}

// allowedAt checks an event against a state of the room.
func (r *room) allowedAt(ctx context.Context, e *event.Event, set *state.Set) (reason error, st auth.State, err error) {
	sel, err := r.selectAuth(ctx, set, auth.NeededForEvent(e))
	if err != nil {
		return nil, nil, err
	}
	return auth.Check(e, sel.state), sel.state, nil
}

// precedence is what is before an event.
type precedence struct {
	state   *store.Ref
	missing []string // prev events that are not here
	partial bool     // the state lacks members
}

// before returns the state before an event, from its prev events, and which of
// those are not here.
func (b *batch) before(ctx context.Context, e *event.Event, a admission) (p precedence, err error) {
	r := b.r
	prevs := e.PrevEventIDs()
	if a.state == nil && r.follows(prevs) {
		return precedence{state: r.tip.state, partial: r.tip.rests()}, nil
	}
	var refs, stale []*store.Ref
	told := len(prevs) > 0
	for _, id := range prevs {
		ref, flags, err := b.afterID(ctx, id)
		switch {
		case err != nil:
			return p, err
		case ref == nil:
			p.missing = append(p.missing, id)
			if ref = b.adopt(a.after[id]); ref == nil {
				told = false
				continue
			}
			b.noteTold(id, ref)
		case flags&store.Partial != 0 && r.tip.partial == nil:
			stale = append(stale, ref) // of a stay that ended before it was complete
			continue
		case flags&store.Partial != 0:
			p.partial = true
		}
		refs = append(refs, ref)
	}
	if told {
		if len(refs) == 0 {
			refs, p.partial = stale, true
		}
		p.state, err = b.merge(ctx, refs)
		return p, err
	}
	if a.state == nil && len(prevs) == 0 {
		return p, errRootless
	}
	if a.state == nil {
		return p, fmt.Errorf("%w: %d of %d", errMissingPrev, len(p.missing), len(prevs))
	}
	p.state, p.partial = b.adopt(a.state), false
	return p, nil
}

// adopt makes a state of the room of one that another server told; nil of nil.
func (b *batch) adopt(set *state.Set) *store.Ref {
	switch {
	case set == nil:
		return nil
	case same(set, b.r.tip.state.Set):
		return b.r.tip.state
	}
	return b.extend(b.r.tip.state, set)
}

// errMissingPrev is returned for an event whose prev events are not here.
var errMissingPrev = errors.New("the event names prev events that are not here")

// follows reports whether the prev events are exactly the forward extremities.
func (r *room) follows(prevs []string) bool {
	if len(prevs) != len(r.tip.extremities) {
		return false
	}
	for _, x := range r.tip.extremities {
		if !slices.Contains(prevs, x.id) {
			return false
		}
	}
	return true
}

// afterID returns the state after an event that is here with its state, else nil,
// and the event's flags.
func (b *batch) afterID(ctx context.Context, id string) (*store.Ref, store.Flags, error) {
	r := b.r
	for _, x := range r.tip.extremities {
		if x.id == id {
			return x.after, x.flags, nil
		}
	}
	e, err := r.known(ctx, id)
	if err != nil || e == nil || e.Flags&store.Outlier != 0 {
		return nil, 0, err
	}
	before, err := b.set(ctx, e.State)
	if err != nil {
		return nil, 0, err
	}
	after, err := b.after(e, before)
	return after, e.Flags, err
}

// set returns a state set that may be one of this batch's own.
func (b *batch) set(ctx context.Context, nid int64) (*store.Ref, error) {
	for _, ref := range slices.Backward(b.sets) {
		if ref.NID == nid {
			return ref, nil
		}
	}
	return b.r.set(ctx, nid)
}

// set returns a state set that may be queued and not yet written.
func (r *room) set(ctx context.Context, nid int64) (*store.Ref, error) {
	if nid == r.tip.state.NID {
		return r.tip.state, nil
	}
	for _, x := range r.tip.extremities {
		if x.after.NID == nid {
			return x.after, nil
		}
	}
	if err := r.drain(ctx); err != nil {
		return nil, err
	}
	var ref *store.Ref
	err := r.s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		ref, err = r.s.Store.Set(tx, nid)
		return err
	})
	return ref, err
}
