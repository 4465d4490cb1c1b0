package slidingsync

import (
	"strconv"

	"knock/clientapi/syncread"
	"knock/roomserver/event"
)

// encode appends the room to the answer, unless there is nothing to tell of it.
func (r *room) encode() {
	begin := len(r.answer.rooms)
	b := append(event.AppendString(r.answer.rooms, r.e.key.ID), ':', '{')
	start := len(b)
	if r.news {
		b = r.appendNews(b)
	}
	if len(b) == start && !r.counted {
		r.answer.rooms = r.answer.rooms[:begin]
		return
	}
	r.some = true
	b = r.appendStanding(b)
	r.answer.rooms = append(syncread.Closed(b, '}'), ',')
}

// appendNews appends what is not said with every room.
func (r *room) appendNews(b []byte) []byte {
	if r.initial {
		b = append(b, `"initial":true,`...)
	}
	b = append(b, r.meta...)
	if dm := r.now.marks & markDM; r.initial && dm != 0 || !r.initial && dm != r.before.marks&markDM {
		b = append(strconv.AppendBool(append(b, `"is_dm":`...), dm != 0), ',')
	}
	if r.initial || r.e.bump > r.from {
		b = append(strconv.AppendInt(append(b, `"bump_stamp":`...), r.e.bump, 10), ',')
	}
	if r.stripped != nil {
		key := `"invite_state":`
		if r.q.form == v4 {
			key = `"stripped_state":`
		}
		b = append(syncread.AppendArray(append(b, key...), r.stripped), ',')
	}
	if len(r.required) > 0 {
		b = append(syncread.AppendArray(append(b, `"required_state":`...), r.required), ',')
	}
	return r.appendTimeline(b)
}

func (r *room) appendTimeline(b []byte) []byte {
	if r.expanded {
		key := `"unstable_expanded_timeline":true,`
		if r.q.form == v4 {
			key = `"expanded_timeline":true,`
		}
		b = append(b, key...)
	}
	if len(r.timeline) > 0 {
		b = append(syncread.AppendArray(append(b, `"timeline":`...), r.timeline), ',')
		b = append(strconv.AppendInt(append(b, `"num_live":`...), int64(r.live), 10), ',')
	}
	if r.limited {
		b = append(b, `"limited":true,`...)
	}
	if r.prevBatch != "" {
		b = append(event.AppendString(append(b, `"prev_batch":`...), r.prevBatch), ',')
	}
	return b
}

// appendStanding appends what is said with every room that is told.
func (r *room) appendStanding(b []byte) []byte {
	if r.q.form == v4 {
		b = append(event.AppendString(append(b, `"membership":`...), r.e.row.State.String()), ',')
		var names []string
		for i := range r.q.lists {
			if r.lists.has(i) {
				names = append(names, r.q.lists[i].key)
			}
		}
		if len(names) > 0 {
			b = append(syncread.AppendStrings(append(b, `"lists":`...), names), ',')
		}
		return b
	}
	if r.e.kind() != joined {
		return b
	}
	c := r.unread[r.e.key.ID].All()
	b = strconv.AppendInt(append(b, `"notification_count":`...), c.Notification, 10)
	return append(strconv.AppendInt(append(b, `,"highlight_count":`...), c.Highlight, 10), ',')
}

// encode returns the whole answer.
func (a *answer) encode() []byte {
	b := append(make([]byte, 0, len(a.rooms)+len(a.parts)+512), `{"pos":`...)
	b = append(event.AppendString(b, a.at.String()), ',')
	if a.q.txn != "" {
		b = append(event.AppendString(append(b, `"txn_id":`...), a.q.txn), ',')
	}
	b = append(b, `"lists":{`...)
	for i := range a.q.lists {
		b = append(event.AppendString(b, a.q.lists[i].key), `:{"count":`...)
		b = append(strconv.AppendInt(b, a.counts[i], 10), '}', ',')
	}
	b = append(syncread.Closed(b, '}'), `,"rooms":{`...)
	b = append(syncread.Closed(append(b, a.rooms...), '}'), `,"extensions":{`...)
	return append(syncread.Closed(append(b, a.parts...), '}'), '}')
}
