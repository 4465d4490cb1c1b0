package rooms

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"knock/internal/httpx"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
	"knock/test/shapes"
)

// page gets one page and returns the ids of its events and the next token.
func (n *node) page(token, room, query string) (ids []string, end string, page answer) {
	n.t.Helper()
	page = n.ok(token, "GET", in(room, "messages?"+query), "")
	for _, e := range page["chunk"].([]any) {
		ids = append(ids, e.(answer)["event_id"].(string))
	}
	end, _ = page["end"].(string)
	return ids, end, page
}

// walkAll pages until there is no more.
func (n *node) walkAll(token, room, dir, from string, limit int) []string {
	n.t.Helper()
	var all []string
	for range 10_000 {
		query := fmt.Sprintf("dir=%s&limit=%d", dir, limit)
		if from != "" {
			query += "&from=" + url.QueryEscape(from)
		}
		ids, end, _ := n.page(token, room, query)
		all = append(all, ids...)
		if from = end; end == "" {
			return all
		}
	}
	n.t.Fatal("paging does not end")
	return nil
}

func TestPaginationLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		var before []string
		for i := range 40 {
			before = append(before, n.say("alice", room, fmt.Sprint(i)))
		}
		_, _, top := n.page("alice", room, "dir=b&limit=1")
		start := top["start"].(string)
		_, _, bottom := n.page("alice", room, "dir=f&limit=1")
		var wg sync.WaitGroup
		for sender := range 3 {
			wg.Go(func() {
				for i := range 30 {
					n.raw("alice", "PUT", in(room, fmt.Sprintf("send/m.room.message/c%d-%d", sender, i)), `{"body":"x"}`)
				}
			})
		}
		back := n.walkAll("alice", room, "b", start, 7)
		forward := n.walkAll("alice", room, "f", bottom["start"].(string), 9)
		wg.Wait()
		all := n.walkAll("alice", room, "b", "", 13)
		slices.Reverse(all)
		slices.Reverse(back)
		switch {
		case len(all) != 5+40+90:
			t.Errorf("%d events, want %d", len(all), 5+40+90)
		case !slices.Equal(back, all[:45]):
			t.Errorf("going back while others send: %d events, want the first 45", len(back))
		case !slices.Equal(forward, all[:len(forward)]) || len(forward) < 45:
			t.Errorf("going forward while others send: %d events are not how the room begins", len(forward))
		case !slices.Equal(n.walkAll("alice", room, "f", "", 11), all):
			t.Error("both directions differ")
		case !slices.Equal(before, all[5:45]):
			t.Error("the order is not that of sending")
		}
		for _, limit := range []int{1, 2, 135, 136, 1000} {
			if got := n.walkAll("alice", room, "f", "", limit); !slices.Equal(got, all) {
				t.Errorf("pages of %d: %d events", limit, len(got))
			}
		}
	})
}

