package sync

import (
	"encoding/json"

	"knock/internal/ephemeral"
	"knock/roomserver/event"
)

// sharePresence finds whose presence to tell: of those for whom it changed, and
// of those whom the user sees since now. A user who came into a room, or whose
// client was told by another start of this node, is told of everybody.
func (a *answer) sharePresence() {
	p := a.o.Presence
	if !p.Enabled() {
		return
	}
	from := a.q.since.eph
	if a.fresh {
		from = 0
	}
	a.presence = p.Since(a.q.user, from, a.at.eph)
	told := map[string]bool{}
	for _, s := range a.presence {
		told[s.User] = true
	}
	for _, user := range a.arrived {
		if told[user] {
			continue
		}
		told[user] = true
		if s, err := p.Get(a.q.user, user); err == nil && s.Presence != ephemeral.Offline {
			a.presence = append(a.presence, s)
		}
	}
}

func (a *answer) presenceEvents() (events []json.RawMessage) {
	f := &a.q.filter.presence
	if !f.hasType(typePresence) {
		return nil
	}
	now := a.o.Clock.Millis()
	for _, s := range a.presence {
		if !f.senders.has(s.User) || a.ignores(s.User) {
			continue
		}
		content, err := json.Marshal(s.Content(now))
		if err != nil {
			continue // it is of strings and numbers: it cannot be
		}
		b := append([]byte(`{"content":`), content...)
		b = event.AppendString(append(b, `,"sender":`...), s.User)
		events = append(events, append(b, `,"type":"m.presence"}`...))
	}
	return events
}
