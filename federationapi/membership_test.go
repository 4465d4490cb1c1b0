package federationapi_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/federationapi/client"
	"knock/roomserver"
	"knock/roomserver/event"
)

func TestInvites(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"1", "10", "11", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, Preset: "private_chat", Name: "Secret"})
			bob := b.user("bob")
			if err := b.join(room, bob, a); err == nil {
				t.Fatal("an invited room let a stranger in")
			}
			must(t, a.membership(room, a.user("alice"), bob, "invite"))
			b.knows(room, bob, "invite")
			must(t, b.join(room, bob))
			a.knows(room, bob, "join")
			b.sees(room, a.say(room, a.user("alice"), "welcome"))

			carol := b.user("carol")
			must(t, b.membership(room, bob, a.user("dave"), "invite")) // of a server that is in the room
			a.knows(room, a.user("dave"), "invite")
			must(t, a.membership(room, a.user("alice"), carol, "invite"))
			b.knows(room, carol, "invite")
			must(t, b.rooms.Leave(t.Context(), room, carol, "no, thanks"))
			a.knows(room, carol, "leave")
		}
	})
}

func TestInviteIsRefusedAndRescinded(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"10", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, Preset: "private_chat"})
			must(t, a.membership(room, a.user("alice"), b.user("bob"), "invite"))
			b.knows(room, b.user("bob"), "invite")
			must(t, b.rooms.Leave(t.Context(), room, b.user("bob"), ""))
			a.knows(room, b.user("bob"), "leave")

			must(t, a.membership(room, a.user("alice"), b.user("carol"), "invite"))
			b.knows(room, b.user("carol"), "invite")
			must(t, a.membership(room, a.user("alice"), b.user("carol"), "leave"))
			b.knows(room, b.user("carol"), "leave")
		}
	})
}

// TestOnlyTheInviterTakesAnInviteBack has others of the room, and strangers, end an invite of a user whose server is not
// in the room and cannot know who may.
func TestOnlyTheInviterTakesAnInviteBack(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		bob := b.user("bob")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat", PowerLevelOverride: map[string]json.RawMessage{"invite": json.RawMessage("0")}})
		must(t, a.join(room, a.user("carol")))
		must(t, c.join(room, c.user("eve"), a))
		must(t, a.membership(room, a.user("carol"), bob, "invite"))
		b.knows(room, bob, "invite")
		leave := func(n *node, sender string) string {
			e, err := (&event.Builder{Version: mustVersion("12"), Type: "m.room.member", Sender: sender, StateKey: &bob, RoomID: room, Depth: 20,
				Content: json.RawMessage(`{"membership":"leave"}`), TS: 1_700_000_000_000}).Build(n.signer)
			must(t, err)
			status, answer := n.transact(b, "t"+sender[1:4], []string{string(e.JSON())}, nil)
			if status != 200 {
				t.Fatalf("%d %s", status, answer)
			}
			return gjson.Get(answer, "pdus."+gjsonKey(e.EventID())+".error").Str
		}
		for n, sender := range map[*node]string{a: a.user("alice"), c: c.user("eve")} {
			if leave(n, sender) == "" || b.is(room, bob) != "invite" {
				t.Errorf("%s took the invite back", sender)
			}
		}
		if refused := leave(a, a.user("carol")); refused != "" || b.is(room, bob) != "leave" {
			t.Errorf("the inviter could not: %s", refused)
		}
	})
}

func TestKnocks(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"10", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, InitialState: []roomserver.StateEvent{
				{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}})
			for _, user := range []string{b.user("bob"), b.user("carol")} {
				_, err := b.rooms.Knock(t.Context(), roomserver.JoinRequest{RoomIDOrAlias: room, User: user, Via: []string{a.name}, Reason: "please"})
				must(t, err)
				a.knows(room, user, "knock")
				if got := b.is(room, user); got != "knock" {
					t.Fatalf("%s is %q at home", user, got)
				}
			}
			must(t, a.membership(room, a.user("alice"), b.user("bob"), "invite"))
			b.knows(room, b.user("bob"), "invite")
			must(t, b.join(room, b.user("bob")))
			a.knows(room, b.user("bob"), "join")
			must(t, a.membership(room, a.user("alice"), b.user("carol"), "leave"))
			b.knows(room, b.user("carol"), "leave")
		}
	})
}

// TestKnocksAreTakenBack has a server that is not in the room tell one that is.
func TestKnocksAreTakenBack(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"10", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, InitialState: []roomserver.StateEvent{
				{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}})
			user := b.user("carol")
			_, err := b.rooms.Knock(t.Context(), roomserver.JoinRequest{RoomIDOrAlias: room, User: user, Via: []string{a.name}})
			must(t, err)
			a.knows(room, user, "knock")
			must(t, b.rooms.Leave(t.Context(), room, user, "no longer"))
			if got := b.is(room, user); got != "leave" {
				t.Fatalf("the user is %q at home", got)
			}
			a.knows(room, user, "leave")
		}
	})
}

