package send

import (
	"context"
	"sync"

	"knock/internal/ephemeral"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// Passing tells what EDUs said that did not arrive: they are not kept, but what they were about is.
type Passing interface {
	// ReceiptsAfter returns some of the newest public receipts in rooms with a position after pos, of anybody.
	ReceiptsAfter(tx *sqldb.Tx, rooms []string, pos int64, limit int) ([]ephemeral.Receipt, error)
	// Present returns the states of those of the users who are not offline.
	Present(users []string) []ephemeral.State
}

// maxRecalled bounds the receipts that are looked through for one server.
const maxRecalled = 5000

// Recall sets who remembers what EDUs said. Call it before Run.
func (s *Sender) Recall(p Passing) { s.passing = p }

// marks are positions of the last seconds, one for each, the oldest first. Word of a receipt takes about two seconds
// from its commit to the queues.
type marks struct {
	mu  sync.Mutex
	pos [5]int64
}

// earlier is a position that everything committed before some seconds ago lies before; at least 1.
func (m *marks) earlier() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return max(m.pos[0], 1)
}

func (m *marks) note(pos int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.pos[:], m.pos[1:])
	m.pos[len(m.pos)-1] = pos
}

// recall queues what was missed by a server that is back. It comes after the events, so that the receipts are for
// events that the server has; false when there is nothing to do.
func (d *destination) recall(ctx context.Context) (bool, error) {
	d.mu.Lock()
	after := d.missed
	if d.behind || after == 0 {
		d.mu.Unlock()
		return false, nil
	}
	if d.missed = 0; d.reminded == 0 || after < d.reminded { // what is missed from now on sets it again
		d.reminded = after
	}
	d.mu.Unlock()
	if d.s.passing == nil {
		return true, nil
	}
	err := d.s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		rooms, err := d.rooms(tx)
		if err != nil {
			return err
		}
		return d.remind(tx, rooms, after)
	})
	if err != nil {
		d.mu.Lock()
		d.missed = after
		d.mu.Unlock()
	}
	return true, err
}

// rooms are those that the server is in now.
func (d *destination) rooms(tx *sqldb.Tx) ([]string, error) {
	server, err := d.s.o.Store.FindName(tx, d.name)
	if err != nil || server == 0 {
		return nil, err
	}
	services, err := d.s.o.Store.ServiceOf(tx, server, 0)
	var rooms []string
	for _, v := range services {
		if v.To > 0 {
			continue
		}
		key, err := d.s.o.Store.RoomByNID(tx, v.Room)
		if err != nil {
			return nil, err
		}
		rooms = append(rooms, key.ID)
	}
	return rooms, err
}

// remind queues who is present in rooms, and our users' receipts there after a position.
func (d *destination) remind(tx *sqldb.Tx, rooms []string, after int64) error {
	receipts, err := d.s.passing.ReceiptsAfter(tx, rooms, after, maxRecalled)
	if err != nil {
		return err
	}
	present := d.s.presentIn(rooms)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range receipts {
		k := receiptKey{r.Room, r.User, r.Thread}
		if _, newer := d.edus.receipts[k]; !newer && event.ServerOf(r.User) == d.s.o.ServerName && d.edus.len() < maxWaitingEDUs {
			d.edus.receipts[k] = r
		}
	}
	d.addPresent(present)
	if d.edus.empty() {
		d.reminded = 0
	}
	return nil
}

// addPresent queues presence; d.mu is held.
func (d *destination) addPresent(present []presence) {
	for _, p := range present {
		if _, newer := d.edus.presence[p.User]; !newer && d.edus.len() < maxWaitingEDUs {
			d.edus.presence[p.User] = p
		}
	}
}

// presentIn are the states of our users in rooms who are not offline.
func (s *Sender) presentIn(rooms []string) []presence {
	seen := map[string]bool{}
	var users []string
	for _, room := range rooms {
		for _, user := range s.o.Hub.JoinedUsers(room) {
			if !seen[user] {
				seen[user] = true
				users = append(users, user)
			}
		}
	}
	return s.passing.Present(users)
}

// newcomer is a user who has come into a room.
type newcomer struct{ user, room string }

// prepareNewcomer notes who comes into rooms. A server a user of which does, through whichever server, is back if it was
// retired, and learns who is present there; where one of our users does, the room's servers learn that they are.
func (s *Sender) prepareNewcomer(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	user, isState := a.Event.Key()
	if a.Event.Type() != "m.room.member" || !isState || auth.Membership(a.Event) != auth.Join {
		return nil
	}
	if was := a.State.Lookup("m.room.member", user); was != nil && auth.Membership(was) == auth.Join {
		return nil
	}
	return func(_ *sqldb.Tx, pos int64) error {
		s.edus.mu.Lock()
		defer s.edus.mu.Unlock()
		if k := (newcomer{user, a.RoomID}); len(s.edus.newcomers) < maxIntake {
			s.edus.newcomers[k] = max(s.edus.newcomers[k], pos)
		}
		return nil
	}
}

// published has newcomers welcomed that are visible now.
func (s *Sender) published(int64) {
	s.edus.mu.Lock()
	defer s.edus.mu.Unlock()
	if len(s.edus.newcomers) > 0 {
		signal(s.edus.wake)
	}
}

// takeNewcomers takes those whose joins are published; edus.mu is held.
func (s *Sender) takeNewcomers() map[newcomer]int64 {
	published, list := s.o.Hub.Published(), map[newcomer]int64{}
	for k, pos := range s.edus.newcomers {
		if pos <= published {
			list[k] = pos
			delete(s.edus.newcomers, k)
		}
	}
	return list
}

// welcome tells a server who is present in a room that a user of its came into.
func (s *Sender) welcome(n newcomer) {
	d := s.destination(event.ServerOf(n.user))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.standing.retired {
		d.revive()
	}
	if s.passing != nil && d.failures == 0 {
		d.addPresent(s.presentIn([]string{n.room}))
		if !d.edus.empty() {
			d.kick()
		}
	}
}
