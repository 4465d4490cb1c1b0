package pushrules

import (
	"context"
	"slices"
	"time"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
)

// prepareTimeout bounds the reading of rules while a room waits.
const prepareTimeout = 5 * time.Second

// Evaluate returns what an event is to a user, nil when no rule matches. A
// user's own events are nothing to them.
func (s *Service) Evaluate(ctx context.Context, user string, o *Occurrence) (*Outcome, error) {
	if user == o.Sender {
		return nil, nil
	}
	sets, err := s.readRulesets(ctx, []string{user})
	if err != nil {
		return nil, err
	}
	return sets[0].evaluate(newSubject(o), person{user}), nil
}

// Outcomes calls fn for each of the given local users whom an event notifies, but
// not for its sender and those who ignore the sender. The rules of users to whom
// the event is only what its class says are asked once for all who have the same.
func (s *Service) Outcomes(ctx context.Context, o *Occurrence, users []string, fn func(user string, out *Outcome)) error {
	subject := newSubject(o)
	class := classify(subject)
	special := map[string]bool{}
	for _, u := range s.candidates(subject, class) {
		special[u] = true
	}
	uninvited := "" // who is invited and does not want to know
	if subject.str("type") == "m.room.member" {
		user := subject.str("state_key")
		special[user] = true
		if subject.str("content", "membership") == "invite" && s.ignores.HidesInvite(user, o.Sender) {
			uninvited = user
		}
	}
	sets, err := s.readRulesets(ctx, users)
	if err != nil {
		return err
	}
	var usual *Outcome
	if class.countable() {
		usual = unchanged.outcome(subject, class)
	}
	ignored := s.ignores.AnyoneIgnores(o.Sender)
	for i, u := range users {
		if u == o.Sender || u == uninvited || ignored && s.ignores.Ignores(u, o.Sender) {
			continue
		}
		out := usual
		if rs := sets[i]; special[u] {
			out = rs.evaluate(subject, person{u})
		} else if rs != unchanged && class.countable() {
			out = rs.outcome(subject, class)
		}
		if out != nil && out.Notify {
			fn(u, out)
		}
	}
	return nil
}

func (s *Service) readRulesets(ctx context.Context, users []string) ([]*ruleset, error) {
	if sets, missing := s.cached(users); len(missing) == 0 {
		return sets, nil
	}
	at := s.cache.newest()
	var sets []*ruleset
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		sets, err = s.rulesets(tx, users, at)
		return err
	})
	return sets, err
}

// Prepare works out what an event does to unread counts. Call it outside the
// writer, in the order in which a room's events enter its timeline; call what it
// returns in the event's transaction, with the event's position. It returns nil
// when there is nothing to write.
func (s *Service) Prepare(ctx context.Context, o *Occurrence) func(tx *sqldb.Tx, pos int64) error {
	subject := newSubject(o)
	e := counted{room: o.RoomNID, thread: subject.thread(), class: classify(subject)}
	if !e.class.countable() {
		e.class = 0
	}
	if s.ignores.AnyoneIgnores(o.Sender) {
		e.ignored = o.Sender
	}
	e.others = s.exceptions(ctx, subject, e.class)
	e.reader, e.readThread = ownRead(subject, e.thread)
	if e.class == 0 && len(e.others) == 0 && e.reader == "" {
		return nil
	}
	return func(tx *sqldb.Tx, pos int64) error {
		s.tallies.batch(tx).event(tx, &e, pos)
		return nil
	}
}

// counted is what one event does to counts.
type counted struct {
	room    int64
	thread  string
	class   Class
	ignored string      // the sender, when somebody here ignores them
	others  []exception // users to whom the event is not what its class says

	reader     string // local sender, whose own event moves their read position
	readThread string
}

type exception struct {
	user  string
	flags int64
}

// ownRead returns how far the event moves its sender's read position: an own
// message reads its thread, a join everything before it. Other changes of the
// own membership (names, pictures) say nothing about what was read.
func ownRead(s *subject, thread string) (user, readThread string) {
	if !s.Local(s.Sender) {
		return "", ""
	}
	if s.str("type") != "m.room.member" {
		return s.Sender, thread
	}
	joins := s.str("content", "membership") == "join" && s.str("state_key") == s.Sender
	if joins && !s.IsMember(s.Sender) {
		return s.Sender, Unthreaded
	}
	return "", ""
}

// exceptions evaluates the event for the users to whom it may be something else
// than its class says, and returns those to whom it is.
func (s *Service) exceptions(ctx context.Context, e *subject, class Class) []exception {
	users := s.candidates(e, class)
	if len(users) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	sets, err := s.readRulesets(ctx, users)
	if err != nil {
		// The event must not fail for a count: under the default rules
		// mentions still count.
		s.log.WithError(err).Warn("push rules could not be read; an event is counted under the default rules")
		sets = slices.Repeat([]*ruleset{unchanged}, len(users))
	}
	var out []exception
	for i, u := range users {
		rs := sets[i]
		if flags := rs.evaluate(e, person{u}).flags(); flags != rs.flags(e, class) {
			out = append(out, exception{u, flags})
		}
	}
	return out
}

// candidates are the local members whom the event mentions, or whose rules the
// index finds, without the sender and those who ignore the sender.
func (s *Service) candidates(e *subject, class Class) []string {
	seen := map[string]bool{e.Sender: true}
	ignored := s.ignores.AnyoneIgnores(e.Sender)
	var users []string
	add := func(user string) {
		if seen[user] {
			return
		}
		seen[user] = true
		if e.IsMember(user) && !(ignored && s.ignores.Ignores(user, e.Sender)) {
			users = append(users, user)
		}
	}
	if v, ok := e.property(mentionsProperty.path); ok && v.IsArray() {
		v.ForEach(func(_, id gjson.Result) bool {
			if id.Type == gjson.String {
				add(id.Str)
			}
			return true
		})
	}
	s.index.candidates(e, class, add)
	return users
}

var mentionsProperty = newProperty(`content.m\.mentions.user_ids`)

// MarkRead moves a user's read position in a thread (an event id, Main or
// Unthreaded) forward to the event at pos, in the receipt's transaction. Backward
// moves are left out.
func (s *Service) MarkRead(tx *sqldb.Tx, user string, room int64, thread string, pos int64) {
	b := s.tallies.batch(tx)
	b.read(user, room, thread, pos)
	b.receipts[userRoom{user, room}] = true
}
