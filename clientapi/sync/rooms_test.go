package sync

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"knock/roomserver"
)

func TestGap(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "1"})
		g.join(room, b)
		since := next(g.get(b))
		g.state(room, a, "m.room.name", "", `{"name":"2"}`)
		g.state(room, a, "m.room.topic", "", `{"topic":"gap"}`)
		for i := range 8 {
			g.say(room, a, fmt.Sprint(i))
		}
		g.state(room, a, "m.room.name", "", `{"name":"3"}`)
		for name, c := range map[string]struct{ param, key, state string }{
			"state":       {"x", "state", "name=2 topic=gap"},
			"state after": {"use_state_after", "state_after", "topic=gap name=3"},
			"unstable":    {"org.matrix.msc4222.use_state_after", `org\.matrix\.msc4222\.state_after`, "topic=gap name=3"},
		} {
			res := g.get(b, "since", since, "filter", `{"room":{"timeline":{"limit":3}}}`, c.param, "true")
			expect(t, name+": timeline", list(in(res, "join", room, "timeline.events")), "6 7 name=3")
			expect(t, name+": limited", in(res, "join", room, "timeline.limited"), true)
			expect(t, name, list(in(res, "join", room, c.key+".events")), c.state)
			if !strings.HasPrefix(in(res, "join", room, "timeline.prev_batch").Str, "t") {
				t.Error("a gap needs a prev_batch")
			}
			if c.key != "state" && in(res, "join", room, "state").Exists() {
				t.Error("state must be left out when the state after is asked for")
			}
		}
	})
}

func TestInitialStateIsThatOfTheTimelinesStart(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "1"})
		g.say(room, a, "x")
		g.state(room, a, "m.room.name", "", `{"name":"2"}`)
		const filter = `{"room":{"timeline":{"limit":2},"state":{"types":["m.room.name"]}}}`
		res := g.get(a, "filter", filter)
		expect(t, "timeline", list(in(res, "join", room, "timeline.events")), "x name=2")
		expect(t, "state", list(in(res, "join", room, "state.events")), "name=1")
		expect(t, "prev_content", in(res, "join", room, "timeline.events.1.unsigned.prev_content").Raw, `{"name":"1"}`)
		res = g.get(a, "filter", filter, "use_state_after", "true")
		expect(t, "state after", list(in(res, "join", room, "state_after.events")), "name=2")
	})
}

func TestFullState(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "R"})
		since := next(g.get(a))
		res := g.get(a, "since", since, "full_state", "true", "timeout", "60000")
		expect(t, "all state", list(in(res, "join", room, "state.events")),
			"create join:@a power_levels join_rules history_visibility name=R")
		expect(t, "no timeline", in(res, "join", room, "timeline.events").Raw, "[]")
	})
}

func TestNewlyJoined(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "R"})
		g.say(room, a, "before")
		must(t, g.accounts.PutAccountData(context.Background(), b, room, "x.note", []byte(`{"n":1}`)))
		since := next(g.get(b))
		g.join(room, b)
		g.say(room, a, "after")
		res := g.get(b, "since", since, "filter", `{"room":{"timeline":{"limit":3}}}`)
		expect(t, "timeline", list(in(res, "join", room, "timeline.events")), "before join:@b after")
		expect(t, "limited", in(res, "join", room, "timeline.limited"), true)
		expect(t, "state", list(in(res, "join", room, "state.events")),
			"create join:@a power_levels join_rules history_visibility name=R")
		expect(t, "account data of the time before", in(res, "join", room, "account_data.events.0.type"), "x.note")
		expect(t, "then no more", g.get(b, "since", next(res)).Get("rooms").Raw, "")
	})
}

func TestHistoryVisibility(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b, c := g.user("a"), g.user("b"), g.user("c")
		for _, test := range []struct{ visibility, want string }{
			{"joined", "history_visibility join:@b hello"},
			{"invited", "history_visibility invite:@b secret join:@b hello"},
			{"shared", "join:@c early invite:@b secret join:@b hello"},
		} {
			room := g.create(roomserver.CreateRequest{Creator: a})
			g.join(room, c)
			g.state(room, a, "m.room.history_visibility", "", `{"history_visibility":"`+test.visibility+`"}`)
			g.say(room, a, "early")
			g.member(room, a, b, "invite")
			g.say(room, a, "secret")
			since := next(g.get(b))
			g.join(room, b)
			g.say(room, a, "hello")
			for _, args := range [][]string{nil, {"since", since}} {
				got := list(in(g.get(b, append(args, "filter", `{"room":{"timeline":{"limit":6}}}`)...), "join", room, "timeline.events"))
				expect(t, test.visibility, got, test.want)
			}
		}
	})
}

