package slidingsync

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/state"
	"knock/roomserver/store"
)

// facts are what filters ask of a room's state. They are immutable.
type facts struct {
	set       *state.Set // from which they are; nil for invites and knocks
	unknown   bool       // the invite says nothing of the room
	typ       *string    // m.room.create's; nil: none
	encrypted bool
	named     bool   // name was looked for
	name      string // folded: the name and the alias, or the heroes
}

// needs says whether a filter asks for facts, and for the room's name.
func (f *filter) needs() (facts, name bool) {
	return f.encrypted != nil || f.types != nil || f.notTypes != nil || f.name != "", f.name != ""
}

// loadFacts makes sure that all entries have facts.
func (a *answer) loadFacts(ctx context.Context, names bool) error {
	var absent []*entry
	for _, e := range a.roster.order {
		if f := e.facts.Load(); f == nil || names && !f.named {
			absent = append(absent, e)
		}
	}
	if len(absent) <= fewFacts {
		return a.loadFew(ctx, absent, names)
	}
	for chunk := range slices.Chunk(absent, factsAtOnce) {
		err := a.read(ctx, func(tx *sqldb.Tx) error {
			for _, e := range chunk {
				if err := a.loadOne(tx, e, names); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	factsAtOnce = 500
	fewFacts    = 8
)

// loadFew takes the states of rooms from memory: something has happened there, so
// that is where they are.
func (a *answer) loadFew(ctx context.Context, list []*entry, names bool) error {
	for _, e := range list {
		var v roomserver.View
		var err error
		if e.kind() == joined {
			if v, err = a.o.Rooms.View(ctx, e.key.ID, a.roster.at); err != nil {
				return err
			}
		}
		err = a.read(ctx, func(tx *sqldb.Tx) error {
			if e.kind() != joined {
				return a.loadOne(tx, e, names)
			}
			f, err := a.factsIn(tx, e, v, names)
			e.facts.Store(f)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *answer) loadOne(tx *sqldb.Tx, e *entry, names bool) error {
	f, err := a.factsOf(tx, e, names)
	e.facts.Store(f)
	return err
}

func (a *answer) factsOf(tx *sqldb.Tx, e *entry, names bool) (*facts, error) {
	pos := a.roster.at
	switch e.kind() {
	case outside:
		return a.invitedFacts(tx, e)
	case gone:
		pos = e.row.Pos
	}
	ref, _, err := a.o.Rooms.Store.StateAt(tx, e.key.NID, pos)
	if errors.Is(err, store.ErrNotFound) {
		return &facts{unknown: true, named: true}, nil // left without ever having been here
	}
	if err != nil {
		return nil, err
	}
	return a.factsIn(tx, e, roomserver.View{State: ref}, names)
}

func (a *answer) factsIn(tx *sqldb.Tx, e *entry, v roomserver.View, names bool) (*facts, error) {
	f := &facts{set: v.State.Set, named: names}
	create, err := a.o.Rooms.StateEvent(tx, v, "m.room.create", "")
	if err != nil {
		return nil, err
	}
	if create != nil {
		f.typ = roomType(create.Event.ContentGet("type"))
	}
	encryption, err := a.o.Rooms.StateEvent(tx, v, "m.room.encryption", "")
	if err != nil {
		return nil, err
	}
	f.encrypted = encryption != nil
	if names {
		f.name, err = a.nameOf(tx, e, v)
	}
	return f, err
}

func roomType(v gjson.Result) *string {
	if v.Type != gjson.String {
		return nil
	}
	return &v.Str
}

// invitedFacts are what the stripped state of an invite or a knock says.
func (a *answer) invitedFacts(tx *sqldb.Tx, e *entry) (*facts, error) {
	list, err := a.o.Rooms.Stripped(tx, e.row)
	if err != nil {
		return nil, err
	}
	f := &facts{unknown: true, named: true}
	var name, alias string
	for _, raw := range list {
		ev := gjson.ParseBytes(raw)
		if ev.Get("state_key").Str != "" {
			continue
		}
		switch ev.Get("type").Str {
		case "m.room.create":
			f.unknown, f.typ = false, roomType(ev.Get("content.type"))
		case "m.room.encryption":
			f.unknown, f.encrypted = false, true
		case "m.room.name":
			name = ev.Get("content.name").Str
		case "m.room.canonical_alias":
			alias = ev.Get("content.alias").Str
		}
	}
	f.name = strings.ToLower(name + "\n" + alias)
	return f, nil
}

func (a *answer) nameOf(tx *sqldb.Tx, e *entry, v roomserver.View) (string, error) {
	var words []string
	for _, part := range [][2]string{{"m.room.name", "name"}, {"m.room.canonical_alias", "alias"}} {
		ev, err := a.o.Rooms.StateEvent(tx, v, part[0], "")
		if err != nil {
			return "", err
		}
		if ev != nil {
			words = append(words, ev.Event.ContentString(part[1]))
		}
	}
	if strings.Join(words, "") == "" {
		users, err := a.o.Reader.Heroes(tx, e.key.NID, v.State.Set, a.q.user)
		if err != nil {
			return "", err
		}
		for _, user := range users {
			m, err := a.o.Reader.Member(tx, v.State, user)
			if err != nil {
				return "", err
			}
			if m != nil {
				words = append(words, m.Event.ContentString("displayname"), user)
			}
		}
	}
	return strings.ToLower(strings.Join(words, "\n")), nil
}
