package roomserver

import (
	"context"
	"errors"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

// prepareRedaction finds what a redaction event redacts, where the room allows
// it (room versions 3 and later: "Handling redactions"). A target that is not
// here yet is redacted when it comes.
func (b *batch) prepareRedaction(ctx context.Context, d *draft, a acceptance) error {
	e := d.stored.Event
	if d.redacts = e.RedactsID(); d.redacts == "" || heldBack(a.flags) {
		return nil
	}
	sel, err := b.r.selectAuth(ctx, a.before.Set, auth.NeededForEvent(e))
	if err != nil {
		return err
	}
	powers := auth.PowerLevels(sel.state)
	for _, other := range b.drafts {
		if other.stored.ID == d.redacts {
			if auth.MayRedact(e, other.stored.Event, powers) {
				b.hollow(other, d.stored.NID)
			}
			return nil
		}
	}
	target, err := b.redactionTarget(ctx, d.redacts)
	if err == nil && target != nil && auth.MayRedact(e, target.Event, powers) {
		d.redact = target
	}
	return err
}

// heldBack reports whether a redaction is not done yet, because not all members are known who may redact: it cannot be
// undone.
func heldBack(f store.Flags) bool { return f&store.Partial != 0 && f&store.Outgoing == 0 }

// redactionTarget returns an event of the room that is not redacted yet, or nil.
func (b *batch) redactionTarget(ctx context.Context, id string) (target *store.Stored, err error) {
	if err := b.r.drain(ctx); err != nil {
		return nil, err
	}
	err = b.r.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		target, err = b.r.s.Store.EventByID(tx, id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) || err == nil && (target.Room != b.r.key.NID || target.RedactedBy != 0) {
		return nil, nil
	}
	return target, err
}

// hollow redacts an event that is not written yet.
func (b *batch) hollow(d *draft, by int64) {
	e := d.stored
	e.Event, e.RedactedBy = e.Event.Redact(), by
	d.data = b.r.s.Store.Pack(e.Event, e.Note)
}

// redactEarly redacts an event of another server whose redaction came before it.
func (b *batch) redactEarly(ctx context.Context, d *draft) error {
	e := d.stored
	if e.Flags&(store.Outgoing|store.Rejected|store.Outlier) != 0 {
		return nil
	}
	found, err := b.redactionsOf(ctx, e.ID)
	if err != nil {
		return err
	}
	for _, by := range found {
		if by.Flags&(store.Rejected|store.SoftFailed) != 0 || heldBack(by.Flags) {
			continue
		}
		powers, err := b.powersAt(ctx, by)
		if err != nil {
			return err
		}
		if auth.MayRedact(by.Event, e.Event, powers) {
			b.hollow(d, by.NID)
			return nil
		}
	}
	return nil
}

// redactionsOf returns the redactions of an event id, queued ones first.
func (b *batch) redactionsOf(ctx context.Context, id string) (found []*store.Stored, err error) {
	b.r.pub.RLock()
	for _, e := range b.r.pub.pending {
		if e.Event.Type() == "m.room.redaction" && e.Event.RedactsID() == id {
			found = append(found, e)
		}
	}
	b.r.pub.RUnlock()
	err = b.r.s.db.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := b.r.s.Store.RedactionsOf(tx, b.r.key.NID, id)
		if err != nil {
			return err
		}
		written, err := b.r.s.Store.InOrder(tx, nids)
		found = append(found, written...)
		return err
	})
	return found, err
}

// powersAt returns the power levels before an event.
func (b *batch) powersAt(ctx context.Context, e *store.Stored) (auth.Powers, error) {
	before, err := b.set(ctx, e.State)
	if err != nil {
		return auth.Powers{}, err
	}
	sel, err := b.r.selectAuth(ctx, before.Set, auth.NeededForEvent(e.Event))
	if err != nil {
		return auth.Powers{}, err
	}
	return auth.PowerLevels(sel.state), nil
}
