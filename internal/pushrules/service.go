package pushrules

import (
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
)

// Hub is told that something durable at a position concerns a user.
type Hub interface {
	TouchUser(user string, pos int64)
}

// Ignores knows whom local users ignore (Client-Server API, "Ignoring Users").
type Ignores interface {
	// AnyoneIgnores reports whether some local user ignores the sender.
	AnyoneIgnores(sender string) bool
	// Ignores reports whether a local user ignores the sender.
	Ignores(user, sender string) bool
	// HidesInvite reports whether a local user is not to hear of an invite by inviter.
	HidesInvite(user, inviter string) bool
}

// Options are what a Service needs.
type Options struct {
	DB      *sqldb.DB
	Hub     Hub
	Log     *logrus.Entry
	Ignores Ignores // nil: nobody ignores anybody

	CacheBytes int64 // about what compiled rules may take; 0 means 16 MiB
	Registerer prometheus.Registerer
}

// Service owns the rules of the local users and their unread counts.
type Service struct {
	db      *sqldb.DB
	hub     Hub
	log     *logrus.Entry
	ignores Ignores
	cache   *rulesets
	index   *index
	tallies *tallies

	seed  maphash.Seed
	locks [64]sync.Mutex // by user: a change reads the rules that it replaces
}

// New returns a service. Load it before the first event.
func New(o Options) *Service {
	if o.CacheBytes == 0 {
		o.CacheBytes = 16 << 20
	}
	if o.Ignores == nil {
		o.Ignores = nobody{}
	}
	return &Service{db: o.DB, hub: o.Hub, log: o.Log, ignores: o.Ignores,
		cache: newRulesets(o.CacheBytes, o.Registerer), index: newIndex(), tallies: newTallies(o.Registerer), seed: maphash.MakeSeed()}
}

// OnChange sets who is told of users whose unread counts may have become others
// without a new event for them: they read something or changed their rules. It
// runs on the writer's goroutine. Call it before the first event.
func (s *Service) OnChange(fn func(user string)) { s.tallies.changed = fn }

type nobody struct{}

func (nobody) AnyoneIgnores(string) bool       { return false }
func (nobody) Ignores(string, string) bool     { return false }
func (nobody) HidesInvite(string, string) bool { return false }

// Load reads the rules that events must be compared with one by one.
func (s *Service) Load(ctx context.Context) error {
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		rows, err := sqldb.Collect(tx, selectIndexed, scanUserRow, true)
		if err != nil {
			return err
		}
		for _, r := range rows {
			st, err := decode(r.data)
			if err != nil {
				return err
			}
			s.index.set(r.user, compile(st).keys)
		}
		return nil
	})
}

// Global returns all of a user's rules.
func (s *Service) Global(ctx context.Context, user string) (Global, error) {
	st, err := s.read(ctx, user)
	if err != nil {
		return Global{}, err
	}
	return st.render(user), nil
}

// Ruleset returns all of a user's rules as the content of m.push_rules.
func (s *Service) Ruleset(ctx context.Context, user string) (json.RawMessage, error) {
	g, err := s.Global(ctx, user)
	if err != nil {
		return nil, err
	}
	return json.Marshal(g)
}

// RulesetTx is Ruleset inside a snapshot.
func (s *Service) RulesetTx(tx *sqldb.Tx, user string) (json.RawMessage, error) {
	r, err := readRow(tx, user)
	if err != nil {
		return nil, err
	}
	st, err := decode(r.data)
	if err != nil {
		return nil, err
	}
	return json.Marshal(st.render(user))
}

// RulesChangedSince reports whether a user's rules changed in (from, to].
func (s *Service) RulesChangedSince(tx *sqldb.Tx, user string, from, to int64) (bool, error) {
	r, err := readRow(tx, user)
	return r.pos > from && r.pos <= to, err
}

// Rule returns one rule; 404 M_NOT_FOUND when there is none.
func (s *Service) Rule(ctx context.Context, user string, k Kind, id string) (Rule, error) {
	st, err := s.read(ctx, user)
	if err != nil {
		return Rule{}, err
	}
	r, ok := st.rule(k, id, user)
	if !ok {
		return Rule{}, errNoRule
	}
	return r, nil
}

// Put makes or changes a rule of the user's own, next to the rule that before or
// after names; new rules come first.
func (s *Service) Put(ctx context.Context, user string, k Kind, id string, def *Definition, before, after string) error {
	return s.change(ctx, user, func(st *stored) error { return st.put(k, id, def, before, after) })
}

// Delete removes a rule of the user's own.
func (s *Service) Delete(ctx context.Context, user string, k Kind, id string) error {
	return s.change(ctx, user, func(st *stored) error { return st.delete(k, id) })
}

