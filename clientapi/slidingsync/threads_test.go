package slidingsync

import (
	"fmt"
	"testing"

	"knock/internal/threads"
	"knock/roomserver"
)

func TestThreadSubscriptions(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, g.t.Context()
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a})
		roots := []string{g.say(room, a, "1"), g.say(room, a, "2"), g.say(room, a, "3")}
		follows := threads.New(g.rooms)
		follow := func(i int) { must(t, follows.Follow(ctx, a, room, roots[i], "")) }
		follow(0)
		const name = `extensions.io\.element\.msc4308\.thread_subscriptions`
		body := extended(`{"io.element.msc4308.thread_subscriptions":{"enabled":true,"limit":2}}`)
		res := g.ask(a, extended(`{"io.element.msc4308.thread_subscriptions":{"limit":2}}`))
		expect(t, "not asked for", res.Get(name).Raw, "")
		res = g.more(a, body, res)
		first := res.Get(name + ".subscribed").Map()[room].Map()[roots[0]]
		expect(t, "asked for later", first.Get("automatic").Raw, "false")
		res = g.more(a, body, res)
		expect(t, "no news", res.Get(name).Raw, "")
		g.restart()
		follow(1)
		must(t, follows.Unfollow(ctx, a, room, roots[0]))
		res = g.more(a, body, res)
		expect(t, "followed", fmt.Sprint(len(res.Get(name + ".subscribed").Map()[room].Map())), "1")
		left := res.Get(name + ".unsubscribed").Map()[room].Map()[roots[0]].Get("bump_stamp").Int()
		if left <= first.Get("bump_stamp").Int() {
			t.Error("what came later has no higher bump_stamp:", left)
		}
		expect(t, "all", res.Get(name+".prev_batch").Raw, "")
		follow(0)
		follow(2)
		res = g.ask(a, body)
		if s := res.Get(name + ".subscribed").Map()[room].Map(); len(s) != 2 || !s[roots[0]].Exists() || !s[roots[2]].Exists() {
			t.Error("the newest two:", res.Get(name).Raw)
		}
		if prev := res.Get(name + ".prev_batch").Str; prev == "" {
			t.Error("nothing says that there are more")
		}
		if code, _ := g.try(a, extended(`{"io.element.msc4308.thread_subscriptions":{"enabled":true,"limit":0}}`)); code != 400 {
			t.Error("limit 0:", code)
		}
	})
}