func TestBanIsSeenByTheBanned(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		must(t, a.membership(room, a.user("alice"), b.user("bob"), "ban"))
		b.knows(room, b.user("bob"), "ban")
		if err := b.join(room, b.user("bob"), a); err == nil {
			t.Fatal("a banned user joined")
		}
	})
}

func TestRedaction(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"1", "10", "11", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, Preset: "public_chat"})
			must(t, b.join(room, b.user("bob"), a))
			id := b.say(room, b.user("bob"), "secret words")
			a.sees(room, id)
			_, err := a.rooms.Send(t.Context(), roomserver.SendRequest{RoomID: room, Sender: a.user("alice"), Type: "m.room.redaction", Redacts: id,
				Content: json.RawMessage(`{"redacts":"` + id + `"}`)})
			must(t, err)
			eventually(t, "b has redacted it", func() bool {
				e, err := b.rooms.EventFor(t.Context(), room, id, b.user("bob"))
				return err == nil && !strings.Contains(string(e.Event.JSON()), "secret")
			})
		}
	})
}

// TestRestrictedRooms has a room open to the members of another one.
func TestRestrictedRooms(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		for _, version := range []string{"10", "12"} {
			club := a.create(roomserver.CreateRequest{Version: version, Preset: "public_chat"})
			room := a.create(roomserver.CreateRequest{Version: version, InitialState: []roomserver.StateEvent{{Type: "m.room.join_rules",
				Content: json.RawMessage(fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club))}}})
			if code := matrixCode(b.join(room, b.user("bob"), a)); code != "M_FORBIDDEN" {
				t.Fatalf("who is not in the club: %s", code)
			}
			must(t, b.join(club, b.user("bob"), a))
			must(t, b.join(room, b.user("bob"), a))
			a.knows(room, b.user("bob"), "join")

			// b is in the room and in the club, but bob may not invite.
			must(t, c.join(club, c.user("eve"), a))
			b.knows(club, c.user("eve"), "join")
			a.setState(room, a.user("alice"), "m.room.power_levels", inviteLevel(a, room, 50))
			eventually(t, "b knows the power levels", func() bool { return b.stateRaw(room, "m.room.power_levels", "invite") == "50" })
			if code := matrixCode(c.make(room, c.user("eve"), b)); code != "M_UNABLE_TO_GRANT_JOIN" {
				t.Fatalf("through b: %s", code)
			}
			must(t, c.join(room, c.user("eve"), a))

			// b leaves the club and can no longer tell.
			must(t, b.rooms.Leave(t.Context(), club, b.user("bob"), ""))
			if code := matrixCode(c.make(room, c.user("mallory"), b)); code != "M_UNABLE_TO_AUTHORISE_JOIN" {
				t.Fatalf("through b, which is not in the club: %s", code)
			}
			// Nor may it believe what it knew of the club while it was in it.
			must(t, c.rooms.Leave(t.Context(), room, c.user("eve"), ""))
			b.knows(room, c.user("eve"), "leave")
			a.setState(room, a.user("alice"), "m.room.power_levels", inviteLevel(a, room, 0))
			eventually(t, "b knows the power levels", func() bool { return b.stateRaw(room, "m.room.power_levels", "invite") == "0" })
			if code := matrixCode(c.make(room, c.user("eve"), b)); code != "M_UNABLE_TO_AUTHORISE_JOIN" {
				t.Fatalf("of somebody who was in the club when b was, through b: %s", code)
			}
		}
	})
}

// TestNoConditionsToMeet has somebody ask to join a room that admits members of other rooms and names none.
func TestNoConditionsToMeet(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, content := range []string{`{"join_rule":"knock_restricted"}`, `{"join_rule":"restricted","allow":[]}`} {
			room := a.create(roomserver.CreateRequest{InitialState: []roomserver.StateEvent{{Type: "m.room.join_rules", Content: json.RawMessage(content)}}})
			if code := matrixCode(b.make(room, b.user("bob"), a)); code != "M_FORBIDDEN" {
				t.Errorf("%s: %s", content, code)
			}
		}
	})
}

// make asks one server alone for the template of a join.
func (n *node) make(room, user string, through *node) error {
	_, _, err := n.client.Make(n.t.Context(), "join", through.name, room, user, event.Versions())
	return err
}

