package send

import (
	"cmp"
	"context"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

var (
	allDestinations = sqldb.Register("outbound.destinations", `SELECT name, sent_pos, heard, failing, retired, missed FROM destinations`)
	oneDestination  = sqldb.Register("outbound.destination", `SELECT name, sent_pos, heard, failing, retired, missed FROM destinations WHERE name = $1`)
	outboxServers   = sqldb.Register("outbound.waiting", `SELECT DISTINCT name FROM outbox`)
	putDestinations = sqldb.RegisterInsert("outbound.save", `INSERT INTO destinations (name, sent_pos, heard, failing, retired, missed) VALUES`, 6,
		`ON CONFLICT (name) DO UPDATE SET sent_pos = excluded.sent_pos, heard = excluded.heard, failing = excluded.failing, retired = excluded.retired, missed = excluded.missed`)
	insertOutbox = sqldb.RegisterInsert("outbound.outbox", `INSERT INTO outbox (name, pos, event) VALUES`, 3, `ON CONFLICT DO NOTHING`)
	selectOutbox = sqldb.Register("outbound.outboxOf", `SELECT event, pos FROM outbox WHERE name = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
	deleteOutbox = sqldb.Register("outbound.outboxDelete", `DELETE FROM outbox WHERE name = $1 AND pos <= $2`)
)

// Bounds of a backlog.
const (
	maxBacklog    = 500 // events of a room; beyond it the newest ones must do: the other server asks for the rest
	newestBacklog = 50
	maxOutbox     = 1000
)

// servers are those that are to be looked after when the work begins.
type servers struct {
	rows          []row
	here, waiting []string // sharing a room with us; those for which something may wait
}

// row is what is stored of a destination.
type row struct {
	name   string
	cursor int64
	standing
	missed int64 // EDUs about what came after this position may not have arrived; 0: after cursor
}

func scanRow(rows *sqldb.Rows) (r row, err error) {
	var name []byte
	var retired int64
	err = rows.Scan(&name, &r.cursor, &r.heard, &r.failing, &retired, &r.missed)
	r.name, r.retired = string(name), retired != 0
	return r, err
}

func (s *Sender) loadServers(ctx context.Context) (k servers, err error) {
	err = s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if k.here, err = s.o.Store.AllServers(tx); err != nil {
			return err
		}
		if k.rows, err = sqldb.Collect(tx, allDestinations, scanRow); err != nil {
			return err
		}
		for _, r := range k.rows {
			k.waiting = append(k.waiting, r.name)
		}
		more, err := sqldb.Collect(tx, outboxServers, scanName)
		k.waiting = append(k.waiting, more...)
		if err != nil || s.durable == nil {
			return err
		}
		more, err = s.durable.PendingServers(tx)
		k.waiting = append(k.waiting, more...)
		return err
	})
	return k, err
}

func scanName(rows *sqldb.Rows) (string, error) {
	var name []byte
	err := rows.Scan(&name)
	return string(name), err
}

// read reads what is stored of a destination, unless that is known: nothing of one that is new, which gets what
// followed its joins.
func (d *destination) read(ctx context.Context) error {
	d.mu.Lock()
	loaded := d.loaded
	d.mu.Unlock()
	if loaded {
		return nil
	}
	var rows []row
	err := d.s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		rows, err = sqldb.Collect(tx, oneDestination, scanRow, []byte(d.name))
		return err
	})
	if err != nil {
		return err
	}
	d.load(append(rows, row{name: d.name})[0])
	return nil
}

// load takes what is stored, which is how the server fared before the start and up to where EDUs arrived for sure.
func (d *destination) load(r row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.loaded {
		return
	}
	d.loaded, d.cursor, d.stored, d.storedStanding, d.missed = true, r.cursor, r.cursor, r.standing, r.cursor
	if r.missed > 0 {
		d.missed = min(r.missed, r.cursor)
	}
	heard := d.standing.heard
	d.standing = r.standing
	if heard > 0 { // it called before this was read
		d.standing = standing{heard: heard}
	}
}

// backlog lists what is for a server with from < pos ≤ to: events of rooms while it was in them, and what lies in its
// outbox, oldest first. The list is complete up to the position until.
func (s *Sender) backlog(ctx context.Context, name string, from, to int64) (due []store.Due, until int64, err error) {
	err = s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		due, err = sqldb.Collect(tx, selectOutbox, func(rows *sqldb.Rows) (d store.Due, err error) {
			err = rows.Scan(&d.Event, &d.Pos)
			return d, err
		}, []byte(name), from, to, maxOutbox)
		if err != nil {
			return err
		}
		if len(due) == maxOutbox {
			to = due[maxOutbox-1].Pos
		}
		server, err := s.o.Store.FindName(tx, name)
		if err != nil || server == 0 {
			return err
		}
		services, err := s.o.Store.ServiceOf(tx, server, from)
		if err != nil {
			return err
		}
		for _, v := range services {
			list, err := s.serviceBacklog(tx, v, from, to)
			if err != nil {
				return err
			}
			due = append(due, list...)
		}
		return nil
	})
	slices.SortFunc(due, func(a, b store.Due) int { return cmp.Compare(a.Pos, b.Pos) })
	return slices.CompactFunc(due, func(a, b store.Due) bool { return a.Pos == b.Pos }), to, err
}

func (s *Sender) serviceBacklog(tx *sqldb.Tx, v store.Service, from, to int64) ([]store.Due, error) {
	from = max(from, v.From)
	if v.To > 0 {
		to = min(to, v.To)
	}
	list, err := s.o.Store.Backlog(tx, v.Room, from, to, maxBacklog+1)
	if len(list) <= maxBacklog || err != nil {
		return list, err
	}
	list = list[:newestBacklog]
	if s.sticky == nil {
		return list, nil
	}
	older, err := s.sticky.Own(tx, v.Room, from, list[newestBacklog-1].Pos-1)
	return append(list, older...), err
}

// events loads what is due. What is gone meanwhile is left out, and what the server made itself and gave us to add to a
// room: to get that again, after what came later, would only mislead it.
func (s *Sender) events(ctx context.Context, server string, due []store.Due) ([]*event.Event, error) {
	nids := make([]int64, len(due))
	for i, d := range due {
		nids[i] = d.Event
	}
	var found map[int64]*store.Stored
	err := s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		found, err = s.o.Store.Load(tx, nids)
		return err
	})
	events := make([]*event.Event, 0, len(due))
	for _, nid := range nids {
		if e := found[nid]; e != nil && event.ServerOf(e.Event.Sender()) != server {
			events = append(events, e.Event)
		}
	}
	return events, err
}

// save writes the cursors that moved; at the end also those of servers for which there was nothing to send.
func (s *Sender) save(ctx context.Context, last bool) error {
	horizon := s.horizon()
	var rows [][]any
	var saved []*destination
	var written []row
	for _, d := range s.all() {
		if r, ok := d.toSave(horizon, last); ok {
			rows = append(rows, []any{[]byte(d.name), r.cursor, r.heard, r.failing, flag(r.retired), r.missed})
			saved, written = append(saved, d), append(written, r)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	err := s.o.Store.DB.Do(ctx, &sqldb.Op{Name: "outbound", Write: func(tx *sqldb.Tx, _ int64) error {
		if err := tx.Insert(putDestinations, rows...); err != nil {
			return err
		}
		for _, r := range written {
			if _, err := tx.Exec(deleteOutbox, []byte(r.name), r.cursor); err != nil {
				return err
			}
		}
		return nil
	}})
	for i, d := range saved {
		if err == nil {
			d.saved(written[i])
		}
	}
	return err
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// Load implements roomserver.Participant.
func (s *Sender) Load(context.Context, int64) error { return nil }

// Forget implements roomserver.Participant.
func (s *Sender) Forget(int64) {}

// Prepare implements roomserver.Participant: servers that come into rooms are noted, and what ends an invite or a knock is written to the outbox of the user's
// server with the event, for that server may not be in the room.
func (s *Sender) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	if write := s.prepareNewcomer(a); write != nil {
		return write
	}
	user, isState := a.Event.Key()
	server := event.ServerOf(user)
	if a.Event.Type() != "m.room.member" || !isState || server == s.o.ServerName || event.ServerOf(a.Event.Sender()) != s.o.ServerName {
		return nil
	}
	if m := auth.Membership(a.Event); m != auth.Leave && m != auth.Ban {
		return nil
	}
	return func(tx *sqldb.Tx, pos int64) error {
		tx.Append(insertOutbox, []byte(server), pos, a.EventNID)
		return nil
	}
}
