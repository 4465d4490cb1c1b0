// Package policy owns the rules by which this server, as a policy server, recommends events: policy lists in rooms
// (Client-Server API, "Moderation policy lists") and a few rules of the configuration.
package policy

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/gjson"

	"knock/internal/clock"
	"knock/internal/fold"
	"knock/internal/glob"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Options are the rules.
type Options struct {
	Rooms *roomserver.Server
	DB    *sqldb.DB
	Log   *logrus.Entry

	Serve       []string // rooms that are served; empty: all
	Lists       []string // rooms with policy lists
	DenyUsers   []string // patterns
	DenyServers []string // patterns
	DenyPhrases []string
	MaxMentions int // 0: no limit

	Clock clock.Clock // nil: the system's
}

// Judge decides. It is safe for concurrent use.
type Judge struct {
	o       Options
	own     rules
	phrases []string // folded

	mu    sync.Mutex
	lists map[string]*list
}

// list is the policy list of a room at one of its states.
type list struct {
	at    int64 // number of the state
	read  time.Time
	rules rules
}

// listTime is how long rules are believed to be the same while the room's state is: one may have been redacted.
const listTime = time.Minute

// New makes a judge.
func New(o Options) *Judge {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	j := &Judge{o: o, lists: map[string]*list{}}
	for _, pattern := range o.DenyUsers {
		j.own.users.add(pattern)
	}
	for _, pattern := range o.DenyServers {
		j.own.servers.add(pattern)
	}
	for _, phrase := range o.DenyPhrases {
		if folded := fold.Text(phrase); folded != "" {
			j.phrases = append(j.phrases, folded)
		}
	}
	return j
}

// Judge returns why an event is not recommended, "" when it is.
func (j *Judge) Judge(ctx context.Context, e *event.Event) (reason string, err error) {
	if len(j.o.Serve) > 0 && !slices.Contains(j.o.Serve, e.Room()) {
		return "this policy server does not serve the room", nil
	}
	if isOwnLeave(e) {
		return "", nil // nobody is kept in a room
	}
	who := subjectsOf(e)
	if reason := j.own.match(who); reason != "" {
		return reason, nil
	}
	for _, room := range j.o.Lists {
		l, err := j.list(ctx, room)
		if err != nil {
			return "", err
		}
		if reason := l.match(who); reason != "" {
			return reason, nil
		}
	}
	return j.content(e), nil
}

func isOwnLeave(e *event.Event) bool {
	target, isState := e.Key()
	return isState && e.Type() == "m.room.member" && target == e.Sender() && e.ContentString("membership") == "leave"
}

// subjects are what rules are about in an event.
type subjects struct {
	room  string
	users []string
}

// subjectsOf takes the sender and whom they invite. Who is kicked or banned may be anybody.
func subjectsOf(e *event.Event) subjects {
	s := subjects{room: e.Room(), users: []string{e.Sender()}}
	if target, isState := e.Key(); isState && e.Type() == "m.room.member" && e.ContentString("membership") == "invite" {
		s.users = append(s.users, target)
	}
	return s
}

// rules are the entities that a list bans.
type rules struct{ users, servers, rooms entities }

func (r *rules) match(s subjects) string {
	for _, user := range s.users {
		if r.users.match(user) {
			return "the user is on a list of banned users"
		}
		if r.servers.match(event.ServerOf(user)) {
			return "the user's server is on a list of banned servers"
		}
	}
	if r.rooms.match(s.room) {
		return "the room is on a list of banned rooms"
	}
	return ""
}

// entities are names and patterns of names.
type entities struct {
	names    map[string]bool
	patterns []string
}

func (n *entities) add(entity string) {
	if strings.ContainsAny(entity, "*?") {
		n.patterns = append(n.patterns, entity)
		return
	}
	if n.names == nil {
		n.names = map[string]bool{}
	}
	n.names[entity] = true
}

func (n *entities) match(name string) bool {
	return n.names[name] || slices.ContainsFunc(n.patterns, func(p string) bool { return glob.Match(p, name) })
}

// list returns the rules of a policy room as they are now; none while this server is not in it.
func (j *Judge) list(ctx context.Context, room string) (*rules, error) {
	v, err := j.o.Rooms.Current(ctx, room)
	if errors.Is(err, roomserver.ErrUnknownRoom) {
		j.o.Log.WithField("room", room).Warn("A policy list is not known here: have a user of this server join it")
		return &rules{}, nil
	}
	if err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if known := j.lists[room]; known != nil && known.at == v.State.NID && j.o.Clock().Sub(known.read) < listTime {
		return &known.rules, nil
	}
	l := &list{at: v.State.NID, read: j.o.Clock()}
	err = j.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		events, err := j.o.Rooms.StateEvents(tx, v.State, isRule)
		if err != nil {
			return err
		}
		l.rules = rules{}
		for _, e := range events {
			l.rules.take(e.Event)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	j.lists[room] = l
	return &l.rules, nil
}

// ruleTypes are the state events of policy lists, with the names that they had before; the kind is the last word.
var ruleTypes = []string{"m.policy.rule.", "m.room.rule.", "org.matrix.mjolnir.rule."}

func isRule(t store.Tuple) bool { return kindOf(t.Type) != "" }

func kindOf(typ string) string {
	for _, prefix := range ruleTypes {
		if kind, ok := strings.CutPrefix(typ, prefix); ok {
			return kind
		}
	}
	return ""
}

// maxPattern bounds what a rule may name.
const maxPattern = 512

func (r *rules) take(e *event.Event) {
	entity, what := e.ContentString("entity"), e.ContentString("recommendation")
	if entity == "" || len(entity) > maxPattern || what != "m.ban" && what != "org.matrix.mjolnir.ban" {
		return
	}
	switch kindOf(e.Type()) {
	case "user":
		r.users.add(entity)
	case "server":
		r.servers.add(entity)
	case "room":
		r.rooms.add(entity)
	}
}

// content judges what a message says.
func (j *Judge) content(e *event.Event) string {
	content := gjson.ParseBytes(e.ContentJSON())
	if j.o.MaxMentions > 0 && len(content.Get(`m\.mentions.user_ids`).Array()) > j.o.MaxMentions {
		return "it mentions too many users"
	}
	if len(j.phrases) == 0 {
		return ""
	}
	for _, path := range []string{"body", "formatted_body", `m\.new_content.body`, `m\.new_content.formatted_body`, "topic", "name", "displayname"} {
		text := content.Get(path)
		if text.Type != gjson.String {
			continue
		}
		folded := fold.Text(text.Str)
		if slices.ContainsFunc(j.phrases, func(p string) bool { return strings.Contains(folded, p) }) {
			return "its text has a phrase that is not wanted"
		}
	}
	return ""
}
