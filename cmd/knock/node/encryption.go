package node

import (
	"context"
	"slices"
	"sync"

	keysapi "knock/clientapi/keys"
	"knock/federationapi/send"
	"knock/internal/e2ee"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func (n *Node) newEncryption() *e2ee.Service {
	p := &n.parts
	o := e2ee.Options{DB: n.db, Hub: n.hub, Rooms: company{p.store}, Accounts: p.account, ServerName: n.cfg.ServerName,
		Verify: event.VerifyJSON, Log: n.logs.Component("e2ee"), Registerer: n.metrics}
	if p.remote != nil {
		o.Remote, o.Outbox = p.remote, outbox{p.sender}
	}
	s := e2ee.New(o)
	if p.sender != nil {
		p.sender.Carry(s)
	}
	return s
}

func (n *Node) newKeysAPI() *keysapi.API {
	p := &n.parts
	return keysapi.New(keysapi.Options{E2EE: p.e2ee, DB: n.db, Published: n.hub.Published, Moves: p.sync.Reader().MovesSince,
		Confirm: p.accountAPI.Confirm,
		Position: func(token string) (int64, error) {
			pos, ok := n.syncPosition(token)
			if !ok {
				return 0, matrixerr.InvalidParam("The token must be the next_batch or pos of an answer of a sync")
			}
			return pos, nil
		}})
}

// outbox has the sender look for EDUs that must arrive.
type outbox struct{ s *send.Sender }

func (o outbox) Wake(servers []string) { o.s.Notify(servers) }

// company tells who is joined where as end-to-end encryption wants to know it.
type company struct{ s *store.Store }

func (c company) Servers(tx *sqldb.Tx, user string) ([]string, error) {
	return c.s.ServersWith(tx, user)
}

func (c company) SharedRooms(tx *sqldb.Tx, user string) ([]string, error) {
	return c.s.RoomsWithLocals(tx, user)
}

func (c company) Members(tx *sqldb.Tx, room string) ([]string, error) {
	key, err := c.s.RoomTx(tx, room)
	if err != nil {
		return nil, err
	}
	return c.s.Joined(tx, key.NID)
}

func (c company) Sharing(tx *sqldb.Tx, user string, others []string) ([]string, error) {
	return c.s.Sharing(tx, user, others)
}

// gatekeeper tells end-to-end encryption who comes into rooms and who leaves them: it follows the devices of those with
// whom rooms are shared, and tells their servers of those that are here.
type gatekeeper struct {
	e2ee   *e2ee.Service
	store  *store.Store
	server string // our name
	later  *later
}

func (g *gatekeeper) Load(context.Context, int64) error { return nil }
func (g *gatekeeper) Forget(int64)                      {}

// Prepare implements roomserver.Participant. What it returns sees the memberships after the event.
func (g *gatekeeper) Prepare(a *roomserver.Accepted) func(tx *sqldb.Tx, pos int64) error {
	user, isState := a.Event.Key()
	if !isState || a.Event.Type() != "m.room.member" {
		return nil
	}
	was := a.State.Lookup("m.room.member", user)
	in := auth.Membership(a.Event) == auth.Join
	if in == (was != nil && auth.Membership(was) == auth.Join) {
		return nil
	}
	room := a.RoomNID
	return func(tx *sqldb.Tx, pos int64) error {
		if in {
			return g.arrived(tx, pos, room, user)
		}
		return g.departed(tx, room, user)
	}
}

// maxAnnounced bounds the users whose devices a server is told of when it comes into a room. It asks for those that its
// users need; to be told spares it the answer that it remembers from before.
const maxAnnounced = 100

func (g *gatekeeper) arrived(tx *sqldb.Tx, pos, room int64, user string) error {
	if event.ServerOf(user) == g.server {
		servers, err := g.store.NewServersFor(tx, room, user)
		if err != nil {
			return err
		}
		return g.announce(tx, pos, user, servers)
	}
	server := event.ServerOf(user)
	users, err := g.store.NewUsersFor(tx, room, server, pos, maxAnnounced)
	for _, local := range users {
		if err == nil {
			err = g.announce(tx, pos, local, []string{server})
		}
	}
	return err
}

// Completed implements roomserver.Completer: servers of which nothing was known were told nothing, and some users were
// never there.
func (g *gatekeeper) Completed(c *roomserver.Completed) func(tx *sqldb.Tx, pos int64) error {
	if len(c.Servers) == 0 && len(c.Gone) == 0 {
		return nil
	}
	return func(tx *sqldb.Tx, pos int64) error {
		if err := g.e2ee.Unshared(tx, c.Gone); err != nil || len(c.Servers) == 0 {
			return err
		}
		users, err := g.store.LocalsOf(tx, c.RoomNID, maxAnnounced)
		for _, user := range users {
			if err != nil {
				return err
			}
			err = g.catchUp(tx, pos, user, c.Servers)
		}
		return err
	}
}

// catchUp tells of a user's devices those of servers that share a room with them.
func (g *gatekeeper) catchUp(tx *sqldb.Tx, pos int64, user string, servers []string) error {
	sharing, err := g.store.ServersWith(tx, user)
	if err != nil {
		return err
	}
	return g.announce(tx, pos, user, slices.DeleteFunc(slices.Clone(servers), func(s string) bool { return !slices.Contains(sharing, s) }))
}

func (g *gatekeeper) announce(tx *sqldb.Tx, pos int64, user string, servers []string) error {
	committed, err := g.e2ee.AnnounceDevices(tx, pos, user, servers)
	if err == nil {
		g.later.add(pos, committed)
	}
	return err
}

func (g *gatekeeper) departed(tx *sqldb.Tx, room int64, user string) error {
	gone := []string{user}
	if event.ServerOf(user) == g.server {
		here, err := g.store.HasLocals(tx, room)
		if err != nil || here {
			return err
		}
		if gone, err = g.store.JoinedElsewhere(tx, room); err != nil {
			return err
		}
	}
	return g.e2ee.Unshared(tx, gone)
}

// later keeps what is to be done once a position is published.
type later struct {
	mu   sync.Mutex
	list []postponed
}

type postponed struct {
	pos int64
	do  func()
}

func (l *later) add(pos int64, do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, postponed{pos, do})
}

// published does what waited for a position. What belongs to a transaction that failed is done too, for nothing.
func (l *later) published(pos int64) {
	l.mu.Lock()
	var due []postponed
	kept := l.list[:0]
	for _, p := range l.list {
		if p.pos <= pos {
			due = append(due, p)
		} else {
			kept = append(kept, p)
		}
	}
	l.list = kept
	l.mu.Unlock()
	for _, p := range due {
		p.do()
	}
}
