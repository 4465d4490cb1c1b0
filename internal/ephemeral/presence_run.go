package ephemeral

import (
	"context"
	"time"
)

// Run lets users go idle and offline and tells others, until ctx ends.
func (p *Presence) Run(ctx context.Context) error {
	if !p.o.Enabled {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(presenceTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.age()
			p.tell()
		}
	}
}

// age moves local users on as time passes.
func (p *Presence) age() {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.o.Clock.Millis()
	var aging []*entry
	for el := p.order.Front(); el != nil; el = el.Next() {
		if e := el.Value.(*entry); !e.remote && e.Presence != Offline {
			aging = append(aging, e)
		}
	}
	for _, e := range aging {
		now := e.State
		switch {
		case e.syncs == 0 && at-e.synced >= offlineAfter.Milliseconds():
			now.Presence = Offline
		case e.Presence == Online && at-e.LastActive >= idleAfter.Milliseconds():
			now.Presence, e.idle = Unavailable, true
		}
		p.update(e, now)
	}
}

// tell wakes, once for all changes of the last second, the rooms of those who
// changed, and tells other servers.
func (p *Presence) tell() {
	rooms, local := map[string]int64{}, []State{}
	for _, e := range p.takeDirty() {
		for _, room := range p.roomsOf(e) {
			rooms[room] = max(rooms[room], e.seq)
		}
		if !e.remote {
			local = append(local, e.State)
			p.o.Hub.WakeUser(e.User, e.seq)
		}
	}
	for room, seq := range rooms {
		p.o.Hub.WakeRoom(room, seq)
	}
	for _, s := range local {
		p.o.Outbox.Presence(s)
	}
}

func (p *Presence) roomsOf(e entry) []string {
	if e.remote {
		return p.o.Rooms(e.User)
	}
	return p.o.Hub.JoinedRooms(e.User)
}

func (p *Presence) takeDirty() []entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]entry, 0, len(p.dirty))
	for _, e := range p.dirty {
		out = append(out, *e)
	}
	clear(p.dirty)
	return out
}
