package roomserver

import (
	"context"

	"knock/roomserver/store"
)

// Reconsider looks again at a soft-failed message, by its number: when the room's state allows it now, it enters the
// timeline. done says that there is nothing more to find out.
func (s *Server) Reconsider(ctx context.Context, roomID string, nid int64) (done bool, err error) {
	err = s.retry(ctx, func() error {
		done, err = s.reconsider(ctx, roomID, nid)
		return err
	})
	return done, err
}

func (s *Server) reconsider(ctx context.Context, roomID string, nid int64) (bool, error) {
	r, err := s.handle(ctx, roomID)
	if err != nil {
		return false, err
	}
	if err := r.lock(); err != nil {
		return false, err
	}
	b, done, err := r.readmit(ctx, nid)
	r.mu.Unlock()
	if b == nil {
		return done, err
	}
	err = b.wait(ctx)
	return err == nil, err
}

// readmit queues an event that was soft-failed and is allowed now; the batch is nil when nothing changes. The event does
// not become a forward extremity: what came after it does not refer to it.
func (r *room) readmit(ctx context.Context, nid int64) (b *batch, done bool, err error) {
	if err := r.drain(ctx); err != nil {
		return nil, false, err
	}
	old, err := r.event(ctx, nid)
	if err != nil {
		return nil, false, err
	}
	if old.Flags&store.SoftFailed == 0 || old.Tuple != 0 {
		return nil, true, nil
	}
	reason, st, err := r.allowedAt(ctx, old.Event, r.tip.state.Set)
	if err != nil || reason != nil {
		return nil, false, err
	}
	p, err := r.policy(ctx)
	if err != nil || !p.signed(old.Event) {
		return nil, true, err
	}
	before, err := r.set(ctx, old.State)
	if err != nil {
		return nil, false, err
	}
	b = r.begin()
	a := acceptance{before: before, flags: old.Flags &^ store.SoftFailed, auth: old.Auth, state: st, replaces: old, fills: true,
		origin: origin{note: old.Note}}
	if _, err := b.add(ctx, old.Event, a); err != nil {
		return nil, false, r.abandon(b, err)
	}
	b.enqueue()
	return b, false, nil
}
