package slidingsync

import (
	"encoding/json"
	"fmt"
	"testing"

	"knock/roomserver"
)

const everyRoom = `{"lists":{"x":{"timeline_limit":5,"required_state":[["m.room.member","$ME"],["m.room.topic",""]]}}}`

// everyRoomV4 is the same in the stable form.
func everyRoomV4(pos string) string {
	return fmt.Sprintf(`{"pos":%q,"lists":{"x":{"timeline_limit":5,"required_state":{"include":[{"type":"m.room.member","state_key":"@b:hs"},{"type":"m.room.topic","state_key":""}]}}}}`, pos)
}

func TestInvites(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a, Name: "Secret", Invite: []string{b}})
		res, stable := g.ask(b, everyRoom), g.v4(b+"/V", everyRoomV4(""))
		expect(t, "stripped", part(res, id, "invite_state.#(type==\"m.room.name\").content.name"), "Secret")
		expect(t, "own", part(res, id, "invite_state.#(state_key==\"@b:hs\").content.membership"), "invite")
		expect(t, "nothing else", part(res, id, "timeline").Raw+part(res, id, "required_state").Raw, "")
		expect(t, "stable", part(stable, id, "membership").Str+" "+part(stable, id, "lists").Raw, `invite ["x"]`)
		expect(t, "stable state", part(stable, id, "stripped_state").IsArray(), true)
		expect(t, "no counts", part(stable, id, "notification_count").Exists(), false)
		g.say(id, a, "not for b")
		res, stable = g.more(b, everyRoom, res), g.v4(b+"/V", everyRoomV4(stable.Get("pos").Str))
		expect(t, "nothing new", len(res.Get("rooms").Map())+len(stable.Get("rooms").Map()), 0)
		g.join(id, b)
		joined := g.more(b, everyRoom, res)
		expect(t, "joined", part(joined, id, "initial").Raw+part(joined, id, "name").Str, "trueSecret")
		other := g.create(roomserver.CreateRequest{Creator: a, Invite: []string{b}})
		res = g.more(b, everyRoom, joined)
		stable = g.v4(b+"/V", everyRoomV4(""))
		g.member(other, b, b, "leave")
		res = g.more(b, everyRoom, res)
		expect(t, "refused", words(part(res, other, "required_state")), "leave:@b")
		stable = g.v4(b+"/V", everyRoomV4(stable.Get("pos").Str))
		expect(t, "refused, stable", part(stable, other, "membership"), "leave")
		res = g.more(b, everyRoom, res)
		expect(t, "told once", len(res.Get("rooms").Map()), 0)
		expect(t, "not in the list any more", res.Get("lists.x.count"), 1)
		must(t, g.accounts.PutAccountData(t.Context(), b, "", "m.ignored_user_list", json.RawMessage(`{"ignored_users":{"@a:hs":{}}}`)))
		g.member(other, a, b, "invite")
		res = g.more(b, everyRoom, res)
		expect(t, "ignored", part(res, other, "").Exists(), false)
		g.say(id, a, "ignored")
		g.state(id, a, "m.room.topic", "", `{"topic":"seen"}`)
		res = g.more(b, everyRoom, res)
		expect(t, "only state", words(part(res, id, "timeline")), "topic=seen")
	})
}

func TestKnock(t *testing.T) {
	each(t, func(g *rig) {
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a, Name: "N", InitialState: []roomserver.StateEvent{
			{Type: "m.room.join_rules", Content: json.RawMessage(`{"join_rule":"knock"}`)}}})
		_, err := g.rooms.Knock(g.t.Context(), roomserver.JoinRequest{RoomIDOrAlias: id, User: b})
		must(g.t, err)
		res := g.v4(b+"/V", everyRoomV4(""))
		expect(g.t, "knock", part(res, id, "membership").Str+part(res, id, "stripped_state.#(type==\"m.room.name\").content.name").Str, "knockN")
	})
}

func TestStaysEnd(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		rooms := map[string]string{}
		for _, how := range []string{"leave", "kick", "ban"} {
			rooms[how] = g.create(roomserver.CreateRequest{Creator: a, Topic: "before"})
			g.join(rooms[how], b)
		}
		res, stable := g.ask(b, everyRoom), g.v4(b+"/V", everyRoomV4(""))
		for how, id := range rooms {
			g.say(id, a, "last")
			switch how {
			case "leave":
				g.member(id, b, b, "leave")
			case "kick":
				g.member(id, a, b, "leave")
			case "ban":
				g.member(id, a, b, "ban")
			}
			g.say(id, a, "not for b")
			g.state(id, a, "m.room.topic", "", `{"topic":"after"}`)
		}
		ended := map[string]string{"leave": "leave:@b", "kick": "leave:@b", "ban": "ban:@b"}
		before := res
		res, stable = g.more(b, everyRoom, res), g.v4(b+"/V", everyRoomV4(stable.Get("pos").Str))
		for how, id := range rooms {
			expect(t, how, words(part(res, id, "timeline")), "last "+ended[how])
			expect(t, how, words(part(res, id, "required_state")), ended[how])
			expect(t, how, part(stable, id, "membership").Str, map[string]string{"leave": "leave", "kick": "leave", "ban": "ban"}[how])
			expect(t, how, part(res, id, "initial").Exists(), false)
		}
		res = g.more(b, everyRoom, before)
		expect(t, "retry", len(res.Get("rooms").Map()), 3)
		res = g.more(b, everyRoom, res)
		expect(t, "told once", len(res.Get("rooms").Map()), 0)
		expect(t, "those who were made to leave stay in the list", res.Get("lists.x.count"), 2)
		fresh := g.ask(b+"/F", everyRoom)
		expect(t, "a new connection", len(fresh.Get("rooms").Map()), 2)
		expect(t, "as it was", words(part(fresh, rooms["kick"], "required_state")), "topic=before leave:@b")
		sub := fmt.Sprintf(`{"room_subscriptions":{%q:{"timeline_limit":2,"required_state":[["m.room.topic",""]]}}}`, rooms["leave"])
		left := g.ask(b+"/S", sub)
		expect(t, "a subscription", words(part(left, rooms["leave"], "timeline")), "last leave:@b")
		expect(t, "its state", words(part(left, rooms["leave"], "required_state")), "topic=before")
		g.join(rooms["leave"], b)
		res = g.more(b, everyRoom, res)
		expect(t, "back", part(res, rooms["leave"], "initial").Raw, "true")
		g.member(rooms["leave"], b, b, "leave")
		must(t, g.rooms.Forget(t.Context(), rooms["leave"], b))
		res = g.more(b, everyRoom, res)
		expect(t, "forgotten", part(res, rooms["leave"], "").Exists(), false)
	})
}
