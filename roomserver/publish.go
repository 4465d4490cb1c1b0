package roomserver

import (
	"slices"

	"knock/internal/stream"
	"knock/roomserver/store"
)

// committed publishes the batch. It runs on the writer's goroutine.
func (b *batch) committed(int64) {
	r, st := b.r, b.r.s.Store
	if b.create {
		st.KeepRoom(r.key)
	}
	for _, set := range b.sets {
		st.KeepSet(set)
	}
	r.pub.Lock()
	r.pub.queued--
	for _, d := range b.drafts {
		delete(r.pub.pending, d.stored.NID)
		delete(r.pub.byID, d.stored.ID)
		st.Keep(d.stored)
		if d.restated && !d.live {
			r.restateInRing(d.stored)
		}
		if d.redact != nil {
			st.Keep(d.redact)
			r.replaceInRing(d.redact)
		}
		if d.live {
			r.publish(d)
		}
	}
	if b.whole != nil {
		r.publishView(b.whole.view, b.whole.pos)
	}
	r.pub.Unlock()
	b.notifyPartial()
	for _, d := range b.drafts {
		if d.live {
			b.notify(d)
		}
	}
}

// publish adds a delivered event to what readers see; pub is locked.
func (r *room) publish(d *draft) {
	if d.view != nil {
		r.publishView(d.view, d.stored.Pos)
	}
	r.pub.ring = append(r.pub.ring, d.stored)
	if len(r.pub.ring) > 2*ringSize {
		r.pub.from = r.pub.ring[ringSize-1].Pos
		r.pub.ring = slices.Clone(r.pub.ring[ringSize:])
	}
}

func (r *room) publishView(v *View, pos int64) {
	v.Pos = pos
	r.pub.views = append(r.pub.views, *v)
	if len(r.pub.views) > 2*viewsKept {
		r.pub.views = slices.Clone(r.pub.views[viewsKept:])
	}
}

func (r *room) replaceInRing(e *store.Stored) {
	for i, old := range r.pub.ring {
		if old.NID == e.NID {
			r.pub.ring[i] = e
		}
	}
}

// notify tells the hub and the federation sender of a delivered event.
func (b *batch) notify(d *draft) {
	r, hub, pos := b.r, b.r.s.Hub, d.stored.Pos
	kind := stream.Timeline
	if len(d.members) > 0 {
		kind = stream.Membership
	}
	r.notifyMembers(d.members, pos)
	hub.Emit(stream.Change{Pos: pos, Room: r.key.ID, EventNID: d.stored.NID, Kind: kind})
	if r.s.Outbound != nil && len(d.targets) > 0 {
		r.s.Outbound.Send(pos, r.key.ID, d.stored.Event, d.targets)
	}
}

// notifyMembers tells the hub of what happened in a room at a position, and whom of ours it made come or go.
func (r *room) notifyMembers(members []memberChange, pos int64) {
	hub := r.s.Hub
	for _, c := range members {
		if r.s.IsLocal(c.user) && c.to == store.Join {
			hub.SetJoined(c.user, r.key.ID, true)
		}
	}
	hub.TouchTimeline(r.key.ID, pos)
	for _, c := range members {
		if !r.s.IsLocal(c.user) {
			continue
		}
		hub.TouchUser(c.user, pos)
		if c.from == store.Join && c.to != store.Join {
			hub.SetJoined(c.user, r.key.ID, false)
		}
	}
}

// notifyPartial tells those who wait for a room's members.
func (b *batch) notifyPartial() {
	r := b.r
	for _, d := range b.drafts {
		if d.opens != nil {
			r.s.partials.begin(r.key.ID, d.stored.Event.Sender(), d.opens.row, r.s.Clock())
		}
		if d.ends != nil {
			r.s.partials.end(r.key.ID, d.ends.event, d.stored.Pos, false)
		}
	}
	if w := b.whole; w != nil {
		r.notifyMembers(w.members, w.pos)
		r.s.partials.end(r.key.ID, w.join, w.pos, true)
	}
}

// restateInRing replaces an event that was judged again, or takes it out when it is not delivered any more.
func (r *room) restateInRing(e *store.Stored) {
	if e.Pos != 0 {
		r.replaceInRing(e)
		return
	}
	r.pub.ring = slices.DeleteFunc(slices.Clone(r.pub.ring), func(old *store.Stored) bool { return old.NID == e.NID })
}
