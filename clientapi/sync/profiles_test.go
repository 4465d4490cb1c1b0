package sync

import (
	"context"
	"testing"

	"github.com/tidwall/gjson"

	"knock/roomserver"
)

// TestProfileUpdates has users tell those who share a room with them how they are (MSC4429).
func TestProfileUpdates(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, context.Background()
		a, b, c := g.user("a"), g.user("b"), g.user("c")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		set := func(user, value string) { must(t, g.accounts.SetProfileField(ctx, user, "m.status", []byte(value))) }
		set(a, `{"text":"here"}`)
		set(c, `{"text":"nobody's business"}`)
		must(t, g.accounts.SetProfileField(ctx, a, "displayname", []byte(`"Alice"`)))
		wanted := []string{"filter", `{"org.matrix.msc4429.profile_fields":{"ids":["m.status"]}}`}
		users := func(res gjson.Result) string { return res.Get(`org\.matrix\.msc4429\.users`).Raw }

		res := g.get(b, wanted...)
		expect(t, "at first", users(res), `{"@a:hs":{"profile_updates":{"m.status":{"text":"here"}}}}`)
		expect(t, "unasked", users(g.get(b)), "")
		named := g.get(b, "filter", `{"org.matrix.msc4429.profile_fields":{"ids":["displayname"]}}`).Get(`org\.matrix\.msc4429\.users`)
		expect(t, "a name", named.Get(`\@a:hs.profile_updates.displayname`).Str, "Alice")
		expect(t, "the name that an account is made with", named.Get(`\@b:hs.profile_updates.displayname`).Str, "b")
		more := func() gjson.Result { return g.get(b, append(wanted, "since", next(res))...) }
		res = more()
		expect(t, "once", users(res), "")
		set(c, `{"text":"away"}`)
		res = more()
		expect(t, "of a stranger", users(res), "")
		set(a, `{"text":"away"}`)
		set(a, `{"text":"out"}`)
		res = more()
		expect(t, "the newest", users(res), `{"@a:hs":{"profile_updates":{"m.status":{"text":"out"}}}}`)
		must(t, g.accounts.DeleteProfileField(ctx, a, "m.status"))
		res = more()
		expect(t, "removed", users(res), `{"@a:hs":{"profile_updates":{"m.status":null}}}`)
		g.join(room, c)
		res = more()
		expect(t, "of one who came", users(res), `{"@c:hs":{"profile_updates":{"m.status":{"text":"away"}}}}`)
		expect(t, "removed fields at first", users(g.get(a, wanted...)), `{"@c:hs":{"profile_updates":{"m.status":{"text":"away"}}}}`)
	})
}