func TestMessages(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		n.join("bob", room)
		a, b := n.say("alice", room, "a"), n.say("bob", room, "b")
		n.ok("bob", "PUT", in(room, "send/m.sticker/1"), `{"url":"mxc://a/b"}`)
		for query, code := range map[string]string{
			"":                         "M_MISSING_PARAM",
			"dir=x":                    "M_INVALID_PARAM",
			"dir=b&limit=x":            "M_INVALID_PARAM",
			"dir=b&limit=-1":           "M_INVALID_PARAM",
			"dir=b&from=nonsense":      "M_INVALID_PARAM",
			"dir=b&to=t":               "M_INVALID_PARAM",
			"dir=b&filter={":           "M_INVALID_PARAM",
			`dir=b&filter={"limit":0}`: "M_INVALID_PARAM",
		} {
			n.expect(400, code, "alice", "GET", in(room, "messages?"+query), "")
		}
		n.expect(403, "M_FORBIDDEN", "eve", "GET", in(room, "messages?dir=b"), "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", in("!none:hs", "messages?dir=b"), "")

		filtered := func(filter string) string {
			ids, _, _ := n.page("alice", room, "dir=b&limit=50&filter="+url.QueryEscape(filter))
			return fmt.Sprint(len(ids))
		}
		for filter, want := range map[string]string{
			`{"types":["m.room.message"]}`:                "2",
			`{"types":["m.*r"]}`:                          "3", // two m.room.member, m.sticker
			`{"types":[]}`:                                "0",
			`{"not_types":["m.room.*"]}`:                  "1",
			`{"senders":["@bob:hs"],"not_types":["*er"]}`: "1",
			`{"not_senders":["@alice:hs"]}`:               "3",
			`{"contains_url":true}`:                       "1",
			`{"rooms":[]}`:                                "0",
			`{"not_rooms":["` + room + `"]}`:              "0",
			`{"limit":2}`:                                 "2",
		} {
			if got := filtered(filter); got != want {
				t.Errorf("%s: %s events, want %s", filter, got, want)
			}
		}

		_, _, lazy := n.page("alice", room, "dir=b&limit=2&filter="+url.QueryEscape(`{"lazy_load_members":true,"types":["m.room.message"]}`))
		var members []string
		for _, e := range lazy["state"].([]any) {
			members = append(members, e.(answer)["state_key"].(string))
		}
		if slices.Sort(members); strings.Join(members, " ") != "@alice:hs @bob:hs" {
			t.Errorf("lazy members %v", members)
		}

		at := fmt.Sprintf("s%d", n.hub.Published())
		n.say("alice", room, "later")
		if ids, _, page := n.page("alice", room, "dir=b&limit=2&from="+at); ids[1] != b || page["start"] != at {
			t.Errorf("back from a sync token: %v", page)
		}
		ids, end, _ := n.page("alice", room, "dir=f&from="+at)
		if len(ids) != 1 || end == "" {
			t.Errorf("forward from a sync token: %v %q", ids, end)
		}
		if ids, end, _ := n.page("alice", room, "dir=f&from="+end); len(ids) != 0 || end != "" {
			t.Errorf("beyond the newest event: %v %q", ids, end)
		}
		next := n.say("alice", room, "newest")
		if ids, _, _ := n.page("alice", room, "dir=f&from="+end); len(ids) != 1 || ids[0] != next {
			t.Errorf("what is new after a page: %v", ids)
		}
		_, end, _ = n.page("alice", room, "dir=b&limit=2&from="+at)
		if ids, _, _ := n.page("alice", room, "dir=b&to="+end); len(ids) != 4 || slices.Contains(ids, a) {
			t.Errorf("back to a token: %v", ids)
		}
	})
}

func TestHistoryVisibility(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat","initial_state":[{"type":"m.room.history_visibility","content":{"history_visibility":"joined"}}]}`)
		before := n.say("alice", room, "before")
		n.join("bob", room)
		during := n.say("alice", room, "during")
		n.ok("bob", "POST", in(room, "leave"), ``)
		after := n.say("alice", room, "after")
		ids := n.walkAll("bob", room, "b", "", 2)
		if slices.Contains(ids, before) || !slices.Contains(ids, during) || slices.Contains(ids, after) {
			t.Errorf("bob sees %v", ids)
		}
		n.expect(404, "M_NOT_FOUND", "bob", "GET", in(room, "event/"+url.PathEscape(before)), "")
		n.expect(404, "M_NOT_FOUND", "bob", "GET", in(room, "context/"+url.PathEscape(after)), "")
		n.expect(404, "M_NOT_FOUND", "eve", "GET", in(room, "event/"+url.PathEscape(during)), "")
		n.ok("bob", "GET", in(room, "event/"+url.PathEscape(during)), "")
		n.setState("alice", room, "m.room.topic", `{"topic":"new"}`)
		n.expect(404, "M_NOT_FOUND", "bob", "GET", in(room, "state/m.room.topic"), "")
		n.ok("bob", "POST", in(room, "forget"), ``)
		n.expect(403, "M_FORBIDDEN", "bob", "GET", in(room, "messages?dir=b"), "")
		n.expect(403, "M_FORBIDDEN", "bob", "GET", in(room, "messages"), "")
		n.expect(404, "M_NOT_FOUND", "bob", "GET", in(room, "event/"+url.PathEscape(during)), "")

		n.setState("alice", room, "m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		open := n.say("alice", room, "open")
		if ids := n.walkAll("eve", room, "b", "", 3); !slices.Contains(ids, open) || slices.Contains(ids, before) {
			t.Errorf("the world sees %v", ids)
		}
		n.ok("guest1", "GET", in(room, "state/m.room.topic"), "")
	})
}