// SetEnabled switches a rule on or off, a default rule too.
func (s *Service) SetEnabled(ctx context.Context, user string, k Kind, id string, on bool) error {
	return s.change(ctx, user, func(st *stored) error { return st.setEnabled(k, id, on) })
}

// SetActions replaces the actions of a rule, a default rule's too.
func (s *Service) SetActions(ctx context.Context, user string, k Kind, id string, actions json.RawMessage) error {
	return s.change(ctx, user, func(st *stored) error { return st.setActions(k, id, actions) })
}

// CopyRoom gives a user's rule for a room to the room that replaces it (Client-Server
// API, "Room Upgrades"). A rule that the user has for the new room stays.
func (s *Service) CopyRoom(ctx context.Context, user, from, to string) error {
	err := s.change(ctx, user, func(st *stored) error {
		if !st.copyRoom(from, to) {
			return errNothing
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	return err
}

var errNothing = errors.New("there is nothing to change")

// DeleteUser forgets a deactivated user's rules.
func (s *Service) DeleteUser(ctx context.Context, user string) error {
	lock := s.lock(user)
	lock.Lock()
	defer lock.Unlock()
	return s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{
		Name:      "pushrules.delete",
		Positions: 1,
		Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(deleteRules, user)
			return err
		},
		Committed: func(pos int64) {
			s.cache.changed(user, pos)
			s.index.set(user, keys{})
		},
	})
}

func (s *Service) lock(user string) *sync.Mutex {
	return &s.locks[maphash.String(s.seed, user)%uint64(len(s.locks))]
}

func (s *Service) read(ctx context.Context, user string) (*stored, error) {
	var r row
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		r, err = readRow(tx, user)
		return err
	})
	if err != nil {
		return nil, err
	}
	return decode(r.data)
}

var errChanged = errors.New("push rules changed meanwhile")

// change edits a user's rules. The lock makes it alone on this node; another
// node's change shows as another position, and the edit is made again.
func (s *Service) change(ctx context.Context, user string, edit func(*stored) error) error {
	lock := s.lock(user)
	lock.Lock()
	defer lock.Unlock()
	var err error
	for range 5 {
		if err = s.tryChange(ctx, user, edit); !errors.Is(err, errChanged) {
			return err
		}
	}
	return err
}

func (s *Service) tryChange(ctx context.Context, user string, edit func(*stored) error) error {
	var r row
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		r, err = readRow(tx, user)
		return err
	})
	if err != nil {
		return err
	}
	st, err := decode(r.data)
	if err != nil {
		return err
	}
	if err := edit(st); err != nil {
		return err
	}
	data, err := st.encode()
	if err != nil {
		return err
	}
	return s.write(ctx, user, row{data, r.pos}, compile(st).keys)
}

// write replaces the row that was read at r.pos.
func (s *Service) write(ctx context.Context, user string, r row, k keys) error {
	return s.db.Do(context.WithoutCancel(ctx), &sqldb.Op{
		Name:      "pushrules",
		Positions: 1,
		Check: func(tx *sqldb.Tx) error {
			now, err := readRow(tx, user)
			if err == nil && now.pos != r.pos {
				err = errChanged
			}
			return err
		},
		Write: func(tx *sqldb.Tx, pos int64) error {
			_, err := tx.Exec(upsertRules, user, r.data, !k.empty(), pos)
			return err
		},
		Committed: func(pos int64) {
			s.cache.changed(user, pos)
			s.index.set(user, k)
			s.hub.TouchUser(user, pos)
			s.tallies.changed(user)
		},
	})
}

// rulesets returns the compiled rules of users, in their order, from the cache or in one read of
// a snapshot that holds every change up to at.
func (s *Service) rulesets(tx *sqldb.Tx, users []string, at int64) ([]*ruleset, error) {
	out, missing := s.cached(users)
	if len(missing) == 0 {
		return out, nil
	}
	rows, err := sqldb.Collect(tx, selectRulesOf, scanUserRow, missing)
	if err != nil {
		return nil, err
	}
	changed := make(map[string]*ruleset, len(rows))
	for _, r := range rows {
		st, err := decode(r.data)
		if err != nil {
			return nil, err
		}
		changed[r.user] = compile(st)
	}
	for i, u := range users {
		if out[i] != nil {
			continue
		}
		if out[i] = changed[u]; out[i] == nil {
			out[i] = unchanged
		}
		s.cache.put(u, out[i], at)
	}
	return out, nil
}

// cached returns what is known of the rules of users, in their order, and the users of whom nothing is.
func (s *Service) cached(users []string) (found []*ruleset, missing []string) {
	found = make([]*ruleset, len(users))
	for i, u := range users {
		if rs, ok := s.cache.get(u); ok {
			found[i] = rs
		} else {
			missing = append(missing, u)
		}
	}
	return found, missing
}
