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
		st.Keep(d.stored)
		if d.redact != nil {
			st.Keep(d.redact)
			r.replaceInRing(d.redact)
		}
		if d.live {
			r.publish(d)
		}
	}
	r.pub.Unlock()
	for _, d := range b.drafts {
		if d.live {
			b.notify(d)
		}
	}
}

// publish adds a delivered event to what readers see; pub is locked.
func (r *room) publish(d *draft) {
	if d.view != nil {
		d.view.Pos = d.stored.Pos
		r.pub.views = append(r.pub.views, *d.view)
		if len(r.pub.views) > 2*viewsKept {
			r.pub.views = slices.Clone(r.pub.views[viewsKept:])
		}
	}
	r.pub.ring = append(r.pub.ring, d.stored)
	if len(r.pub.ring) > 2*ringSize {
		r.pub.from = r.pub.ring[ringSize-1].Pos
		r.pub.ring = slices.Clone(r.pub.ring[ringSize:])
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
	for _, c := range d.members {
		kind = stream.Membership
		if r.s.IsLocal(c.user) && c.to == store.Join {
			hub.SetJoined(c.user, r.key.ID, true)
		}
	}
	hub.TouchTimeline(r.key.ID, pos)
	for _, c := range d.members {
		if !r.s.IsLocal(c.user) {
			continue
		}
		hub.TouchUser(c.user, pos)
		if c.from == store.Join && c.to != store.Join {
			hub.SetJoined(c.user, r.key.ID, false)
		}
	}
	hub.Emit(stream.Change{Pos: pos, Room: r.key.ID, EventNID: d.stored.NID, Kind: kind})
	if r.s.Outbound != nil && len(d.targets) > 0 {
		r.s.Outbound.Send(pos, r.key.ID, d.stored.Event, d.targets)
	}
}
