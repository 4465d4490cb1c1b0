package send

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

var (
	allDestinations = sqldb.Register("outbound.destinations", `SELECT name FROM destinations UNION SELECT name FROM outbox`)
	selectCursor    = sqldb.Register("outbound.cursor", `SELECT sent_pos FROM destinations WHERE name = $1`)
	putCursors      = sqldb.RegisterInsert("outbound.save", `INSERT INTO destinations (name, sent_pos) VALUES`, 2,
		`ON CONFLICT (name) DO UPDATE SET sent_pos = excluded.sent_pos`)
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

func (s *Sender) loadServers(ctx context.Context) (here, before []string, err error) {
	err = s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if here, err = s.o.Store.AllServers(tx); err != nil {
			return err
		}
		if before, err = sqldb.Collect(tx, allDestinations, scanName); err != nil || s.durable == nil {
			return err
		}
		waiting, err := s.durable.PendingServers(tx)
		before = append(before, waiting...)
		return err
	})
	return here, before, err
}

func scanName(rows *sqldb.Rows) (string, error) {
	var name []byte
	err := rows.Scan(&name)
	return string(name), err
}

// cursor reads how far a destination got everything; 0 for one that is new, which gets what followed its joins.
func (s *Sender) cursor(ctx context.Context, name string) (pos int64, err error) {
	err = s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error { return tx.QueryRow(selectCursor, []byte(name)).Scan(&pos) })
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	return pos, err
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
	if len(list) > maxBacklog {
		list = list[:newestBacklog]
	}
	return list, err
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
	var cursors []int64
	for _, d := range s.all() {
		if pos, ok := d.toSave(horizon, last); ok {
			rows = append(rows, []any{[]byte(d.name), pos})
			saved, cursors = append(saved, d), append(cursors, pos)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	err := s.o.Store.DB.Do(ctx, &sqldb.Op{Name: "outbound", Write: func(tx *sqldb.Tx, _ int64) error {
		if err := tx.Insert(putCursors, rows...); err != nil {
			return err
		}
		for _, row := range rows {
			if _, err := tx.Exec(deleteOutbox, row...); err != nil {
				return err
			}
		}
		return nil
	}})
	for i, d := range saved {
		if err == nil {
			d.saved(cursors[i])
		}
	}
	return err
}

// Load implements roomserver.Participant.
func (s *Sender) Load(context.Context, int64) error { return nil }

// Forget implements roomserver.Participant.
func (s *Sender) Forget(int64) {}

// Prepare implements roomserver.Participant: what ends an invite or a knock is written to the outbox of the user's
// server with the event, for that server may not be in the room.
func (s *Sender) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
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
