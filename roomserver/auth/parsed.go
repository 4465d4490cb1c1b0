package auth

import (
	"sync/atomic"

	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// Parsed is what the rules read of a state's m.room.create, m.room.power_levels and m.room.join_rules, parsed once. It
// is immutable. Whoever checks many events against one state (a room handle, state resolution) keeps it and passes it
// back to Parse, which parses again only what changed.
type Parsed struct {
	create, levels, rules *event.Event
	founder               string          // whose first join needs no permission; level 100 while the room has no power levels
	creators              map[string]bool // since version 12: rank above all levels
	federate              bool
	powers                Powers
	joinRule              string
}

// Parse reads the three events of the state. last, which may be nil, is reused where its events are still the state's.
func Parse(s State, last *Parsed) *Parsed {
	create, levels, rules := s.Lookup(typeCreate, ""), s.Lookup(typePowerLevels, ""), s.Lookup(typeJoinRules, "")
	if last == nil {
		last = &Parsed{federate: true, joinRule: Invite}
	} else if last.create == create && last.levels == levels && last.rules == rules {
		return last
	}
	p := *last
	if p.create != create {
		p.readCreate(create)
	}
	if p.create != last.create || p.levels != levels || p.powers.l == nil {
		p.levels, p.powers = levels, powersOf(&p, levels)
	}
	if p.rules != rules {
		p.rules, p.joinRule = rules, JoinRule(rules)
	}
	return &p
}

func (p *Parsed) readCreate(create *event.Event) {
	p.create, p.federate, p.creators, p.founder = create, true, nil, ""
	if create == nil {
		return
	}
	p.federate = gjson.GetBytes(create.ContentJSON(), `m\.federate`).Type != gjson.False
	p.founder = Founder(create)
	if creators := Creators(create); creators != nil {
		p.creators = make(map[string]bool, len(creators))
		for _, user := range creators {
			p.creators[user] = true
		}
	}
}

// Powers returns the power levels of the state.
func (p *Parsed) Powers() Powers { return p.powers }

// JoinRule returns the join rule of the state, "invite" when it has none.
func (p *Parsed) JoinRule() string { return p.joinRule }

// Founder returns the user who made the room: content.creator up to room version 10, the sender since. Up to version
// 11 the founder has level 100 as long as the room has no m.room.power_levels.
func Founder(create *event.Event) string {
	if create.V().SenderIsCreator {
		return create.Sender()
	}
	creator := gjson.GetBytes(create.ContentJSON(), "creator")
	if creator.Type != gjson.String {
		return ""
	}
	return creator.Str
}

// Creators returns the users with infinite power (room version 12): the sender of m.room.create and its
// additional_creators. It is nil for earlier versions.
func Creators(create *event.Event) []string {
	if !create.V().PrivilegedCreators {
		return nil
	}
	creators, known := []string{create.Sender()}, map[string]bool{create.Sender(): true}
	for _, user := range gjson.GetBytes(create.ContentJSON(), "additional_creators").Array() {
		if user.Type == gjson.String && !known[user.Str] {
			known[user.Str] = true
			creators = append(creators, user.Str)
		}
	}
	return creators
}

// JoinRule returns the join rule that an m.room.join_rules event sets; "invite" for nil and for content without one.
func JoinRule(rules *event.Event) string {
	if rules == nil {
		return Invite
	}
	rule := gjson.GetBytes(rules.ContentJSON(), "join_rule")
	if rule.Type != gjson.String {
		return Invite
	}
	return rule.Str
}

// Membership returns the membership that an m.room.member event sets, "" for nil and for content without one.
func Membership(member *event.Event) string {
	if member == nil {
		return ""
	}
	membership := gjson.GetBytes(member.ContentJSON(), "membership")
	if membership.Type != gjson.String {
		return ""
	}
	return membership.Str
}

// parsedState is a State that keeps its own Parsed.
type parsedState interface{ parse() *Parsed }

func parsedOf(s State) *Parsed {
	if own, ok := s.(parsedState); ok {
		return own.parse()
	}
	return Parse(s, nil)
}

// events is the State that NewState makes.
type events struct {
	byTuple map[Tuple]*event.Event
	parsed  atomic.Pointer[Parsed]
}

// NewState makes a State of state events; of two with one type and state key the last counts, others than state events
// are left out. It is safe for concurrent use and parses what the rules read once.
func NewState(list []*event.Event) State {
	s := &events{byTuple: make(map[Tuple]*event.Event, len(list))}
	for _, e := range list {
		if key, isState := e.Key(); isState {
			s.byTuple[Tuple{e.Type(), key}] = e
		}
	}
	return s
}

func (s *events) Lookup(evType, stateKey string) *event.Event {
	return s.byTuple[Tuple{evType, stateKey}]
}

func (s *events) parse() *Parsed {
	if p := s.parsed.Load(); p != nil {
		return p
	}
	p := Parse(s, nil)
	s.parsed.Store(p)
	return p
}
