package slidingsync

import (
	"fmt"
	"testing"

	"knock/roomserver"
)

func window(from, to, limit int) string {
	return fmt.Sprintf(`{"lists":{"all":{"ranges":[[%d,%d]],"timeline_limit":%d,"required_state":[["m.room.create",""],["m.room.topic",""],["m.room.member","$LAZY"]]}}}`, from, to, limit)
}

func TestInitialAndIncremental(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		one := g.create(roomserver.CreateRequest{Creator: a, Name: "One", Topic: "first"})
		g.join(one, b)
		g.say(one, b, "hello")
		res := g.ask(a, window(0, 9, 2))
		expect(t, "count", res.Get("lists.all.count"), 1)
		expect(t, "initial", part(res, one, "initial"), true)
		expect(t, "name", part(res, one, "name"), "One")
		expect(t, "timeline", words(part(res, one, "timeline")), "join:@b hello")
		expect(t, "limited", part(res, one, "limited"), true)
		expect(t, "num_live", part(res, one, "num_live"), 0)
		expect(t, "joined", part(res, one, "joined_count"), 2)
		expect(t, "state", words(part(res, one, "required_state")), "create topic=first join:@b")
		expect(t, "counts", part(res, one, "notification_count"), 1)
		again := g.more(a, window(0, 9, 2), res)
		expect(t, "nothing", again.Get("rooms").Raw, "{}")
		g.say(one, b, "again")
		g.state(one, a, "m.room.topic", "", `{"topic":"second"}`)
		res = g.more(a, window(0, 9, 2), again)
		expect(t, "initial", part(res, one, "initial").Exists(), false)
		expect(t, "name", part(res, one, "name").Exists(), false)
		expect(t, "timeline", words(part(res, one, "timeline")), "again topic=second")
		expect(t, "num_live", part(res, one, "num_live"), 2)
		expect(t, "limited", part(res, one, "limited").Exists(), false)
		expect(t, "state", words(part(res, one, "required_state")), "join:@a topic=second")
		retry := g.more(a, window(0, 9, 2), again)
		expect(t, "retry", words(part(retry, one, "timeline")), "again topic=second")
	})
}

func TestUnknownPos(t *testing.T) {
	each(t, func(g *rig) {
		a := g.user("a")
		g.create(roomserver.CreateRequest{Creator: a})
		res := g.ask(a+"/D", window(0, 1, 1))
		for name, c := range map[string]struct{ as, pos string }{
			"syntax": {a + "/D", "x"}, "device": {a + "/E", res.Get("pos").Str},
			"gen": {a + "/D", token{pos: 1, gen: 5, boot: "x", epoch: g.db.Epoch()}.String()},
		} {
			code, res := g.try(c.as, window(0, 1, 1), "pos", c.pos)
			expect(g.t, name, fmt.Sprint(code, res.Get("errcode")), "400 M_UNKNOWN_POS")
		}
		g.ask(a+"/D", window(0, 1, 1), "pos", res.Get("pos").Str)
		g.restart()
		g.say(g.hub.JoinedRooms(a)[0], a, "x")
		res = g.ask(a+"/D", window(0, 1, 1), "pos", res.Get("pos").Str)
		expect(g.t, "after a restart", len(res.Get("rooms").Map()), 1)
	})
}
