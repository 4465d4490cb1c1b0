package ephemeral

import (
	"encoding/json"

	"knock/internal/matrixerr"
)

// Remote takes another server's word about its users: the content of an
// m.presence EDU. What is wrong in it is left out.
func (p *Presence) Remote(origin string, content json.RawMessage) error {
	var c struct {
		Push []json.RawMessage `json:"push"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return matrixerr.BadJSON("m.presence has the wrong shape").With(err)
	}
	if !p.o.Enabled {
		return nil
	}
	for _, raw := range c.Push[:min(len(c.Push), maxPush)] {
		p.remoteUser(origin, raw)
	}
	return nil
}

func (p *Presence) remoteUser(origin string, raw json.RawMessage) {
	var u struct {
		User string `json:"user_id"`
		Content
	}
	if json.Unmarshal(raw, &u) != nil || !valid(u.Presence) || len(u.Status) > maxStatus || checkRemote(origin, u.User) != nil {
		return
	}
	if len(p.o.Rooms(u.User)) == 0 {
		return
	}
	now := State{User: u.User, Presence: u.Presence, Status: u.Status, CurrentlyActive: u.CurrentlyActive}
	if u.LastActiveAgo != nil && *u.LastActiveAgo >= 0 {
		now.LastActive = max(0, p.o.Clock.Millis()-*u.LastActiveAgo)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entry(u.User)
	p.change(e, now)
	if !e.remote {
		e.remote = true
		p.remote++
		p.evict()
	}
}

// evict forgets the other servers' user heard of longest ago when there are too
// many.
func (p *Presence) evict() {
	for el := p.order.Front(); p.remote > maxRemote && el != nil; {
		e, next := el.Value.(*entry), el.Next()
		if e.remote {
			p.order.Remove(el)
			delete(p.users, e.User)
			p.remote--
		}
		el = next
	}
}
