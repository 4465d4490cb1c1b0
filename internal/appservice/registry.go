package appservice

import (
	"crypto/sha256"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/cache"
)

// Service is one application service of this node. It does not change.
type Service struct {
	Registration
	Sender string // user id of sender_localpart

	bit  set
	reg  *registry
	link *link // nil without a URL
}

// set is a set of services, a bit each.
type set uint64

// registry answers to which services ids belong. Answers about users and rooms are kept: the same ones come again with
// every event.
type registry struct {
	server  string
	list    []*Service
	byToken map[[sha256.Size]byte]*Service
	byID    map[string]*Service
	users   *cache.Cache[string, claim]
	rooms   *cache.Cache[string, claim]
}

// claim are the services to whose namespaces an id belongs, and those among them that have it for themselves.
type claim struct{ in, exclusive set }

func newRegistry(server string, regs []Registration, metrics prometheus.Registerer) *registry {
	r := &registry{server: server, byToken: map[[sha256.Size]byte]*Service{}, byID: map[string]*Service{},
		users: cache.New(cache.Options[string, claim]{Name: "appservice_users", Entries: 100_000, Shards: 4, Registerer: metrics}),
		rooms: cache.New(cache.Options[string, claim]{Name: "appservice_rooms", Entries: 50_000, Shards: 4, Registerer: metrics})}
	for i, reg := range regs {
		s := &Service{Registration: reg, Sender: "@" + reg.SenderLocalpart + ":" + server, bit: 1 << i, reg: r}
		r.list = append(r.list, s)
		r.byToken[sha256.Sum256([]byte(reg.ASToken))] = s
		r.byID[reg.ID] = s
	}
	return r
}

// token finds the service of an as_token. It is looked up by its hash, so that the time it takes says nothing of how
// much of a guess was right.
func (r *registry) token(token string) *Service {
	if len(r.list) == 0 || token == "" || len(token) > maxToken {
		return nil
	}
	return r.byToken[sha256.Sum256([]byte(token))]
}

func (r *registry) local(id string) bool {
	_, server, ok := strings.Cut(id, ":")
	return ok && server == r.server
}

// user are the services of a local user; those of other servers belong to none.
func (r *registry) user(id string) claim {
	if len(r.list) == 0 || !r.local(id) {
		return claim{}
	}
	if c, ok := r.users.Get(id); ok {
		return c
	}
	c := r.claims(id, func(s *Service) []Namespace { return s.Users })
	for _, s := range r.list {
		if s.Sender == id {
			c.in |= s.bit
			c.exclusive |= s.bit
		}
	}
	r.users.Put(id, c)
	return c
}

func (r *registry) room(id string) claim {
	if c, ok := r.rooms.Get(id); ok {
		return c
	}
	c := r.claims(id, func(s *Service) []Namespace { return s.Rooms })
	r.rooms.Put(id, c)
	return c
}

func (r *registry) alias(id string) claim {
	if len(r.list) == 0 || !r.local(id) {
		return claim{}
	}
	return r.claims(id, func(s *Service) []Namespace { return s.Aliases })
}

func (r *registry) claims(id string, of func(*Service) []Namespace) (c claim) {
	if len(id) > 255 {
		return c
	}
	for _, s := range r.list {
		for _, n := range of(s) {
			if !n.Pattern.MatchString(id) {
				continue
			}
			c.in |= s.bit
			if n.Exclusive {
				c.exclusive |= s.bit
			}
		}
	}
	return c
}

// each calls fn for the services of a set, in the order of the configuration.
func (r *registry) each(in set, fn func(*Service)) {
	for _, s := range r.list {
		if in&s.bit != 0 {
			fn(s)
		}
	}
}

// OwnsUser says whether a user belongs to the service: it is the sender or in one of its namespaces.
func (s *Service) OwnsUser(userID string) bool { return s.reg.user(userID).in&s.bit != 0 }

// OwnsAlias says whether an alias is in one of the service's namespaces.
func (s *Service) OwnsAlias(alias string) bool { return s.reg.alias(alias).in&s.bit != 0 }

func (s *Service) takesEphemeral() bool { return s.ReceiveEphemeral || s.UnstableEphemeral }

// Limited says whether requests of the service as this user are rate-limited.
func (s *Service) Limited(userID string) bool {
	return s.RateLimited && userID != "" && userID != s.Sender
}

// Provides says whether the service has registered a third-party protocol.
func (s *Service) Provides(protocol string) bool {
	for _, p := range s.Protocols {
		if p == protocol {
			return true
		}
	}
	return false
}
