package sync

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"knock/internal/ephemeral"
	"knock/internal/pushrules"
	"knock/roomserver"
)

func TestTypingAndReceipts(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, context.Background()
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		said := g.say(room, a, "x")
		since := next(g.get(b))
		g.typing.Set(room, a, true, time.Minute)
		res := g.get(b, "since", since)
		expect(t, "typing", in(res, "join", room, "ephemeral.events").Raw, `[{"content":{"user_ids":["@a:hs"]},"type":"m.typing"}]`)
		expect(t, "no counts for that", in(res, "join", room, "unread_notifications").Exists(), false)
		since = next(res)
		g.typing.Set(room, a, false, 0)
		res = g.get(b, "since", since)
		expect(t, "stopped", in(res, "join", room, "ephemeral.events").Raw, `[{"content":{"user_ids":[]},"type":"m.typing"}]`)
		since = next(res)

		must(t, g.receipts.Read(ctx, a, room, ephemeral.Read, said, ""))
		must(t, g.receipts.Read(ctx, a, room, ephemeral.ReadPrivate, said, "main"))
		res = g.get(b, "since", since)
		expect(t, "a receipt", in(res, "join", room, "ephemeral.events.0.content").Get(`*.m\.read.\@a:hs.ts`).Exists(), true)
		expect(t, "others' private ones are not told", strings.Contains(res.Raw, "m.read.private"), false)
		expect(t, "the own one is", strings.Contains(g.get(a, "since", since).Raw, "m.read.private"), true)
		expect(t, "filtered", g.get(b, "since", since, "filter", `{"room":{"ephemeral":{"not_types":["m.*"]}}}`).Get("rooms").Raw, "")

		g.typing.Set(room, a, true, time.Minute)
		since = next(g.get(b, "since", since))
		g.typing = ephemeral.NewTyping(ephemeral.TypingOptions{Hub: g.hub})
		g.restart()
		res = g.get(b, "since", since)
		expect(t, "a restart ends typing", in(res, "join", room, "ephemeral.events").Raw, `[{"content":{"user_ids":[]},"type":"m.typing"}]`)
		expect(t, "told once", g.get(b, "since", next(res)).Get("rooms").Raw, "")
	})
}

// TestReceiptsBesideANewName tells what passes in a room where the user's own member event changed meanwhile.
func TestReceiptsBesideANewName(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, context.Background()
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		said := g.say(room, a, "x")
		since := next(g.get(b))
		must(t, g.receipts.Read(ctx, a, room, ephemeral.Read, said, ""))
		g.typing.Set(room, a, true, time.Minute)
		g.state(room, b, "m.room.member", b, `{"membership":"join","displayname":"B"}`)
		events := in(g.get(b, "since", since), "join", room, "ephemeral.events").Raw
		expect(t, "the receipt", strings.Contains(events, said), true)
		expect(t, "typing", strings.Contains(events, "m.typing"), true)
	})
}

