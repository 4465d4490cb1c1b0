package slidingsync

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/roomserver"
)

// named returns the names of the rooms of an answer, sorted.
func (g *rig) named(res gjson.Result, names map[string]string) string {
	var out []string
	for id := range res.Get("rooms").Map() {
		out = append(out, names[id])
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestFilters(t *testing.T) {
	each(t, func(g *rig) {
		a, b := g.user("a"), g.user("b")
		names := map[string]string{}
		room := func(by, name string, q roomserver.CreateRequest) string {
			q.Creator, q.Name = by, name
			id := g.create(q)
			names[id] = name
			return id
		}
		encrypted := roomserver.StateEvent{Type: "m.room.encryption", Content: json.RawMessage(`{"algorithm":"m.megolm.v1.aes-sha2"}`)}
		typed := func(typ string) map[string]json.RawMessage {
			return map[string]json.RawMessage{"type": json.RawMessage(typ)}
		}
		plain := room(a, "plain", roomserver.CreateRequest{})
		secret := room(a, "secret", roomserver.CreateRequest{InitialState: []roomserver.StateEvent{encrypted}})
		space := room(a, "space", roomserver.CreateRequest{CreationContent: typed(`"m.space"`)})
		room(a, "odd", roomserver.CreateRequest{CreationContent: typed(`"x.odd"`)})
		invite := room(b, "invite", roomserver.CreateRequest{Invite: []string{a}, InitialState: []roomserver.StateEvent{encrypted}})
		g.state(space, a, "m.space.child", plain, `{"via":["hs"]}`)
		g.state(space, a, "m.space.child", secret, `{}`)
		put := func(in, typ, content string) {
			must(g.t, g.accounts.PutAccountData(g.t.Context(), a, in, typ, json.RawMessage(content)))
		}
		put("", "m.direct", fmt.Sprintf(`{"@b:hs":[%q,%q]}`, secret, invite))
		put(plain, "m.tag", `{"tags":{"m.favourite":{},"u.x":{}}}`)
		put(secret, "m.tag", `{"tags":{"u.x":{}}}`)
		for filter, want := range map[string]string{
			`{}`:                    "invite odd plain secret space",
			`{"is_dm":true}`:        "invite secret",
			`{"is_dm":false}`:       "odd plain space",
			`{"is_encrypted":true}`: "invite secret", `{"is_encrypted":false}`: "odd plain space",
			`{"is_invite":true}`: "invite", `{"is_invite":false}`: "odd plain secret space",
			`{"room_types":["m.space"]}`: "space", `{"room_types":[null,"x.odd"]}`: "invite odd plain secret",
			`{"not_room_types":["m.space"]}`: "invite odd plain secret", `{"not_room_types":[null]}`: "odd space",
			`{"room_types":["m.space"],"not_room_types":["m.space"]}`: "",
			`{"tags":["u.x"]}`: "plain secret", `{"tags":["u.x"],"not_tags":["m.favourite"]}`: "secret",
			`{"not_tags":["u.x"]}`:                          "invite odd space",
			`{"room_name_like":"CRE"}`:                      "secret",
			fmt.Sprintf(`{"spaces":[%q,"!other"]}`, space):  "plain",
			`{"spaces":["!other"]}`:                         "",
			`{"is_dm":true,"is_encrypted":true,"tags":[]}`:  "",
			`{"is_dm":true,"is_invite":false,"tags":null}`:  "secret",
			`{"room_types":[],"not_room_types":["m.odd"]}`:  "",
			`{"room_name_like":"a","is_encrypted":false}`:   "plain space",
			`{"room_name_like":"nobody"}`:                   "",
			`{"is_encrypted":true,"room_types":["m.room"]}`: "",
		} {
			res := g.ask(a, `{"lists":{"x":{"ranges":[[0,99]],"timeline_limit":0,"filters":`+filter+`}}}`)
			expect(g.t, filter, g.named(res, names), want)
			expect(g.t, filter+" count", res.Get("lists.x.count").Int(), len(strings.Fields(want)))
		}
		body := `{"lists":{"x":{"timeline_limit":0,"filters":{"is_encrypted":true,"is_invite":false,"tags":["u.x"]}}}}`
		res := g.ask(a, body)
		g.state(plain, a, "m.room.encryption", "", `{"algorithm":"m.megolm.v1.aes-sha2"}`)
		res = g.more(a, body, res)
		expect(g.t, "encrypted since", g.named(res, names), "plain")
		put(secret, "m.tag", `{"tags":{}}`)
		res = g.more(a, body, res)
		expect(g.t, "untagged since", res.Get("lists.x.count"), 1)
	})
}

func TestWindows(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		names := map[string]string{}
		var ids []string
		for i := range 5 {
			ids = append(ids, g.create(roomserver.CreateRequest{Creator: a}))
			names[ids[i]] = fmt.Sprint(i)
		}
		res := g.ask(a, window(0, 1, 1))
		expect(t, "newest two", g.named(res, names), "3 4")
		expect(t, "count", res.Get("lists.all.count"), 5)
		res = g.more(a, window(0, 3, 1), res)
		expect(t, "two more", g.named(res, names), "1 2")
		g.say(ids[0], a, "up")
		res = g.more(a, window(0, 1, 1), res)
		expect(t, "bumped into view", g.named(res, names), "0")
		expect(t, "initial", part(res, ids[0], "initial").Bool(), true)
		expect(t, "live", part(res, ids[0], "num_live").Int(), 1)
		g.say(ids[3], a, "out of view")
		g.say(ids[0], a, "1")
		g.say(ids[4], a, "2")
		res = g.more(a, window(0, 1, 1), res)
		expect(t, "in view", g.named(res, names), "0 4")
		res = g.more(a, window(0, 4, 1), res)
		expect(t, "all", g.named(res, names), "3")
		expect(t, "not initial", part(res, ids[3], "initial").Exists(), false)
		expect(t, "missed", words(part(res, ids[3], "timeline")), "out of view")
		res = g.more(a, `{"lists":{"a":{"ranges":[[0,0],[4,4]],"timeline_limit":1}}}`, res)
		expect(t, "nothing new", g.named(res, names), "")
		res = g.ask(a, `{"lists":{"a":{"ranges":[[0,0],[4,4]],"timeline_limit":1}}}`)
		expect(t, "two ranges", g.named(res, names), "1 4")
	})
}

