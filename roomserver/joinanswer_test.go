package roomserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"knock/roomserver/event"
)

// oldEvent is an event of room version 1 in which ids are the sender's to choose: with no hashes, it is read redacted.
func oldEvent(id, typ, sender, key, content string, auths ...string) json.RawMessage {
	refs := make([]string, len(auths))
	for i, a := range auths {
		refs[i] = fmt.Sprintf(`["$%s:b.example",{"sha256":""}]`, a)
	}
	var prev string // the creator's join follows the create event
	if len(auths) == 1 {
		prev = refs[0]
	}
	return json.RawMessage(fmt.Sprintf(`{"event_id":"$%s:b.example","room_id":"!old:b.example","type":%q,"sender":%q,"state_key":%q,"content":%s,`+
		`"auth_events":[%s],"prev_events":[%s],"depth":1,"origin_server_ts":1,"hashes":{"sha256":""},"signatures":{}}`, id, typ, sender, key, content, strings.Join(refs, ","), prev))
}

// TestAuthEventsInACircle has a member hold power because they gave it to themselves, which they could for holding it.
func TestAuthEventsInACircle(t *testing.T) {
	v, _ := event.GetVersion("1")
	const bob, eve = "@bob:b.example", "@eve:b.example"
	a := &joinAnswer{s: &Server{}, v: v, room: "!old:b.example"}
	for _, raw := range []json.RawMessage{
		oldEvent("create", "m.room.create", bob, "", `{"creator":"@bob:b.example"}`),
		oldEvent("bob", "m.room.member", bob, bob, `{"membership":"join"}`, "create"),
		oldEvent("rules", "m.room.join_rules", bob, "", `{"join_rule":"public"}`, "create", "bob"),
		oldEvent("eve", "m.room.member", eve, eve, `{"membership":"join"}`, "create", "rules"),
		oldEvent("powers", "m.room.power_levels", eve, "", `{"users":{"@eve:b.example":100}}`, "create", "eve", "more"),
		oldEvent("topic", "m.room.topic", eve, "", `{}`, "create", "eve", "powers"),
	} {
		must(t, a.addState(raw))
	}
	must(t, a.addAuth(oldEvent("more", "m.room.power_levels", eve, "", `{"users":{"@eve:b.example":100}}`, "create", "eve", "powers")))
	must(t, a.addAuth(oldEvent("self", "m.room.power_levels", eve, "", `{"users":{"@eve:b.example":100}}`, "create", "eve", "self")))
	e, err := event.Parse(v, oldEvent("join", "m.room.member", "@me:a.example", "@me:a.example", `{"membership":"join"}`, "create", "rules"))
	must(t, err)
	a.join = e
	must(t, a.check(t.Context()))
	var got []string
	for _, e := range a.order {
		got = append(got, e.EventID())
	}
	slices.Sort(got)
	if want := "$bob:b.example $create:b.example $eve:b.example $rules:b.example"; strings.Join(got, " ") != want {
		t.Errorf("taken: %v", got)
	}
	if len(a.state) != 4 {
		t.Errorf("%d events of the state are taken", len(a.state))
	}
}

// TestCreateEventComesFirst has the create event, which nobody cites from room version 12 on, come before what rests on it.
func TestCreateEventComesFirst(t *testing.T) {
	v, _ := event.GetVersion("12")
	bob, empty := "@bob:b.example", ""
	build := func(typ, room string, key *string, content string, auths ...string) *event.Event {
		e, err := (&event.Builder{Version: v, Type: typ, Sender: bob, RoomID: room, StateKey: key, Content: json.RawMessage(content), AuthEvents: auths, TS: 1}).Build(farSigner)
		must(t, err)
		return e
	}
	for i := range 20 { // events are taken in the order of their ids, which are hashes
		create := build("m.room.create", "", &empty, fmt.Sprintf(`{"room_version":"12","i":%d}`, i))
		member := build("m.room.member", create.Room(), &bob, `{"membership":"join"}`)
		byID := map[string]*event.Event{create.EventID(): create, member.EventID(): member}
		if got := authOrder(byID, nil); len(got) != 2 || got[0] != create {
			t.Fatal("the create event comes last")
		}
	}
}

// TestTwoEventsForOnePlace has a state name two events for one place.
func TestTwoEventsForOnePlace(t *testing.T) {
	v, _ := event.GetVersion("1")
	a := &joinAnswer{s: &Server{}, v: v, room: "!old:b.example"}
	must(t, a.addState(oldEvent("one", "m.room.topic", "@bob:b.example", "", `{}`)))
	must(t, a.addState(oldEvent("one", "m.room.topic", "@bob:b.example", "", `{}`))) // twice the same is only sloppy
	must(t, a.addState(oldEvent("other", "m.room.topic", "@bob:b.example", "key", `{}`)))
	if err := a.addState(oldEvent("two", "m.room.topic", "@bob:b.example", "", `{}`)); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("another event for the same place: %v", err)
	}
	if len(a.state) != 2 {
		t.Errorf("%d events are taken", len(a.state))
	}
}

// TestLargeAnswersAreBounded has answers come that are too large by themselves and together.
func TestLargeAnswersAreBounded(t *testing.T) {
	s := &Server{}
	one, two := &joinAnswer{s: s}, &joinAnswer{s: s}
	must(t, one.hold(300<<20))
	if err := two.hold(300 << 20); !errors.Is(err, ErrBusy) {
		t.Errorf("600 MiB are held: %v", err)
	}
	two.release()
	if err := one.hold(100 << 20); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("one answer has 400 MiB: %v", err)
	}
	one.release()
	must(t, two.hold(300<<20))
	two.release()
	if n := s.held.Load(); n != 0 {
		t.Errorf("%d bytes count as held after all", n)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
