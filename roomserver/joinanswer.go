package roomserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tidwall/gjson"

	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// Bounds of an answer to send_join.
const (
	maxJoinEvents = 400_000
	maxJoinBytes  = 1 << 30
)

// joinAnswer collects and checks what a server answers to send_join.
type joinAnswer struct {
	s     *Server
	v     *event.Version
	room  string
	join  *event.Event
	state []*event.Event
	byID  map[string]*event.Event
	bytes int
	bad   map[string]bool // ids of events whose signatures or auth events do not hold
	order []*event.Event  // all good ones, auth events first
}

func (a *joinAnswer) addState(raw json.RawMessage) error {
	e, err := a.add(raw)
	if err == nil && e != nil {
		a.state = append(a.state, e)
	}
	return err
}

func (a *joinAnswer) addAuth(raw json.RawMessage) error {
	_, err := a.add(raw)
	return err
}

// add takes one event; one that does not parse is left out, and what cites it
// will fail.
func (a *joinAnswer) add(raw json.RawMessage) (*event.Event, error) {
	if a.byID == nil {
		a.byID = map[string]*event.Event{}
	}
	if a.bytes += len(raw); a.bytes > maxJoinBytes || len(a.byID) >= maxJoinEvents {
		return nil, ErrTooLarge
	}
	e, err := event.Parse(a.v, raw)
	if err != nil || e.Room() != a.room {
		return nil, nil
	}
	if known := a.byID[e.EventID()]; known != nil {
		return known, nil
	}
	a.byID[e.EventID()] = e
	return e, nil
}

func (a *joinAnswer) setEvent(raw json.RawMessage) error {
	e, err := event.Parse(a.v, raw)
	if err != nil {
		return err
	}
	if e.EventID() != a.join.EventID() {
		return errors.New("the join came back as another event")
	}
	a.join = e
	return nil
}

// check verifies the signatures of everything and applies the auth rules to
// each event and to the join.
func (a *joinAnswer) check(ctx context.Context) error {
	if err := a.verify(ctx); err != nil {
		return err
	}
	a.order = authOrder(a.byID, a.bad)
	for _, e := range a.order {
		if !a.allowed(e) {
			a.bad[e.EventID()] = true
		}
	}
	a.order = slices.DeleteFunc(a.order, func(e *event.Event) bool { return a.bad[e.EventID()] })
	a.state = slices.DeleteFunc(a.state, func(e *event.Event) bool {
		_, isState := e.Key()
		return a.bad[e.EventID()] || !isState
	})
	st := auth.NewState(a.state)
	create := st.Lookup("m.room.create", "")
	if create == nil {
		return errors.New("there is no m.room.create")
	}
	if version := gjson.GetBytes(create.ContentJSON(), "room_version"); version.Exists() && version.Str != a.v.ID {
		return errors.New("the room has another version than was said")
	}
	return auth.Check(a.join, st)
}

func (a *joinAnswer) verify(ctx context.Context) error {
	a.bad = map[string]bool{}
	if a.s.Verifier == nil {
		return nil
	}
	all := make([]*event.Event, 0, len(a.byID)+1)
	for _, e := range a.byID {
		all = append(all, e)
	}
	for i, err := range a.s.Verifier.VerifyEvents(ctx, append(all, a.join)) {
		if err == nil {
			continue
		}
		if i == len(all) {
			return fmt.Errorf("the join itself: %w", err)
		}
		a.bad[all[i].EventID()] = true
	}
	return ctx.Err()
}

// allowed checks an event against the auth events that it cites.
func (a *joinAnswer) allowed(e *event.Event) bool {
	cited, ok := a.cites(e)
	return ok && a.permits(e, cited)
}

// authOrder returns the events so that each comes after the auth events that it
// cites; those marked bad are left out.
func authOrder(byID map[string]*event.Event, bad map[string]bool) []*event.Event {
	return order(byID, bad, (*event.Event).AuthRefs)
}

// order returns events so that each comes after those that it refers to. On a
// cycle, which only a liar can claim, some order is returned.
func order(byID map[string]*event.Event, bad map[string]bool, refs func(*event.Event) []string) []*event.Event {
	const visiting, done = 1, 2
	mark := make(map[string]int, len(byID))
	out := make([]*event.Event, 0, len(byID))
	roots := slices.Sorted(maps.Keys(byID))
	for _, root := range roots {
		stack := []*event.Event{byID[root]}
		for len(stack) > 0 {
			e := stack[len(stack)-1]
			id := e.EventID()
			if mark[id] != 0 || bad[id] {
				stack = stack[:len(stack)-1]
				if mark[id] == visiting {
					mark[id] = done
					out = append(out, e)
				}
				continue
			}
			mark[id] = visiting
			for _, ref := range refs(e) {
				if next := byID[ref]; next != nil && mark[ref] == 0 {
					stack = append(stack, next)
				}
			}
		}
	}
	return out
}
