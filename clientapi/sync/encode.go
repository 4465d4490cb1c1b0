package sync

import (
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"

	"knock/clientapi/syncread"
	"knock/internal/account"
	"knock/internal/pushrules"
	"knock/roomserver/event"
)

// encode appends the room as a member of its section, with a comma. A room with
// nothing to tell is left out; one with something has all its lists, empty ones
// too, as clients are used to.
func (r *room) encode(dst []byte) []byte {
	a, begin := r.a, len(dst)
	dst = append(event.AppendString(dst, r.id), ':', '{')
	some := r.full || r.left != nil || len(r.timeline) > 0 || r.limited || len(r.state) > 0 || r.summary != nil
	dst = r.appendTimeline(dst)
	dst = appendEvents(append(event.AppendString(dst, a.q.stateKey), ':'), r.state)
	data := r.accountData()
	dst = appendEvents(append(dst, `"account_data":`...), data)
	some = some || len(data) > 0
	if r.left == nil {
		dst = append(dst, r.summary...)
		if len(r.sticky) > 0 {
			dst, some = appendEvents(append(dst, `"msc4354_sticky":`...), r.sticky), true
		}
		passing := r.ephemeral()
		dst = appendEvents(append(dst, `"ephemeral":`...), passing)
		some = some || len(passing) > 0
		dst = r.appendCounts(dst)
	}
	if !some {
		return dst[:begin]
	}
	return append(syncread.Closed(dst, '}'), ',')
}

func (r *room) appendTimeline(dst []byte) []byte {
	dst = append(dst, `"timeline":{"events":[`...)
	for _, e := range r.timeline {
		dst = append(append(dst, e...), ',')
	}
	dst = append(syncread.Closed(dst, ']'), `,"limited":`...)
	dst = strconv.AppendBool(dst, r.limited)
	if r.prevBatch != "" {
		dst = event.AppendString(append(dst, `,"prev_batch":`...), r.prevBatch)
	}
	return append(dst, "},"...)
}

// appendEvents appends {"events":[…]} and a comma.
func appendEvents(dst []byte, events []json.RawMessage) []byte {
	dst = append(dst, `{"events":[`...)
	for _, e := range events {
		dst = append(append(dst, e...), ',')
	}
	return append(syncread.Closed(dst, ']'), "},"...)
}

// appendCounts appends the unread counts: of the main timeline and of each
// thread, or of all together for clients that do not ask for threads.
func (r *room) appendCounts(dst []byte) []byte {
	if !r.counted {
		return dst
	}
	c := r.a.counts[r.id]
	if f := r.a.q.filter; !f.timeline.threads && !f.state.threads {
		return append(appendCount(append(dst, `"unread_notifications":`...), c.All()), ',')
	}
	dst = append(appendCount(append(dst, `"unread_notifications":`...), c.Main), ',')
	if len(c.Threads) == 0 {
		return dst
	}
	dst = append(dst, `"unread_thread_notifications":{`...)
	for root, n := range c.Threads {
		dst = append(appendCount(append(event.AppendString(dst, root), ':'), n), ',')
	}
	return append(syncread.Closed(dst, '}'), ',')
}

func appendCount(dst []byte, c pushrules.Count) []byte {
	dst = strconv.AppendInt(append(dst, `{"highlight_count":`...), c.Highlight, 10)
	dst = strconv.AppendInt(append(dst, `,"notification_count":`...), c.Notification, 10)
	return append(dst, '}')
}

// accountData returns the room's account data as events.
func (r *room) accountData() (events []json.RawMessage) {
	f := &r.a.q.filter.roomData
	if f.rooms.has(r.id) {
		for _, d := range r.a.data[r.id] {
			if f.hasType(d.Type) {
				events = append(events, syncread.Typed(d.Type, d.Content))
			}
		}
	}
	return events
}

// picked returns the fields of an event that the client wants.
func (a *answer) picked(raw json.RawMessage) json.RawMessage {
	if a.q.filter.fields == nil {
		return raw
	}
	return a.q.filter.fields.pick(nil, gjson.ParseBytes(raw))
}

func groupData(list []account.Datum) map[string][]account.Datum {
	byRoom := map[string][]account.Datum{}
	for _, d := range list {
		byRoom[d.Room] = append(byRoom[d.Room], d)
	}
	return byRoom
}

// encode returns the whole answer, and whether it tells of anything.
func (a *answer) encode() (body []byte, some bool) {
	size := len(a.join) + len(a.invite) + len(a.knock) + len(a.leave)
	b := append(make([]byte, 0, size+1024), `{"next_batch":`...)
	b = append(event.AppendString(b, a.at.String()), ',')
	start := len(b)
	if events := a.globalData(); len(events) > 0 {
		b = appendEvents(append(b, `"account_data":`...), events)
	}
	if events := a.presenceEvents(); len(events) > 0 {
		b = appendEvents(append(b, `"presence":`...), events)
	}
	if size > 0 {
		b = a.appendRooms(b)
	}
	b = a.appendDeviceNews(b)
	b = a.appendProfiles(b)
	some = len(b) > start || a.at.sticky > 0
	return append(a.appendKeys(b), '}'), some
}

func (a *answer) appendRooms(b []byte) []byte {
	b = append(b, `"rooms":{`...)
	for _, s := range []struct {
		name string
		data []byte
	}{{"join", a.join}, {"invite", a.invite}, {"knock", a.knock}, {"leave", a.leave}} {
		if len(s.data) > 0 {
			b = append(append(event.AppendString(b, s.name), ':', '{'), s.data...)
			b = append(syncread.Closed(b, '}'), ',')
		}
	}
	return append(syncread.Closed(b, '}'), ',')
}

// globalData returns the user's account data, push rules among them.
func (a *answer) globalData() (events []json.RawMessage) {
	f := &a.q.filter.accountData
	for _, d := range a.data[""] {
		if f.hasType(d.Type) {
			events = append(events, syncread.Typed(d.Type, d.Content))
		}
	}
	if a.rules != nil && f.hasType(typePushRules) {
		events = append(events, syncread.Typed(typePushRules, a.rules))
	}
	return events
}
