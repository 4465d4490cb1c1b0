package send

import (
	"cmp"
	"context"
	"slices"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Sticky tells which events of our users are sticky (MSC4354): other servers get those whatever they lack of a room's
// history.
type Sticky interface {
	// Own are those of a room with from < position ≤ to, oldest first.
	Own(tx *sqldb.Tx, room, from, to int64) ([]store.Due, error)
	// ForNewcomer are those that a server lacks whose users came into a room at pos; none when it was there before.
	ForNewcomer(tx *sqldb.Tx, room int64, server string, pos int64) ([]store.Due, error)
	// ForNewcomers are all of the kind by server, by their numbers, oldest first.
	ForNewcomers(tx *sqldb.Tx) (map[string][]int64, error)
}

// Stick sets what tells of sticky events. Call it before Run.
func (s *Sender) Stick(sticky Sticky) { s.sticky = sticky }

// giveSticky has a server that has come into a room get what is sticky there.
func (s *Sender) giveSticky(ctx context.Context, n newcomer, pos int64) error {
	if s.sticky == nil {
		return nil
	}
	server := event.ServerOf(n.user)
	var due []store.Due
	err := s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		key, err := s.o.Store.RoomTx(tx, n.room)
		if err == nil {
			due, err = s.sticky.ForNewcomer(tx, key.NID, server, pos)
		}
		return err
	})
	if len(due) > 0 {
		list := make([]extra, len(due))
		for i, d := range due {
			list[i].nid = d.Event
		}
		s.destination(server).giveLater(list)
	}
	return err
}

// giveAllSticky does so for all servers, since a start may have kept us from it. Who has the events knows them.
func (s *Sender) giveAllSticky(ctx context.Context) error {
	if s.sticky == nil {
		return nil
	}
	var all map[string][]int64
	err := s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		all, err = s.sticky.ForNewcomers(tx)
		return err
	})
	for server, nids := range all {
		list := make([]extra, len(nids))
		for i, nid := range nids {
			list[i].nid = nid
		}
		s.destination(server).give(list)
	}
	return err
}

// extra is an older event that goes to a server beside what its cursor stands for.
type extra struct {
	nid   int64
	tries int
}

// Bounds of older events.
const (
	maxExtra   = 10_000 // that wait for a server
	maxTries   = 7
	extraPause = time.Second // before the first try; each takes twice as long as the one before
)

// give queues older events.
func (d *destination) give(list []extra) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standing.retired || len(d.extra)+len(list) > maxExtra {
		return
	}
	d.extra = append(d.extra, list...)
	d.kick()
}

// giveLater gives a server time to come into the room: until it has the answer to its join it takes nothing.
func (d *destination) giveLater(list []extra) {
	time.AfterFunc(extraPause<<list[0].tries, func() { d.give(list) })
}

// fromExtra makes a transaction of older events; nil when none wait, or something else goes first.
func (d *destination) fromExtra(ctx context.Context) (*outgoing, error) {
	d.mu.Lock()
	list := slices.Clone(d.extra[:min(len(d.extra), d.limit)])
	first := d.retry != nil || d.durable.waits()
	d.mu.Unlock()
	if len(list) == 0 || first {
		return nil, nil
	}
	due := make([]store.Due, len(list))
	for i, x := range list {
		due[i].Event = x.nid
	}
	events, err := d.s.events(ctx, d.name, due)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.extra = d.extra[len(list):]
	if len(events) == 0 {
		return nil, nil
	}
	out := d.transaction(events)
	if len(events) == len(list) { // none is gone
		out.extra = make(map[string]extra, len(list))
		for i, e := range events {
			out.extra[e.EventID()] = list[i]
		}
	}
	return out, nil
}

func (d *destination) hasExtra() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.extra) > 0 && d.retry == nil
}

// refusedExtra gives older events again that a server refused: it may not be in their room yet.
func (d *destination) refusedExtra(out *outgoing, refused map[string]string) {
	var again []extra
	for id := range refused {
		if x, ok := out.extra[id]; ok && x.tries < maxTries {
			again = append(again, extra{x.nid, x.tries + 1})
		}
	}
	if len(again) > 0 {
		slices.SortFunc(again, func(a, b extra) int { return cmp.Compare(a.nid, b.nid) })
		d.giveLater(again)
	}
}
