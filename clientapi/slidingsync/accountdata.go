package slidingsync

import (
	"context"
	"encoding/json"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// tellData tells account data (MSC3959): global, with the push rules, and of the
// rooms in scope.
func (a *answer) tellData(ctx context.Context) error {
	x := &a.q.ext.accountData
	news := a.o.Hub.LastPersonal(a.q.user) > a.q.since.pos
	g := a.group(x, markData, false, news)
	if a.draft.global = x.enabled; !x.enabled {
		return nil
	}
	first := !a.draft.base.global
	if !first && !news && !g.behind() {
		return nil
	}
	d := &dataNews{answer: a, group: g, rooms: map[string][]json.RawMessage{}}
	if err := a.read(ctx, func(tx *sqldb.Tx) error { return d.read(tx, first) }); err != nil {
		return err
	}
	d.encode()
	return nil
}

type dataNews struct {
	*answer
	*group
	global []json.RawMessage
	rooms  map[string][]json.RawMessage
}

func (d *dataNews) read(tx *sqldb.Tx, first bool) error {
	begin := map[string]int64{}
	for _, id := range d.live {
		begin[id] = d.q.since.pos
	}
	lowest := d.q.since.pos
	for _, id := range d.stale {
		begin[id] = d.from[id]
		lowest = min(lowest, d.from[id])
	}
	for _, id := range d.fresh {
		begin[id], lowest = 0, 0
	}
	if begin[""] = d.q.since.pos; first {
		begin[""], lowest = 0, 0
	}
	list, err := d.o.Accounts.AccountDataSince(tx, d.q.user, lowest, d.at.pos)
	if err != nil {
		return err
	}
	for _, datum := range list {
		from, wanted := begin[datum.Room]
		if !wanted || datum.Pos <= from {
			continue
		}
		e := syncread.Typed(datum.Type, datum.Content)
		if datum.Room == "" {
			d.global = append(d.global, e)
		} else {
			d.rooms[datum.Room] = append(d.rooms[datum.Room], e)
		}
	}
	return d.readRules(tx, first)
}

func (d *dataNews) readRules(tx *sqldb.Tx, news bool) (err error) {
	if !news {
		if news, err = d.o.Push.RulesChangedSince(tx, d.q.user, d.q.since.pos, d.at.pos); err != nil || !news {
			return err
		}
	}
	rules, err := d.o.Push.RulesetTx(tx, d.q.user)
	if err == nil {
		d.global = append(d.global, syncread.Typed("m.push_rules", rules))
	}
	return err
}

func (d *dataNews) encode() {
	if len(d.global)+len(d.rooms) == 0 {
		return
	}
	d.some = true
	b := []byte{'{'}
	if len(d.global) > 0 {
		b = append(syncread.AppendArray(append(b, `"global":`...), d.global), ',')
	}
	if len(d.rooms) > 0 {
		b = append(b, `"rooms":{`...)
		for id, events := range d.rooms {
			b = append(syncread.AppendArray(append(event.AppendString(b, id), ':'), events), ',')
		}
		b = append(syncread.Closed(b, '}'), ',')
	}
	d.appendPart("account_data", syncread.Closed(b, '}'))
}