func TestSubscriptions(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		one, other := g.create(roomserver.CreateRequest{Creator: a, Topic: "t"}), g.create(roomserver.CreateRequest{Creator: b})
		for i := range 6 {
			g.say(one, a, fmt.Sprint(i))
		}
		sub := func(limit int, required string) string {
			return fmt.Sprintf(`{"lists":{"all":{"timeline_limit":1,"required_state":[["m.room.create",""]]}},
				"room_subscriptions":{%q:{"timeline_limit":%d,"required_state":[%s]},%q:{"timeline_limit":1}}}`, one, limit, required, other)
		}
		res := g.ask(a, window(0, 9, 1))
		expect(t, "rooms", len(res.Get("rooms").Map()), 1)
		expect(t, "a room of others", part(g.ask(a, sub(1, "")), other, "").Exists(), false)
		res = g.ask(a, `{"lists":{"all":{"timeline_limit":1,"required_state":[["m.room.create",""]]}}}`)
		res = g.more(a, sub(4, `["m.room.topic",""],["m.room.create",""]`), res)
		expect(t, "longer timeline", words(part(res, one, "timeline")), "2 3 4 5")
		expect(t, "expanded", part(res, one, "unstable_expanded_timeline"), true)
		expect(t, "nothing happened", part(res, one, "num_live"), 0)
		expect(t, "more state", words(part(res, one, "required_state")), "topic=t")
		before := res
		res = g.more(a, sub(1, ""), before)
		expect(t, "less", len(res.Get("rooms").Map()), 0)
		g.say(one, a, "6")
		res = g.more(a, sub(5, ""), res)
		expect(t, "has the rest", words(part(res, one, "timeline")), "6")
		expect(t, "not expanded", part(res, one, "unstable_expanded_timeline").Exists(), false)
		g.say(one, a, "7")
		g.say(one, a, "8")
		res = g.more(a, sub(1, ""), res)
		expect(t, "gap", words(part(res, one, "timeline"))+" "+part(res, one, "limited").Raw, "8 true")
		res = g.more(a, sub(3, ""), res)
		expect(t, "filled", words(part(res, one, "timeline")), "6 7 8")
	})
}

func TestRequiredState(t *testing.T) {
	each(t, func(g *rig) {
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a, Topic: "t"})
		g.join(id, b)
		g.state(id, a, "x.s", "1", `{"name":"1"}`)
		g.state(id, a, "x.s", "2", `{"name":"2"}`)
		g.say(id, b, "b")
		for required, want := range map[string]string{
			``:            "",
			`["x.s","*"]`: "name=1 name=2", `["x.s","2"]`: "name=2", `["*","1"]`: "name=1", `["x.none","*"]`: "",
			`["m.room.member","$ME"]`: "join:@a", `["m.room.member","$LAZY"]`: "join:@b", `["m.room.member","*"]`: "join:@a join:@b",
			`["m.room.member","$LAZY"],["m.room.member","$ME"]`: "join:@a join:@b", `["*","$ME"]`: "join:@a",
			`["m.room.member","$LAZY"],["m.room.member","*"]`: "join:@a join:@b",
		} {
			res := g.ask(a, `{"lists":{"x":{"timeline_limit":1,"required_state":[`+required+`]}}}`)
			expect(g.t, required, words(part(res, id, "required_state")), want)
		}
		all := len(part(g.ask(a, `{"lists":{"x":{"timeline_limit":1,"required_state":[["*","*"]]}}}`), id, "required_state").Array())
		lazily := len(part(g.ask(a, `{"lists":{"x":{"timeline_limit":1,"required_state":[["*","*"],["m.room.member","$LAZY"]]}}}`), id, "required_state").Array())
		expect(g.t, "all but the member who is not shown", all-lazily, 1)
		for required, want := range map[string]string{
			`{}`: "", `{"include":[{"type":"x.s"}]}`: "name=1 name=2", `{"include":[{"type":"x.s"}],"exclude":[{"state_key":"1"}]}`: "name=2",
			`{"include":[{"state_key":"2"}]}`: "name=2", `{"lazy_members":true}`: "join:@b",
			`{"lazy_members":true,"exclude":[{}],"include":[{}]}`: "join:@b",
		} {
			res := g.v4(a, `{"lists":{"x":{"timeline_limit":1,"required_state":`+required+`}}}`)
			expect(g.t, required, words(part(res, id, "required_state")), want)
		}
	})
}
