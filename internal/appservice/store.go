package appservice

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"

	"knock/internal/e2ee"
	"knock/internal/sqldb"
	"knock/roomserver/store"
)

var (
	selectProgress = sqldb.Register("appservices.select", `SELECT txn, sent_pos, claim_pos FROM appservices WHERE id = $1`)
	putProgress    = sqldb.Register("appservices.put", `INSERT INTO appservices (id, txn, sent_pos, claim_pos) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET txn = excluded.txn, sent_pos = excluded.sent_pos, claim_pos = excluded.claim_pos`)
	selectExtras = sqldb.Register("appservices.extras", `SELECT pos, txn, body FROM appservice_extras WHERE id = $1`)
	putExtras    = sqldb.Register("appservices.putExtras", `INSERT INTO appservice_extras (id, pos, txn, body) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET pos = excluded.pos, txn = excluded.txn, body = excluded.body`)
	localStays = sqldb.Register("appservices.localStays", `SELECT m.room, r.room_id, n.s, m.event, m.pos FROM membership m
		JOIN names n ON n.nid = m.user_nid JOIN rooms r ON r.nid = m.room WHERE m.local = $1`)
	residentRooms = sqldb.Register("appservices.rooms", `SELECT nid, room_id FROM rooms WHERE resident = $1`)
	roomBacklog   = sqldb.Register("appservices.backlog",
		`SELECT pos, nid FROM events WHERE room = $1 AND pos > $2 AND pos <= $3 ORDER BY pos LIMIT $4`)
)

// progress is how far a service got everything.
type progress struct{ txn, sent, claim int64 }

// load reads the progress of a service. One that is new gets what comes from now on.
func (s *Services) load(ctx context.Context, l *link) error {
	id := l.v.ID
	err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(selectProgress, id).Scan(&l.p.txn, &l.p.sent, &l.p.claim)
	})
	if errors.Is(err, sql.ErrNoRows) {
		now := s.o.Hub.Published()
		l.p, l.x.pos = progress{sent: now, claim: now}, now
		return s.save(ctx, l, l.p, l.x, nil)
	}
	if err != nil || l.marks == nil {
		return err
	}
	var txn int64
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		return tx.QueryRow(selectExtras, id).Scan(&l.x.pos, &txn, &l.x.body)
	})
	if errors.Is(err, sql.ErrNoRows) { // it took events only until now
		l.x.pos, err = s.o.Hub.Published(), nil
	}
	if txn != l.p.txn || len(l.x.body) == 0 {
		l.x.body = nil
	}
	return err
}

// save stores the progress of a service. Messages that go into its transaction leave the place where /sync finds them.
func (s *Services) save(ctx context.Context, l *link, p progress, x beside, messages []e2ee.Waiting) error {
	var handedOver func()
	return s.o.DB.Do(ctx, &sqldb.Op{Name: "appservice",
		Write: func(tx *sqldb.Tx, _ int64) (err error) {
			if _, err := tx.Exec(putProgress, l.v.ID, p.txn, p.sent, p.claim); err != nil || l.marks == nil {
				return err
			}
			body := x.body
			if body == nil {
				body = []byte{}
			}
			if _, err := tx.Exec(putExtras, l.v.ID, x.pos, p.txn, body); err != nil || len(messages) == 0 {
				return err
			}
			handedOver, err = s.from.Keys.HandOver(tx, messages)
			return err
		},
		Committed: func(int64) {
			if handedOver != nil {
				handedOver()
			}
		}})
}

// due is an event that waits for a service.
type due struct{ pos, event int64 }

// candidate is a room that may hold something for a service.
type candidate struct {
	nid int64
	id  string
}

// maxRoomBacklog bounds the events of one room that are listed at once.
const maxRoomBacklog = 500

