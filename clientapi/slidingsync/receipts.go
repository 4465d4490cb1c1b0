package slidingsync

import (
	"encoding/json"
	"maps"
	"slices"

	"knock/clientapi/syncread"
	"knock/internal/ephemeral"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// tellReceipts tells what was read (MSC3960). Of a room that the client sees for
// the first time it gets the user's own receipts and those for events that it is
// given. What the user has read themselves changes unread counts, also where the
// extension is not wanted.
func (a *answer) tellReceipts(tx *sqldb.Tx) error {
	g := a.receipts
	since := func(rooms []string, from int64) (map[string][]ephemeral.Receipt, error) {
		if len(rooms) == 0 {
			return nil, nil
		}
		return a.o.Receipts.ReceiptsSince(tx, a.q.user, rooms, from, a.at.pos)
	}
	counted := g.live
	if a.q.form == unstable {
		counted = a.joinedInView()
	}
	live, err := since(counted, a.q.since.pos)
	if err != nil {
		return err
	}
	a.count(live)
	out := map[string][]ephemeral.Receipt{}
	for _, id := range g.live {
		if list := live[id]; list != nil {
			out[id] = list
		}
	}
	stale, err := since(g.stale, g.lowest())
	if err != nil {
		return err
	}
	maps.Copy(out, stale)
	fresh, err := since(g.fresh, 0)
	if err != nil {
		return err
	}
	for id, list := range fresh {
		out[id] = a.shown(id, list)
	}
	a.encodeReceipts(out)
	return nil
}

// joinedInView returns the joined rooms that are live.
func (a *answer) joinedInView() (ids []string) {
	for i := range a.targets {
		if t := &a.targets[i]; t.found && t.before.upto == 0 && t.before.kind == joined && t.e.kind() == joined {
			ids = append(ids, t.e.key.ID)
		}
	}
	return ids
}

// count has the unread counts told of rooms in which the user read something.
func (a *answer) count(receipts map[string][]ephemeral.Receipt) {
	if a.q.form != unstable || len(receipts) == 0 {
		return
	}
	own := func(rc ephemeral.Receipt) bool { return rc.User == a.q.user }
	for i := range a.targets {
		t := &a.targets[i]
		if t.later || !slices.ContainsFunc(receipts[t.e.key.ID], own) {
			continue
		}
		if t.room == nil {
			t.room = &room{answer: a, target: t, from: t.from(a.q.since.pos), to: a.at.pos}
			a.todo = append(a.todo, t.room)
		}
		t.room.counted = true
	}
}

// shown leaves out others' receipts for events that the client is not given now,
// of a room that is told for the first time.
func (a *answer) shown(id string, list []ephemeral.Receipt) []ephemeral.Receipt {
	for _, r := range a.todo {
		if r.e.key.ID != id || !r.initial {
			continue
		}
		events := make(map[string]bool, len(r.events))
		for _, e := range r.events {
			events[e.ID] = true
		}
		return slices.DeleteFunc(list, func(rc ephemeral.Receipt) bool { return rc.User != a.q.user && !events[rc.Event] })
	}
	return list
}

type wireReceipt struct {
	TS     int64  `json:"ts"`
	Thread string `json:"thread_id,omitempty"`
}

// encodeReceipts appends one event for each room. Of a user's receipts of one
// type for one event the unthreaded one counts: it says more.
func (a *answer) encodeReceipts(rooms map[string][]ephemeral.Receipt) {
	b := []byte(`{"rooms":{`)
	some := false
	for id, list := range rooms {
		content := map[string]map[string]map[string]wireReceipt{}
		for _, rc := range list {
			if a.q.ignores(rc.User) {
				continue
			}
			byType := content[rc.Event]
			if byType == nil {
				byType = map[string]map[string]wireReceipt{}
				content[rc.Event] = byType
			}
			if byType[rc.Type] == nil {
				byType[rc.Type] = map[string]wireReceipt{}
			}
			if old, ok := byType[rc.Type][rc.User]; !ok || old.Thread != "" {
				byType[rc.Type][rc.User] = wireReceipt{rc.TS, rc.Thread}
			}
		}
		if len(content) == 0 {
			continue
		}
		raw, err := json.Marshal(content)
		if err != nil {
			continue // it is of strings and numbers: it cannot be
		}
		some = true
		b = append(append(event.AppendString(b, id), ':'), syncread.Typed("m.receipt", raw)...)
		b = append(b, ',')
	}
	if some {
		a.some = true
		a.appendPart("receipts", append(syncread.Closed(b, '}'), '}'))
	}
}
