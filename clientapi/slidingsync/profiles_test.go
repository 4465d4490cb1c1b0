package slidingsync

import (
	"context"
	"testing"

	"knock/roomserver"
)

// TestProfiles has users tell those who share a room with them how they are (MSC4262).
func TestProfiles(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, context.Background()
		a, b, c := g.user("a"), g.user("b"), g.user("c")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		set := func(user, value string) { must(t, g.accounts.SetProfileField(ctx, user, "m.status", []byte(value))) }
		set(a, `"here"`)
		set(c, `"unseen"`)
		body := extended(`{"org.matrix.msc4262.profiles":{"enabled":true,"fields":["m.status"]}}`)
		res := g.ask(b, body)
		users := func() any { return res.Get(`extensions.org\.matrix\.msc4262\.profiles.users`).Raw }
		expect(t, "with the room", users(), `{"@a:hs":{"updated":{"m.status":"here"}}}`)
		res = g.more(b, body, res)
		expect(t, "once", users(), "")
		set(c, `"still unseen"`)
		res = g.more(b, body, res)
		expect(t, "of a stranger", users(), "")
		set(a, `"away"`)
		must(t, g.accounts.SetProfileField(ctx, a, "m.tz", []byte(`"Asia/Shanghai"`)))
		res = g.more(b, body, res)
		expect(t, "changed", users(), `{"@a:hs":{"updated":{"m.status":"away"}}}`)
		must(t, g.accounts.DeleteProfileField(ctx, a, "m.status"))
		res = g.more(b, body, res)
		expect(t, "removed", users(), `{"@a:hs":{"removed":["m.status"]}}`)
		res = g.more(b, extended(`{}`), res)
		set(b, `"me"`)
		res = g.more(b, extended(`{}`), res)
		expect(t, "unasked", users(), "")
	})
}