func TestLeaving(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		for _, way := range []string{"leave", "kick", "ban"} {
			room := g.create(roomserver.CreateRequest{Creator: a, Name: way})
			g.join(room, b)
			since := next(g.get(b))
			g.say(room, a, "seen")
			who, how := a, "leave"
			switch way {
			case "leave":
				who = b
			case "ban":
				how = "ban"
			}
			g.member(room, who, b, how)
			g.say(room, a, "not for you")
			g.state(room, a, "m.room.name", "", `{"name":"neither"}`)
			for _, mode := range []string{"false", "true"} {
				res := g.get(b, "since", since, "use_state_after", mode)
				key := "state"
				want := ""
				if mode == "true" {
					key, want = "state_after", how+":@b"
				}
				expect(t, way, list(in(res, "leave", room, "timeline.events")), "seen "+how+":@b")
				expect(t, way+": state", list(in(res, "leave", room, key+".events")), want)
				expect(t, way+": not joined", in(res, "join", room, "").Exists(), false)
				expect(t, way+": told once", g.get(b, "since", next(res)).Get("rooms").Raw, "")
			}
			expect(t, way+": not in an initial sync", g.get(b).Get("rooms").Raw, "")
			res := g.get(b, "filter", `{"room":{"include_leave":true,"timeline":{"limit":2}}}`)
			expect(t, way+": unless asked for", list(in(res, "leave", room, "timeline.events")), "seen "+how+":@b")
			expect(t, way+": with its state", in(res, "leave", room, `state.events.#(type=="m.room.name").content.name`), way)
			must(t, g.rooms.Forget(context.Background(), room, b))
			expect(t, way+": forgotten", g.get(b, "filter", `{"room":{"include_leave":true}}`).Get("rooms").Raw, "")
			res = g.get(b, "since", since)
			expect(t, way+": forgotten, but another device must hear of it", list(in(res, "leave", room, "timeline.events")), "seen "+how+":@b")
			expect(t, way+": once", g.get(b, "since", next(res)).Get("rooms").Raw, "")
		}
	})
}

func TestBannedAfterLeaving(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		since := next(g.get(b))
		g.say(room, a, "seen")
		g.member(room, b, b, "leave")
		since2 := next(g.get(b))
		g.say(room, a, "hidden")
		g.member(room, a, b, "ban")
		expect(t, "from inside", list(in(g.get(b, "since", since), "leave", room, "timeline.events")), "seen leave:@b ban:@b")
		expect(t, "from outside", list(in(g.get(b, "since", since2), "leave", room, "timeline.events")), "ban:@b")

		stranger := g.user("c")
		since = next(g.get(stranger))
		g.member(room, a, stranger, "ban")
		res := g.get(stranger, "since", since, "use_state_after", "true")
		expect(t, "a stranger", list(in(res, "leave", room, "timeline.events")), "ban:@c")
		expect(t, "sees no state", in(res, "leave", room, "state_after").Raw, `{"events":[]}`)
	})
}

func TestLeftAndJoinedAgain(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.state(room, a, "m.room.history_visibility", "", `{"history_visibility":"joined"}`)
		g.join(room, b)
		since := next(g.get(b))
		g.member(room, b, b, "leave")
		g.say(room, a, "hidden")
		g.join(room, b)
		res := g.get(b, "since", since)
		expect(t, "joined", list(in(res, "join", room, "timeline.events")), "leave:@b join:@b")
		expect(t, "and only that", in(res, "leave", room, "").Exists(), false)

		passing := g.user("c")
		since = next(g.get(passing))
		g.join(room, passing)
		g.say(room, a, "hello")
		g.member(room, passing, passing, "leave")
		res = g.get(passing, "since", since)
		expect(t, "joined and left", list(in(res, "leave", room, "timeline.events")), "join_rules history_visibility history_visibility join:@c hello leave:@c")
		if !strings.Contains(in(res, "leave", room, "state.events").Raw, "m.room.create") {
			t.Error("who was new needs the whole state")
		}
	})
}