// TestVouchingIsNotForTheAsking has a server make a restricted join by itself that names one of our users.
func TestVouchingIsNotForTheAsking(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		club := a.create(roomserver.CreateRequest{Version: "10", Preset: "public_chat"})
		room := a.create(roomserver.CreateRequest{Version: "10", InitialState: []roomserver.StateEvent{{Type: "m.room.join_rules",
			Content: json.RawMessage(fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, club))}}})
		must(t, b.join(club, b.user("bob"), a))
		_, template, err := b.client.Make(t.Context(), "join", a.name, room, b.user("bob"), event.Versions())
		must(t, err)
		eve := b.user("eve") // is not in the club
		e := b.joinEvent("10", room, eve, template)
		status, body := b.call(a, "PUT", "/_matrix/federation/v2/send_join/"+room+"/"+e.EventID(), string(e.JSON()))
		if status == 200 {
			t.Fatalf("a join by a stranger was vouched for: %s", body)
		}
		if got := a.is(room, eve); got == "join" {
			t.Fatal("the stranger is in the room")
		}
	})
}

// joinEvent makes a join of a template by hand, of whichever user.
func (n *node) joinEvent(version, room, user string, template []byte) *event.Event {
	tmpl := gjson.ParseBytes(template)
	v, _ := event.GetVersion(version)
	build := event.Builder{Version: v, Type: "m.room.member", Sender: user, StateKey: &user, RoomID: room,
		Content: json.RawMessage(tmpl.Get("content").Raw), Depth: tmpl.Get("depth").Int(), TS: tmpl.Get("origin_server_ts").Int()}
	for _, id := range tmpl.Get("prev_events").Array() {
		build.PrevEvents = append(build.PrevEvents, id.Str)
	}
	for _, id := range tmpl.Get("auth_events").Array() {
		build.AuthEvents = append(build.AuthEvents, id.Str)
	}
	e, err := build.Build(n.signer)
	must(n.t, err)
	return e
}

// TestOmittedMembers has a server ask for an answer to send_join without members, in a room with a name and in one that
// is called after its members.
func TestOmittedMembers(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, name := range []string{"", "Purchasing"} {
			room := a.create(roomserver.CreateRequest{Version: "11", Preset: "public_chat", Name: name})
			for i := range 8 {
				must(t, a.join(room, a.user(fmt.Sprintf("u%d", i)), a))
			}
			_, template, err := b.client.Make(t.Context(), "join", a.name, room, b.user("bob"), event.Versions())
			must(t, err)
			e := b.joinEvent("11", room, b.user("bob"), template)
			path := "/_matrix/federation/v2/send_join/" + room + "/" + e.EventID()
			if status, body := b.call(a, "PUT", path+"?omit_members=maybe", string(e.JSON())); status != 400 || gjson.Get(body, "errcode").Str != "M_INVALID_PARAM" {
				t.Errorf("omit_members=maybe: %d %s", status, body)
			}
			status, body := b.call(a, "PUT", path+"?omit_members=true", string(e.JSON()))
			if status != 200 || !gjson.Get(body, "members_omitted").Bool() || gjson.Get(body, "servers_in_room").Raw != `["a.test"]` {
				t.Fatalf("send_join: %d %.400s", status, body)
			}
			state, chain := counted(body, "state"), counted(body, "auth_chain")
			members := map[string]int{"": 5}[name]
			if state["m.room.member"] != members || state["m.room.create"] != 1 || state["m.room.power_levels"] != 1 {
				t.Errorf("state of %q: %v", name, state)
			}
			// The creator's join is what the other state rests on; nothing that the state has is sent twice.
			if want := 1 - members/5; chain["m.room.member"] != want || chain["m.room.create"] != 0 {
				t.Errorf("auth chain of %q: %v", name, chain)
			}
		}
	})
}

// counted returns how many events of each type a list of an answer has.
func counted(body, list string) map[string]int {
	n := map[string]int{}
	gjson.Get(body, list+".#.type").ForEach(func(_, typ gjson.Result) bool {
		n[typ.Str]++
		return true
	})
	return n
}

func inviteLevel(n *node, room string, level int) string {
	e, err := n.rooms.CurrentState(n.t.Context(), room, "m.room.power_levels", "")
	must(n.t, err)
	var content map[string]any
	must(n.t, json.Unmarshal(e.Event.ContentJSON(), &content))
	content["invite"] = level
	raw, err := json.Marshal(content)
	must(n.t, err)
	return string(raw)
}

func (n *node) stateRaw(room, typ, field string) string {
	e, err := n.rooms.CurrentState(n.t.Context(), room, typ, "")
	must(n.t, err)
	return gjson.GetBytes(e.Event.ContentJSON(), field).Raw
}

// matrixCode is the error code that another server answered with.
func matrixCode(err error) string {
	var e *client.Error
	if errors.As(err, &e) && e.Matrix != nil {
		return e.Matrix.Code
	}
	return fmt.Sprint(err)
}
