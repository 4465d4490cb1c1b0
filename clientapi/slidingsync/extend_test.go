package slidingsync

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"knock/internal/e2ee"
	"knock/internal/ephemeral"
	"knock/internal/sqldb"
	"knock/roomserver"
)

func extended(ext string) string {
	return `{"lists":{"all":{"ranges":[[0,9]],"timeline_limit":1}},"extensions":` + ext + `}`
}

func TestTyping(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a})
		g.join(id, b)
		g.typing.Set(id, b, true, time.Minute)
		body := extended(`{"typing":{"enabled":true}}`)
		res := g.ask(a, body)
		in := func() any { return res.Get("extensions.typing.rooms").Map()[id].Get("content.user_ids").Raw }
		expect(t, "who types", in(), `["@b:hs"]`)
		res = g.more(a, body, res)
		expect(t, "no news", in(), "")
		g.typing.Set(id, b, false, 0)
		res = g.more(a, body, res)
		expect(t, "stopped", in(), "[]")
		g.restart()
		res = g.more(a, body, res)
		expect(t, "after a restart", in(), "[]")
		res = g.more(a, extended(`{"typing":{"enabled":true,"lists":[],"rooms":[]}}`), res)
		g.typing.Set(id, b, true, time.Minute)
		res = g.more(a, extended(`{"typing":{"enabled":true,"lists":[],"rooms":[]}}`), res)
		expect(t, "out of scope", in(), "")
		res = g.more(a, extended(`{"typing":{"enabled":true,"lists":["all"]}}`), res)
		expect(t, "in scope again", in(), `["@b:hs"]`)
	})
}

func TestReceipts(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a})
		g.join(id, b)
		first, second := g.say(id, b, "1"), g.say(id, b, "2")
		body := extended(`{"receipts":{"enabled":true}}`)
		res := g.ask(a, body)
		content := func() map[string]any {
			out := map[string]any{}
			_ = json.Unmarshal([]byte(res.Get("extensions.receipts.rooms").Map()[id].Get("content").Raw), &out)
			return out
		}
		must(t, g.receipts.Read(t.Context(), b, id, ephemeral.Read, first, ""))
		res = g.more(a, body, res)
		expect(t, "new", fmt.Sprint(content()[first] != nil, part(res, id, "").Exists()), "true false")
		res = g.ask(a, body)
		expect(t, "for events that are not shown", len(content()), 0)
		must(t, g.receipts.Read(t.Context(), b, id, ephemeral.Read, second, "")) // held back
		expect(t, "unread", part(g.ask(a, body), id, "notification_count"), 2)
		res = g.ask(a, body)
		must(t, g.receipts.Read(t.Context(), a, id, ephemeral.ReadPrivate, second, ""))
		res = g.more(a, body, res)
		expect(t, "own", content()[second] != nil, true)
		expect(t, "read", part(res, id, "notification_count"), 0)
		res = g.ask(a+"/2", body)
		expect(t, "own and shown ones", len(content()[second].(map[string]any)), 2)
	})
}

func TestAccountData(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		id := g.create(roomserver.CreateRequest{Creator: a})
		put := func(room, typ, content string) {
			must(t, g.accounts.PutAccountData(t.Context(), a, room, typ, json.RawMessage(content)))
		}
		put("", "x.global", `{"n":1}`)
		put(id, "x.room", `{"n":1}`)
		body := extended(`{"account_data":{"enabled":true}}`)
		plain := extended(`{}`)
		res := g.ask(a, plain)
		expect(t, "not wanted", res.Get("extensions").Raw, "{}")
		res = g.more(a, body, res)
		expect(t, "global", res.Get("extensions.account_data.global.#.type").Raw, `["x.global","m.push_rules"]`)
		in := func() string { return res.Get("extensions.account_data.rooms").Map()[id].Get("#.content").Raw }
		expect(t, "room", in(), `[{"n":1}]`)
		res = g.more(a, body, res)
		expect(t, "nothing", res.Get("extensions").Raw, "{}")
		put(id, "x.room", `{"n":2}`)
		res = g.more(a, body, res)
		expect(t, "room", in(), `[{"n":2}]`)
		expect(t, "global", res.Get("extensions.account_data.global").Exists(), false)
	})
}

// fakeKeys is encryption with one message that waits.
type fakeKeys struct {
	pos   int64
	acked int64
	moves e2ee.Moves
	count int
}

func (f *fakeKeys) KeyCounts(context.Context, string, string) (map[string]int, []string, error) {
	return map[string]int{"signed_curve25519": f.count}, []string{"signed_curve25519"}, nil
}

func (f *fakeKeys) DeviceLists(_ *sqldb.Tx, _ string, _, _ int64, m e2ee.Moves) (changed, left []string, err error) {
	f.moves = m
	return m.In, m.Out, nil
}

func (f *fakeKeys) ToDevice(_ *sqldb.Tx, _, _ string, from, to int64, _ int) ([]json.RawMessage, int64, bool, error) {
	if from < f.pos && f.pos <= to {
		return []json.RawMessage{json.RawMessage(`{"type":"x"}`)}, f.pos, false, nil
	}
	return nil, to, false, nil
}

func (f *fakeKeys) AckToDevice(_, _ string, upto int64) { f.acked = upto }

func TestEncryption(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		id := g.create(roomserver.CreateRequest{Creator: a})
		keys := &fakeKeys{pos: g.hub.Published(), count: 3}
		g.keys = keys
		g.restart()
		body := func(since string) string {
			return fmt.Sprintf(`{"conn_id":"encryption","extensions":{"e2ee":{"enabled":true},"to_device":{"enabled":true,"since":%q}}}`, since)
		}
		res := g.ask(a, body(""))
		expect(t, "messages", res.Get("extensions.to_device.events.#").Raw, 1)
		expect(t, "keys", res.Get("extensions.e2ee.device_one_time_keys_count").Raw, `{"signed_curve25519":3}`)
		next := res.Get("extensions.to_device.next_batch").Str
		g.join(id, b)
		res = g.more(a, body(next), res)
		expect(t, "acknowledged", keys.acked, keys.pos)
		expect(t, "messages", res.Get("extensions.to_device.events").Exists(), false)
		expect(t, "changed", res.Get("extensions.e2ee.device_lists.changed").Raw, `["@b:hs"]`)
		g.member(id, b, b, "leave")
		res = g.more(a, body(res.Get("extensions.to_device.next_batch").Str), res)
		expect(t, "left", res.Get("extensions.e2ee.device_lists.left").Raw, `["@b:hs"]`)
		res = g.more(b, body(""), g.ask(b, body("")))
		g.join(id, b)
		g.more(b, body(""), res)
		expect(t, "joined", fmt.Sprint(keys.moves.Joined), fmt.Sprint([]string{id}))
	})
}