func TestInvitesAndKnocks(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b, c := g.user("a"), g.user("b"), g.user("c")
		room := g.create(roomserver.CreateRequest{Creator: a, Preset: "private_chat", Name: "R"})
		since := next(g.get(b))
		g.member(room, a, b, "invite")
		invited := g.get(b, "since", since)
		for what, res := range map[string]func() string{
			"incremental": func() string { return list(in(invited, "invite", room, "invite_state.events")) },
			"initial":     func() string { return list(in(g.get(b), "invite", room, "invite_state.events")) },
		} {
			if got := res(); !strings.Contains(got, "create") || !strings.Contains(got, "name=R") || !strings.HasSuffix(got, "invite:@b") {
				t.Errorf("%s: %s", what, got)
			}
		}
		expect(t, "once", g.get(b, "since", next(invited)).Get("rooms").Raw, "")
		g.member(room, b, b, "leave")
		res := g.get(b, "since", next(invited))
		expect(t, "rejected", list(in(res, "leave", room, "timeline.events")), "leave:@b")
		expect(t, "without state", in(res, "leave", room, "state").Raw, `{"events":[]}`)

		since = next(g.get(c))
		must(t, g.accounts.PutAccountData(context.Background(), c, "", "m.ignored_user_list", []byte(`{"ignored_users":{"`+a+`":{}}}`)))
		g.member(room, a, c, "invite")
		expect(t, "an ignored user's invite", in(g.get(c, "since", since), "invite", room, "").Exists(), false)
		expect(t, "neither in an initial sync", in(g.get(c), "invite", room, "").Exists(), false)

		open := g.create(roomserver.CreateRequest{Creator: a, Preset: "private_chat"})
		g.state(open, a, "m.room.join_rules", "", `{"join_rule":"knock"}`)
		since = next(g.get(b))
		g.member(open, b, b, "knock")
		res = g.get(b, "since", since)
		if got := list(in(res, "knock", open, "knock_state.events")); !strings.Contains(got, "create") || !strings.HasSuffix(got, "knock:@b") {
			t.Errorf("knock: %s", got)
		}
	})
}

func TestLazyMembers(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "R"})
		var users []string
		for i := range 6 {
			users = append(users, g.user(fmt.Sprint("u", i)))
		}
		g.join(room, users...)
		g.say(room, users[3], "x")
		const filter = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true,"types":["m.room.member"]}}}`
		members := func(as string, args ...string) (string, string) {
			res := g.get(as, append(args, "filter", filter)...)
			return list(in(res, "join", room, "state.events")), next(res)
		}
		got, start := members(a + "/D")
		expect(t, "the sender and oneself", got, "join:@a join:@u3")
		g.say(room, users[4], "y")
		got, after := members(a+"/D", "since", start)
		expect(t, "a new sender", got, "join:@u4")
		got, _ = members(a+"/D", "since", start)
		expect(t, "the answer was lost", got, "join:@u4")
		g.say(room, users[4], "z")
		got, after2 := members(a+"/D", "since", after)
		expect(t, "known", got, "")
		g.say(room, users[4], "again")
		got, after3 := members(a+"/D", "since", after2)
		expect(t, "known", got, "")
		g.say(room, users[3], "again")
		got, _ = members(a+"/E", "since", after3)
		expect(t, "another device", got, "join:@u3")
		g.state(room, users[4], "m.room.member", users[4], `{"membership":"join","displayname":"Four"}`)
		g.say(room, a, "1")
		got, _ = members(a+"/D", "since", after3)
		expect(t, "a change in the gap", got, "join:@u4")
		got, _ = members(a+"/D", "since", start)
		expect(t, "an old token forgets all", got, "join:@a join:@u4")
		res := g.get(a+"/D", "since", after3, "filter", strings.Replace(filter, `"lazy`, `"include_redundant_members":true,"lazy`, 1))
		expect(t, "redundant ones", list(in(res, "join", room, "state.events")), "join:@a join:@u4")
	})
}

func TestHeroes(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		const filter = `{"room":{"timeline":{"limit":1},"state":{"lazy_load_members":true}}}`
		summary := func(res string) string { return res }
		first := g.get(a, "filter", filter)
		expect(t, "heroes", summary(in(first, "join", room, "summary").Raw), `{"m.heroes":["@b:hs"],"m.joined_member_count":2,"m.invited_member_count":0}`)
		g.say(room, a, "x")
		second := g.get(a, "filter", filter, "since", next(first))
		expect(t, "unchanged", in(second, "join", room, "summary").Raw, "")
		g.member(room, b, b, "leave")
		third := g.get(a, "filter", filter, "since", next(second))
		expect(t, "who is gone", in(third, "join", room, "summary").Raw, `{"m.heroes":["@b:hs"],"m.joined_member_count":1,"m.invited_member_count":0}`)
		g.state(room, a, "m.room.name", "", `{"name":"R"}`)
		expect(t, "a name", in(g.get(a, "filter", filter, "since", next(third)), "join", room, "summary").Raw,
			`{"m.joined_member_count":1,"m.invited_member_count":0}`)
	})
}
