// Package appservice owns application services, such as bridges and bots: their registrations and namespaces, what is
// sent to them and how far each got it, and what they are asked (Application Service API). It is the only reader and
// writer of the tables in 0170_appservices.sql and 0260_appservice_extras.sql.
//
// The event log is the queue of every service: a service has a position up to which it got everything, and a short list
// of newer events in memory. Which services an event is for is decided from memory, by the state before the event. What
// is no event, such as receipts, is looked up when the hub says that it changed, and kept with the transaction that it
// goes into until the service has taken that.
package appservice

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"

	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
)

// Options are what Services need.
type Options struct {
	ServerName    string
	Registrations []Registration
	DB            *sqldb.DB
	Hub           *stream.Hub
	// Retry is how long the first pause after a failure is; each further one is twice as long, up to five minutes. 0 is
	// a second.
	Retry      time.Duration
	Log        *logrus.Entry         // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// Services are the application services of a node. A nil *Services has none.
type Services struct {
	o       Options
	reg     *registry
	rooms   *roomserver.Server
	sub     *stream.Subscription // nil when there is nothing to send
	live    *tracker
	client  *client
	watch   *watch
	from    Sources
	aliases aliasIndex
	asked   *questions

	protocols protocols
}

// New makes Services. Use sets the rooms, and Run does the work.
func New(o Options) *Services {
	if o.Log == nil {
		l := logrus.New()
		l.SetLevel(logrus.PanicLevel)
		o.Log = logrus.NewEntry(l)
	}
	if o.Retry <= 0 {
		o.Retry = time.Second
	}
	s := &Services{o: o, reg: newRegistry(o.ServerName, o.Registrations, o.Registerer), asked: newQuestions(),
		protocols: protocols{known: map[string]knownProtocol{}}}
	s.client = &client{http: &http.Client{Transport: transport(), CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the token is for the address in the registration alone
	}}}
	s.watch = &watch{reg: s.reg, rooms: map[string]*attendance{}}
	for _, v := range s.reg.list {
		if v.URL != "" {
			v.link = newLink(s, v)
			if v.link.marks != nil {
				s.watch.links = append(s.watch.links, v.link)
			}
			if s.sub == nil {
				s.sub = o.Hub.Subscribe(subscribed)
			}
		}
	}
	if len(s.watch.links) > 0 {
		o.Hub.Watch(s.watch)
	}
	return s
}

// subscribed is how many changes may wait to be looked at; beyond it they are read from the log.
const subscribed = 8192

// Use sets the room server, whose events the services get. Call it before Run.
func (s *Services) Use(rooms *roomserver.Server) {
	s.rooms = rooms
	s.live = s.newTracker()
}

// UseSources sets where what is no event comes from. Call it before Run.
func (s *Services) UseSources(from Sources) {
	s.from = from
	if len(s.watch.links) > 0 {
		from.Keys.OnKeyCounts(s.watch.keysChanged)
		s.o.DB.OnPublish(s.watch.published)
	}
}

// Any says whether there are any services.
func (s *Services) Any() bool { return s != nil && len(s.reg.list) > 0 }

// Token finds the service of an as_token; nil for any other token.
func (s *Services) Token(token string) *Service {
	if s == nil {
		return nil
	}
	return s.reg.token(token)
}

// ByID finds a service; nil when there is none.
func (s *Services) ByID(id string) *Service {
	if s == nil || id == "" {
		return nil
	}
	return s.reg.byID[id]
}

// Limited says whether requests of a service as a user are rate-limited.
func (s *Services) Limited(id, userID string) bool {
	v := s.ByID(id)
	return v == nil || v.Limited(userID)
}

// UserTaken says whether a user id is for services other than the named one alone.
func (s *Services) UserTaken(userID, service string) bool {
	return s != nil && s.taken(s.reg.user(userID), service)
}

// AliasTaken says whether an alias is for services other than the named one alone.
func (s *Services) AliasTaken(alias, service string) bool {
	return s != nil && s.taken(s.reg.alias(alias), service)
}

func (s *Services) taken(c claim, service string) bool {
	if v := s.ByID(service); v != nil {
		return c.exclusive&^v.bit != 0
	}
	return c.exclusive != 0
}

// Senders are the user ids of the services themselves: they must exist.
func (s *Services) Senders() map[string]string {
	out := map[string]string{}
	for _, v := range s.reg.list {
		out[v.ID] = v.Sender
	}
	return out
}

// Run sends to the services until ctx ends.
func (s *Services) Run(ctx context.Context) error {
	defer s.client.http.CloseIdleConnections()
	if s.sub == nil {
		<-ctx.Done()
		return nil
	}
	if err := s.begin(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var all errgroup.Group
	all.Go(func() error { s.dispatch(ctx); return nil })
	for _, v := range s.reg.list {
		if v.link != nil {
			all.Go(func() error { v.link.run(ctx); return nil })
		}
	}
	return all.Wait()
}

// dispatch hands new events to the services that they are for.
func (s *Services) dispatch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.sub.C:
			if s.sub.Overflowed() {
				s.fallBehind()
			}
			s.handOut(ctx, c)
		}
	}
}

func (s *Services) fallBehind() {
	for _, v := range s.reg.list {
		if v.link != nil {
			v.link.fallBehind()
		}
	}
}

func (s *Services) handOut(ctx context.Context, c stream.Change) {
	e, err := s.rooms.Store.LoadOne(ctx, c.EventNID)
	var in set
	if err == nil {
		in, err = s.interested(ctx, s.live, c.Room, e)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.o.Log.WithError(err).Warn("For whom an event is could not be found out; it is looked up again in the log")
		}
		s.fallBehind()
		return
	}
	s.reg.each(in, func(v *Service) {
		if v.link != nil {
			v.link.push(due{c.Pos, c.EventNID})
		}
	})
}