func TestContext(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		n.join("bob", room)
		var sent []string
		for i := range 9 {
			sent = append(sent, n.say("bob", room, fmt.Sprint(i)))
		}
		path := in(room, "context/"+url.PathEscape(sent[4]))
		c := n.ok("alice", "GET", path+"?limit=4&filter="+url.QueryEscape(`{"lazy_load_members":true}`), "")
		id := func(key string, i int) any { return c[key].([]any)[i].(answer)["event_id"] }
		if c["event"].(answer)["event_id"] != sent[4] || id("events_before", 0) != sent[3] || id("events_before", 1) != sent[2] ||
			id("events_after", 0) != sent[5] || id("events_after", 1) != sent[6] || len(c["events_before"].([]any)) != 2 || len(c["events_after"].([]any)) != 2 {
			t.Errorf("context %v", c)
		}
		for _, e := range c["state"].([]any) {
			if e := e.(answer); e["type"] == "m.room.member" && e["state_key"] != "@bob:hs" {
				t.Errorf("lazy state has %v", e)
			}
		}
		if ids, _, _ := n.page("alice", room, "dir=b&limit=1&from="+c["start"].(string)); ids[0] != sent[1] {
			t.Error("the start token does not continue")
		}
		if ids, _, _ := n.page("alice", room, "dir=f&limit=1&from="+c["end"].(string)); ids[0] != sent[7] {
			t.Error("the end token does not continue")
		}
		c = n.ok("alice", "GET", path+"?limit=0", "")
		if len(c["events_before"].([]any)) != 0 || len(c["state"].([]any)) != 6 {
			t.Errorf("without events: %v", c)
		}
		n.expect(404, "M_NOT_FOUND", "alice", "GET", in(room, "context/$none"), "")

		ts := n.ok("alice", "GET", in(room, "event/"+url.PathEscape(sent[4])), "")["origin_server_ts"].(float64)
		near := strings.Replace(in(room, "timestamp_to_event"), "/v3/", "/v1/", 1)
		if e := n.ok("alice", "GET", fmt.Sprintf("%s?dir=f&ts=%.0f", near, ts), ""); e["origin_server_ts"].(float64) != ts {
			t.Errorf("the nearest event is %v", e)
		}
		n.expect(404, "M_NOT_FOUND", "alice", "GET", near+"?dir=b&ts=1", "")
		n.expect(400, "M_INVALID_PARAM", "alice", "GET", near+"?dir=b", "")
		n.expect(400, "M_INVALID_PARAM", "alice", "GET", near+"?ts=1", "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", near+"?dir=b&ts=1", "")
	})
}

func TestBundle(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{}`)
		id := n.say("alice", room, "root")
		bundle := func(_ *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) (func(*store.Stored, *event.ClientOptions), error) {
			return func(e *store.Stored, o *event.ClientOptions) {
				o.Relations = []byte(fmt.Sprintf(`{"for":%q,"of":%d}`, v.User, len(events)))
			}, nil
		}
		api := New(Options{ServerName: "hs", Rooms: n.s, DB: n.s.Store.DB, Hub: n.hub, Bundle: bundle})
		n.router = shapes.Watched(t, httpx.NewRouter(api.Routes(), httpx.Hooks{Authenticate: authenticate}))
		e := n.ok("alice", "GET", in(room, "event/"+url.PathEscape(id)), "")
		_, _, page := n.page("alice", room, "dir=b&limit=2")
		for what, e := range map[string]any{"of:1": e, "of:2": page["chunk"].([]any)[0]} {
			if got := fmt.Sprint(e.(answer)["unsigned"].(answer)["m.relations"]); got != "map[for:@alice:hs "+what+"]" {
				t.Errorf("relations %s, want %s", got, what)
			}
		}
	})
}
