package slidingsync

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/account"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

// update makes the next roster of a user.
type update struct {
	*Sync
	user    string
	old     *roster
	next    *roster
	known   map[int64]*entry // old's, by number, when personal news needs it
	changed map[int64]*entry // entries that are new or other than before
	data    []account.Datum
}

// run takes the changed rooms before the personal position: who leaves a room
// meanwhile raises that first.
func (u *update) run(ctx context.Context) error {
	rooms := u.o.Hub.ChangedRooms(u.user, u.old.at)
	if u.old.at == 0 || u.o.Hub.LastPersonal(u.user) > u.old.at {
		if err := u.personal(ctx); err != nil {
			return err
		}
	}
	if len(rooms) > 0 && u.old.at > 0 {
		if err := u.active(ctx, rooms); err != nil {
			return err
		}
	}
	if len(u.changed) > 0 {
		u.next.order = merged(u.old.order, u.changed)
	}
	return nil
}

// edit returns the entry of the next roster for a room of the old one.
func (u *update) edit(e *entry) *entry {
	if now := u.changed[e.key.NID]; now != nil {
		return now
	}
	now := &entry{entryData: e.entryData}
	now.facts.Store(e.facts.Load())
	u.changed[e.key.NID] = now
	return now
}

// active brings rooms in which something happened up to date.
func (u *update) active(ctx context.Context, rooms []string) error {
	set := make(map[string]bool, len(rooms))
	for _, id := range rooms {
		set[id] = true
	}
	for _, e := range u.old.order {
		if !set[e.key.ID] || e.row.State != store.Join || u.changed[e.key.NID] != nil && u.changed[e.key.NID].row.Pos != e.row.Pos {
			continue
		}
		if err := u.follow(ctx, u.edit(e)); err != nil {
			return err
		}
	}
	return nil
}

// followed is how many new events of a room are looked at one by one.
const followed = 10

func (u *update) follow(ctx context.Context, e *entry) error {
	e.seen = u.next.at
	events, limited, err := u.o.Rooms.Timeline(ctx, e.key.ID, u.old.at, u.next.at, followed)
	if err != nil {
		return err
	}
	bump := int64(0)
	for _, ev := range events {
		e.last = max(e.last, ev.Pos)
		if slices.Contains(bumpTypes, ev.Event.Type()) {
			bump = ev.Pos
		}
	}
	if bump == 0 && limited {
		if err := u.o.DB.Read(ctx, func(tx *sqldb.Tx) error { return u.measure(tx, []*entry{e}) }); err != nil {
			return err
		}
	}
	e.bump = max(e.bump, bump)
	if f := e.facts.Load(); f != nil {
		if v, err := u.o.Rooms.View(ctx, e.key.ID, u.next.at); err != nil || v.State.Set != f.set {
			e.facts.Store(nil)
			return err
		}
	}
	return nil
}

// personal reads the memberships and the account data that changed.
func (u *update) personal(ctx context.Context) error {
	u.known = make(map[int64]*entry, len(u.old.order))
	for _, e := range u.old.order {
		u.known[e.key.NID] = e
	}
	err := u.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		rows, err := u.o.Rooms.MembershipsSince(tx, u.user, u.old.at)
		if err != nil {
			return err
		}
		if err := u.memberships(tx, rows); err != nil {
			return err
		}
		u.data, err = u.o.Accounts.AccountDataSince(tx, u.user, u.old.at, u.next.at)
		return err
	})
	if err == nil {
		u.accountData()
	}
	return err
}

// memberships takes rows that changed, also such as changed after the roster's
// position: of these rooms the old entry stays, and is looked at again.
func (u *update) memberships(tx *sqldb.Tx, rows []store.MemberRow) error {
	var active, others []*entry
	for _, row := range rows {
		old := u.known[row.Room]
		if row.Pos > u.next.at {
			if old != nil {
				u.edit(old).seen = u.next.at
			}
			continue
		}
		e := &entry{entryData: entryData{row: row, last: row.Pos, bump: row.Pos, seen: u.next.at}}
		var err error
		if e.key, err = u.o.Rooms.Store.RoomByNID(tx, row.Room); err != nil {
			return err
		}
		if old != nil {
			e.tags = old.tags
		}
		e.dm = u.old.direct[e.key.ID]
		u.changed[row.Room] = e
		if row.State == store.Join {
			e.bump = 0
			active = append(active, e)
		} else {
			others = append(others, e)
		}
	}
	for chunk := range slices.Chunk(active, 500) {
		if err := u.measure(tx, chunk); err != nil {
			return err
		}
	}
	return u.senders(tx, others)
}

// measure reads the activity of joined rooms.
func (u *update) measure(tx *sqldb.Tx, list []*entry) error {
	nids := make([]int64, len(list))
	for i, e := range list {
		nids[i] = e.key.NID
	}
	found, err := u.o.Rooms.Activity(tx, nids, bumpTypes, u.next.at)
	if err != nil {
		return err
	}
	for _, e := range list {
		a := found[e.key.NID]
		e.last, e.bump = max(e.last, a.Last), max(e.bump, a.OfTypes)
		if e.bump == 0 {
			e.bump = e.row.Pos
		}
	}
	return nil
}

// senders finds out who invited the user, and from which rooms they were kicked
// or banned.
func (u *update) senders(tx *sqldb.Tx, list []*entry) error {
	nids := make([]int64, len(list))
	for i, e := range list {
		nids[i] = e.row.Event
	}
	events, err := u.o.Rooms.Store.Load(tx, nids)
	if err != nil {
		return err
	}
	for _, e := range list {
		own := events[e.row.Event]
		if own == nil {
			continue
		}
		e.sender = own.Event.Sender()
		if e.kind() != gone || e.sender == u.user {
			continue
		}
		exit, err := u.o.Reader.LastExit(tx, own, u.user)
		if err != nil {
			return err
		}
		e.ended = exit != nil
	}
	return nil
}

const (
	typeDirect = "m.direct"
	typeTag    = "m.tag"
)

func (u *update) accountData() {
	tags := map[string][]string{}
	for _, d := range u.data {
		switch {
		case d.Room == "" && d.Type == typeDirect:
			u.next.direct = directRooms(d.Content)
		case d.Room != "" && d.Type == typeTag:
			tags[d.Room] = tagNames(d.Content)
		}
	}
	mark := func(e *entry) {
		dm := u.next.direct[e.key.ID]
		names, tagged := tags[e.key.ID]
		if dm == e.dm && !tagged {
			return
		}
		now := u.edit(e)
		now.dm = dm
		if tagged {
			now.tags = names
		}
	}
	for _, e := range u.old.order {
		mark(u.newest(e))
	}
	for _, e := range u.changed {
		mark(e)
	}
}

func (u *update) newest(e *entry) *entry {
	if now := u.changed[e.key.NID]; now != nil {
		return now
	}
	return e
}

// directRooms reads the content of m.direct: rooms by user.
func directRooms(content json.RawMessage) map[string]bool {
	rooms := map[string]bool{}
	gjson.ParseBytes(content).ForEach(func(_, list gjson.Result) bool {
		for _, id := range list.Array() {
			if id.Type == gjson.String {
				rooms[id.Str] = true
			}
		}
		return true
	})
	return rooms
}

func tagNames(content json.RawMessage) []string {
	var names []string
	gjson.GetBytes(content, "tags").ForEach(func(name, _ gjson.Result) bool {
		names = append(names, name.Str)
		return true
	})
	return names
}