func TestUnreadCounts(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, context.Background()
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "R"})
		g.join(room, b)
		since := next(g.get(b))
		root := g.say(room, a, "one")
		_, err := g.rooms.Send(ctx, roomserver.SendRequest{RoomID: room, Sender: a, Type: "m.room.message",
			Content: []byte(`{"body":"in a thread","msgtype":"m.text","m.mentions":{"user_ids":["` + b + `"]},"m.relates_to":{"rel_type":"m.thread","event_id":"` + root + `"}}`)})
		must(t, err)
		res := g.get(b, "since", since)
		expect(t, "both", in(res, "join", room, "unread_notifications").Raw, `{"highlight_count":1,"notification_count":2}`)
		res = g.get(b, "since", since, "filter", `{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		expect(t, "main", in(res, "join", room, "unread_notifications").Raw, `{"highlight_count":0,"notification_count":1}`)
		expect(t, "threads", in(res, "join", room, "unread_thread_notifications").Raw, fmt.Sprintf(`{"%s":{"highlight_count":1,"notification_count":1}}`, root))
		must(t, g.receipts.Read(ctx, b, room, ephemeral.Read, in(res, "join", room, "timeline.events.1.event_id").Str, ""))
		res = g.get(b, "since", next(res))
		expect(t, "read", in(res, "join", room, "unread_notifications").Raw, `{"highlight_count":0,"notification_count":0}`)
	})
}

func TestAccountDataAndRules(t *testing.T) {
	each(t, func(g *rig) {
		t, ctx := g.t, context.Background()
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a})
		since := next(g.get(a))
		must(t, g.accounts.PutAccountData(ctx, a, "", "x.global", []byte(`{"g":1}`)))
		must(t, g.accounts.PutAccountData(ctx, a, room, "x.room", []byte(`{"r":1}`)))
		must(t, g.push.SetEnabled(ctx, a, pushrules.Override, ".m.rule.master", true))
		res := g.get(a, "since", since)
		expect(t, "global", res.Get(`account_data.events.#(type=="x.global").content`).Raw, `{"g":1}`)
		expect(t, "rules", res.Get(`account_data.events.#(type=="m.push_rules").content.global.override.0.enabled`), true)
		expect(t, "of a room", in(res, "join", room, "account_data.events").Raw, `[{"content":{"r":1},"type":"x.room"}]`)
		expect(t, "filtered", g.get(a, "since", since, "filter", `{"account_data":{"types":["x.none"]},"room":{"account_data":{"types":[]}}}`).Get("account_data").Raw, "")
		expect(t, "once", g.get(a, "since", next(res)).Get("account_data").Raw, "")
	})
}

func TestPresence(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		since := next(g.get(b, "set_presence", "offline"))
		status := "busy"
		must(t, g.presence.Set(a, "D", "online", &status))
		res := g.get(b, "since", since, "set_presence", "offline")
		expect(t, "presence", res.Get("presence.events.#.sender").Raw, `["@a:hs"]`)
		expect(t, "status", res.Get("presence.events.0.content.status_msg"), "busy")
		expect(t, "filtered", g.get(b, "since", since, "set_presence", "offline", "filter", `{"presence":{"not_senders":["`+a+`"]}}`).Get("presence").Raw, "")
		c := g.user("c")
		since = next(g.get(b, "since", next(res), "set_presence", "offline"))
		must(t, g.presence.Set(c, "D", "online", nil))
		since = next(g.get(b, "since", since, "set_presence", "offline"))
		sinceC := next(g.get(c, "set_presence", "offline"))
		g.join(room, c)
		expect(t, "of who comes in", g.get(b, "since", since, "set_presence", "offline").Get("presence.events.#.sender").Raw, `["@c:hs"]`)
		expect(t, "of who is there", strings.Contains(g.get(c, "since", sinceC, "set_presence", "offline").Get("presence").Raw, a), true)
		code, _ := g.try(a, "set_presence", "asleep")
		expect(t, "an unknown value", code, 400)
	})
}

func TestIgnoredUsers(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		g.state(room, a, "m.room.power_levels", "", `{"state_default":0}`)
		must(t, g.accounts.PutAccountData(context.Background(), a, "", "m.ignored_user_list", []byte(`{"ignored_users":{"`+b+`":{}}}`)))
		since := next(g.get(a))
		g.say(room, b, "spam")
		expect(t, "nothing", g.get(a, "since", since).Get("rooms").Raw, "")
		g.state(room, b, "m.room.topic", "", `{"topic":"T"}`)
		g.typing.Set(room, b, true, time.Minute)
		res := g.get(a, "since", since)
		expect(t, "but for state", list(in(res, "join", room, "timeline.events")), "topic=T")
		expect(t, "typing", in(res, "join", room, "ephemeral.events.0.content.user_ids").Raw, "[]")
		for i := range 30 {
			g.say(room, b, fmt.Sprint(i))
		}
		g.say(room, a, "mine")
		res = g.get(a, "since", since, "filter", `{"room":{"timeline":{"limit":2}}}`)
		expect(t, "spam does not push others out", list(in(res, "join", room, "timeline.events")), "topic=T mine")
	})
}