// backlog lists what is for a service with from < pos ≤ to, oldest first. The list is complete up to until.
func (s *Services) backlog(ctx context.Context, v *Service, from, to int64) (list []due, until int64, err error) {
	rooms, list, err := s.candidates(ctx, v, from, to)
	if err != nil {
		return nil, 0, err
	}
	in := map[int64]string{}
	until = to
	for _, room := range rooms {
		var part []due
		err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
			part, err = sqldb.Collect(tx, roomBacklog, scanDue, room.nid, from, until, maxRoomBacklog)
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		if len(part) == maxRoomBacklog {
			until = part[len(part)-1].pos
		}
		for _, d := range part {
			in[d.event] = room.id
		}
		list = append(list, part...)
	}
	list = slices.DeleteFunc(list, func(d due) bool { return d.pos > until })
	slices.SortFunc(list, func(a, b due) int { return cmp.Compare(a.pos, b.pos) })
	list, err = s.only(ctx, v, list, in)
	return list, until, err
}

func scanDue(r *sqldb.Rows) (d due, err error) {
	err = r.Scan(&d.pos, &d.event)
	return d, err
}

// only leaves out events that are not for the service. in has the rooms of those in a timeline; the others are
// memberships of its users in rooms that this server is not in.
func (s *Services) only(ctx context.Context, v *Service, list []due, in map[int64]string) (kept []due, err error) {
	t := s.newTracker()
	for _, d := range list {
		room, inTimeline := in[d.event]
		if !inTimeline {
			kept = append(kept, d)
			continue
		}
		e, err := s.rooms.Store.LoadOne(ctx, d.event)
		if errors.Is(err, store.ErrNotFound) {
			continue // purged meanwhile
		}
		if err != nil {
			return nil, err
		}
		wanted, err := s.interested(ctx, t, room, e)
		if err != nil {
			return nil, err
		}
		if wanted&v.bit != 0 {
			kept = append(kept, d)
		}
	}
	return kept, nil
}

// candidates are the rooms where a user of the service is or was, and those of its other namespaces; and the
// memberships of its users without a place in a timeline.
func (s *Services) candidates(ctx context.Context, v *Service, from, to int64) (rooms []candidate, outside []due, err error) {
	found := map[int64]string{}
	stays := map[int64]due{}
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := sqldb.Collect(tx, localStays, func(r *sqldb.Rows) (_ struct{}, err error) {
			var room, event, pos int64
			var id, user []byte
			if err = r.Scan(&room, &id, &user, &event, &pos); err == nil && s.reg.user(string(user)).in&v.bit != 0 {
				found[room] = string(id)
				if pos > from && pos <= to {
					stays[event] = due{pos, event}
				}
			}
			return struct{}{}, err
		}, 1)
		if err != nil {
			return err
		}
		outside, err = s.outside(tx, stays)
		return err
	})
	if err == nil && len(v.Rooms)+len(v.Aliases) > 0 {
		err = s.namedRooms(ctx, v, found)
	}
	for nid, id := range found {
		rooms = append(rooms, candidate{nid, id})
	}
	return rooms, outside, err
}

// outside keeps of member events those that are in no timeline.
func (s *Services) outside(tx *sqldb.Tx, stays map[int64]due) (out []due, err error) {
	nids := make([]int64, 0, len(stays))
	for nid := range stays {
		nids = append(nids, nid)
	}
	events, err := s.rooms.Store.Load(tx, nids)
	for nid, e := range events {
		if e.Flags&store.Outlier != 0 {
			out = append(out, stays[nid])
		}
	}
	return out, err
}

// namedRooms adds the rooms of a service's namespaces of rooms and aliases.
func (s *Services) namedRooms(ctx context.Context, v *Service, found map[int64]string) error {
	var all []candidate
	err := s.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		all, err = sqldb.Collect(tx, residentRooms, func(r *sqldb.Rows) (c candidate, err error) {
			var id []byte
			err = r.Scan(&c.nid, &id)
			c.id = string(id)
			return c, err
		}, 1)
		return err
	})
	if err != nil {
		return err
	}
	for _, c := range all {
		in, err := s.aliased(ctx, c.id)
		if err != nil {
			return err
		}
		if (in|s.reg.room(c.id).in)&v.bit != 0 {
			found[c.nid] = c.id
		}
	}
	return nil
}
