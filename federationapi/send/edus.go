package send

import (
	"context"
	"sync"
	"time"

	"knock/internal/ephemeral"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

var _ ephemeral.Outbox = (*Sender)(nil)

type (
	typingKey  struct{ room, user string }
	receiptKey struct{ room, user, thread string }
	receipt    = ephemeral.Receipt
	presence   = ephemeral.State
)

// maxIntake bounds what waits to be handed out; beyond it news is dropped, for it will be old soon.
const maxIntake = 10_000

// eduIntake takes news from the domain, which must not wait. The newest word about the same thing counts.
type eduIntake struct {
	mu       sync.Mutex
	typing   map[typingKey]bool
	receipts map[receiptKey]receipt
	presence map[string]presence
	// newcomers are users who came into rooms, with the position of the newest join.
	newcomers map[newcomer]int64
	wake      chan struct{}
}

// Typing implements ephemeral.Outbox. The protocol knows no timeout: who stops says so.
func (s *Sender) Typing(room, user string, typing bool, _ time.Duration) {
	s.edus.mu.Lock()
	defer s.edus.mu.Unlock()
	if len(s.edus.typing) < maxIntake {
		s.edus.typing[typingKey{room, user}] = typing
		signal(s.edus.wake)
	}
}

// Receipt implements ephemeral.Outbox. Private receipts stay here.
func (s *Sender) Receipt(r ephemeral.Receipt) {
	if r.Type != ephemeral.Read {
		return
	}
	s.edus.mu.Lock()
	defer s.edus.mu.Unlock()
	if len(s.edus.receipts) < maxIntake {
		s.edus.receipts[receiptKey{r.Room, r.User, r.Thread}] = r
		signal(s.edus.wake)
	}
}

// Presence implements ephemeral.Outbox.
func (s *Sender) Presence(p ephemeral.State) {
	s.edus.mu.Lock()
	defer s.edus.mu.Unlock()
	if len(s.edus.presence) < maxIntake {
		s.edus.presence[p.User] = p
		signal(s.edus.wake)
	}
}

// spreadEDUs hands news to the servers that it concerns, until ctx ends.
func (s *Sender) spreadEDUs(ctx context.Context) {
	for {
		select {
		case <-s.edus.wake:
		case <-ctx.Done():
			return
		}
		if err := s.spread(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.WithError(err).Warn("Typing, receipts or presence could not be sent to other servers")
		}
	}
}

func (s *Sender) spread(ctx context.Context) error {
	s.edus.mu.Lock()
	typing, receipts, present := s.edus.typing, s.edus.receipts, s.edus.presence
	s.edus.typing, s.edus.receipts, s.edus.presence = map[typingKey]bool{}, map[receiptKey]receipt{}, map[string]presence{}
	newcomers := s.takeNewcomers()
	s.edus.mu.Unlock()
	for n, pos := range newcomers {
		switch server := event.ServerOf(n.user); {
		case server != s.o.ServerName:
			s.welcome(n)
			if err := s.giveSticky(ctx, n, pos); err != nil { // a start gives them again; the rest is not to be lost with them
				s.o.Log.WithError(err).WithField("server", server).Warn("Sticky events could not be given to a server that came into a room")
			}
		case s.passing != nil:
			for _, p := range s.passing.Present([]string{n.user}) {
				present[p.User] = p
			}
		}
	}
	if len(typing)+len(receipts)+len(present) == 0 {
		return nil
	}
	rooms := map[string][]string{} // room → servers
	return s.o.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		for k, v := range typing {
			if err := s.tellRoom(tx, rooms, k.room, func(d *destination) { d.edus.typing[k] = v }); err != nil {
				return err
			}
		}
		for k, v := range receipts {
			if err := s.tellRoom(tx, rooms, k.room, func(d *destination) { d.edus.receipts[k] = v }); err != nil {
				return err
			}
		}
		for _, p := range present {
			if err := s.tellPartners(tx, rooms, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Sender) tellRoom(tx *sqldb.Tx, rooms map[string][]string, room string, add func(*destination)) error {
	servers, err := s.serversOf(tx, rooms, room)
	for _, server := range servers {
		s.destination(server).note(add)
	}
	return err
}

// tellPartners tells the servers that share a room with a user.
func (s *Sender) tellPartners(tx *sqldb.Tx, rooms map[string][]string, p presence) error {
	told := map[string]bool{}
	for _, room := range s.o.Hub.JoinedRooms(p.User) {
		servers, err := s.serversOf(tx, rooms, room)
		if err != nil {
			return err
		}
		for _, server := range servers {
			if !told[server] {
				told[server] = true
				s.destination(server).note(func(d *destination) { d.edus.presence[p.User] = p })
			}
		}
	}
	return nil
}

func (s *Sender) serversOf(tx *sqldb.Tx, rooms map[string][]string, room string) ([]string, error) {
	if servers, ok := rooms[room]; ok {
		return servers, nil
	}
	key, err := s.o.Store.RoomTx(tx, room)
	if err != nil {
		return nil, err
	}
	servers, err := s.o.Store.Servers(tx, key.NID)
	rooms[room] = servers
	return servers, err
}

// note adds an EDU, unless the server is down or has too many waiting: then it is reminded later.
func (d *destination) note(add func(*destination)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failures > 0 || d.standing.retired || d.edus.len() >= maxWaitingEDUs {
		if d.missed == 0 {
			d.missed = d.s.marks.earlier()
		}
		return
	}
	add(d)
	d.kick()
}
