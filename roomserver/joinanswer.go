package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/tidwall/gjson"

	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// Bounds of answers to send_join and state.
const (
	maxJoinEvents = 400_000
	maxJoinBytes  = 384 << 20
	maxHeldBytes  = 512 << 20 // of all that are in memory at once
)

// joinAnswer collects and checks what a server answers to send_join or state.
// Call release when it is done with.
type joinAnswer struct {
	s     *Server
	v     *event.Version
	room  string
	join  *event.Event
	from  string // the server that answers a join
	state []*event.Event
	byID  map[string]*event.Event
	at    map[auth.Tuple]string // ids of the state's events
	bytes int
	bad   map[string]bool // ids of events whose signatures do not hold
	good  map[string]bool // ids of events that hold, so that others may rest on them
	order []*event.Event  // all good ones, auth events first
	seen  *atomic.Int64   // counts the events for who watches, unless nil

	omitted bool     // the state lacks members
	servers []string // that are in the room, where it does
}

// addState takes one event of the state. A state that holds two events for one
// place is none.
func (a *joinAnswer) addState(raw json.RawMessage) error {
	e, err := a.add(raw)
	if err != nil || e == nil {
		return err
	}
	key, isState := e.Key()
	if !isState {
		return nil
	}
	place := auth.Tuple{Type: e.Type(), Key: key}
	switch a.at[place] {
	case e.EventID():
		return nil
	case "":
	default:
		return fmt.Errorf("%w: its state has two events for %s of %q", ErrBadAnswer, place.Type, place.Key)
	}
	if a.at == nil {
		a.at = map[auth.Tuple]string{}
	}
	a.at[place] = e.EventID()
	a.state = append(a.state, e)
	return nil
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
	if err := a.hold(len(raw)); err != nil {
		return nil, err
	}
	if a.seen != nil {
		a.seen.Add(1)
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

// hold counts what is about to be kept in memory.
func (a *joinAnswer) hold(n int) error {
	a.bytes += n
	if a.s.held.Add(int64(n)) > maxHeldBytes {
		return ErrBusy
	}
	if a.bytes > maxJoinBytes || len(a.byID) >= maxJoinEvents {
		return fmt.Errorf("%w: it is too large", ErrBadAnswer)
	}
	return nil
}

// release says that the answer is not kept any longer.
func (a *joinAnswer) release() {
	a.s.held.Add(-int64(a.bytes))
	a.bytes = 0
}

// setEvent takes the signatures of the join as it came back, and nothing else of it.
func (a *joinAnswer) setEvent(raw json.RawMessage) error {
	e, err := event.Parse(a.v, raw)
	if err != nil {
		return fmt.Errorf("%w: the join came back as no event: %w", ErrBadAnswer, err)
	}
	if e.EventID() != a.join.EventID() {
		return fmt.Errorf("%w: the join came back as another event", ErrBadAnswer)
	}
	signed, err := a.join.WithSignaturesOf(e, a.from)
	if err != nil {
		return fmt.Errorf("%w: the join came back with signatures that are none: %w", ErrBadAnswer, err)
	}
	a.join = signed
	return nil
}

// check verifies the signatures of everything and applies the auth rules to
// each event and to the join.
func (a *joinAnswer) check(ctx context.Context) error {
	if err := a.verify(ctx); err != nil {
		return err
	}
	a.good = make(map[string]bool, len(a.byID))
	for _, e := range authOrder(a.byID, a.bad) {
		if a.allowed(e) {
			a.good[e.EventID()] = true
			a.order = append(a.order, e)
		}
	}
	a.state = slices.DeleteFunc(a.state, func(e *event.Event) bool { return !a.good[e.EventID()] })
	if a.omitted {
		a.vouch()
	}
	st := auth.NewState(a.state)
	create := st.Lookup("m.room.create", "")
	if create == nil {
		return fmt.Errorf("%w: there is no m.room.create", ErrBadAnswer)
	}
	version := gjson.GetBytes(create.ContentJSON(), "room_version")
	if !version.Exists() {
		version.Str = "1" // as m.room.create has it
	}
	if version.Str != a.v.ID {
		return fmt.Errorf("%w: the room has another version than was said", ErrBadAnswer)
	}
	if err := auth.Check(a.join, st); err != nil {
		if own := st.Lookup("m.room.member", a.join.Sender()); own != nil && auth.Membership(own) == auth.Ban {
			return err // its server should have said so
		}
		return fmt.Errorf("%w: its state does not allow the join: %v", ErrBadAnswer, err)
	}
	return nil
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
			return fmt.Errorf("%w: the join itself: %v", ErrBadAnswer, err)
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

// authOrder returns the events so that each comes after those that it rests on:
// its auth events and, where the room id names it, the create event. Those marked
// bad are left out.
func authOrder(byID map[string]*event.Event, bad map[string]bool) []*event.Event {
	return order(byID, bad, (*event.Event).AuthEventIDs)
}

// order returns events so that each comes after those that it refers to. On a
// cycle, which only a liar can claim, some order is returned: whoever judges the
// events must not take one for granted that was not judged yet.
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
