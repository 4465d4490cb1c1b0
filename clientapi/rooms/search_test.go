package rooms

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"knock/internal/httpx"
	"knock/test/shapes"
)

// find searches and returns the answer's room_events and the ids of the results.
func (n *node) find(token, query, next string) (answer, []string) {
	n.t.Helper()
	path := v3 + "search"
	if next != "" {
		path += "?next_batch=" + url.QueryEscape(next)
	}
	found := n.ok(token, "POST", path, `{"search_categories":{"room_events":`+query+`}}`)["search_categories"].(answer)["room_events"].(answer)
	ids := []string{}
	for _, r := range found["results"].([]any) {
		ids = append(ids, r.(answer)["result"].(answer)["event_id"].(string))
	}
	return found, ids
}

func TestSearch(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat","name":"码头"}`)
		other := n.create("bob", `{"preset":"public_chat"}`)
		n.ok("bob", "POST", in(room, "join"), "{}")
		first := n.say("alice", room, "今天的会议改到下午")
		n.say("bob", room, "好")
		second := n.say("bob", room, "下午的会议室是哪个？")
		third := n.say("bob", other, "会议取消")

		found, ids := n.find("alice", `{"search_term":"会议","order_by":"recent"}`, "")
		if !slices.Equal(ids, []string{second, first}) || found["count"] != 2.0 || found["next_batch"] != nil || fmt.Sprint(found["highlights"]) != "[会议]" {
			t.Error(ids, found)
		}
		_, ids = n.find("bob", `{"search_term":"会议","order_by":"recent","filter":{"senders":["@bob:hs"]}}`, "")
		if !slices.Equal(ids, []string{third, second}) {
			t.Error("of bob:", ids)
		}
		if _, ids = n.find("bob", `{"search_term":"码头","keys":["content.name"]}`, ""); len(ids) != 1 {
			t.Error("by name:", ids)
		}

		found, _ = n.find("alice", `{"search_term":"哪个","include_state":true,"event_context":{"before_limit":1,"include_profile":true}}`, "")
		around := found["results"].([]any)[0].(answer)["context"].(answer)
		before := around["events_before"].([]any)
		if len(before) != 1 || before[0].(answer)["content"].(answer)["body"] != "好" || len(around["events_after"].([]any)) != 0 {
			t.Error("context:", around)
		}
		if who := around["profile_info"].(answer)["@bob:hs"].(answer); who["displayname"] != "BOB" || who["avatar_url"] != "mxc://hs/bob" {
			t.Error("profiles:", around["profile_info"])
		}
		if _, _, page := n.page("alice", room, "dir=b&limit=1&from="+around["start"].(string)); len(page["chunk"].([]any)) != 1 {
			t.Error("the context's start is no token for /messages")
		}
		if state := found["state"].(answer)[room].([]any); len(state) < 5 {
			t.Error("state:", state)
		}
	})
}

func TestSearchPagesAndGroups(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		rooms := []string{n.create("alice", `{"preset":"public_chat"}`), n.create("alice", `{"preset":"public_chat"}`)}
		of := map[string][]string{}
		var all []string
		for i := range 9 {
			room := rooms[i%2]
			id := n.say("alice", room, fmt.Sprint("number ", i))
			of[room] = append([]string{id}, of[room]...)
			all = append([]string{id}, all...)
		}
		const query = `{"search_term":"number","order_by":"recent","filter":{"limit":4},"groupings":{"group_by":[{"key":"room_id"},{"key":"sender"}]}}`
		page, got := n.find("alice", query, "")
		groups := page["groups"].(answer)["room_id"].(answer)
		group := groups[rooms[0]].(answer)
		if group["order"] != 1.0 || fmt.Sprint(group["results"]) != fmt.Sprint(of[rooms[0]][:2]) || groups[rooms[1]].(answer)["order"] != 2.0 {
			t.Error(groups)
		}
		_, rest := n.find("alice", query, group["next_batch"].(string))
		if !slices.Equal(rest, of[rooms[0]][2:]) {
			t.Error("more of a group:", rest, "want", of[rooms[0]][2:])
		}
		sender := page["groups"].(answer)["sender"].(answer)["@alice:hs"].(answer)
		if _, rest = n.find("alice", query, sender["next_batch"].(string)); !slices.Equal(rest, all[4:8]) {
			t.Error("more of a sender:", rest)
		}
		for page["next_batch"] != nil {
			var ids []string
			page, ids = n.find("alice", query, page["next_batch"].(string))
			got = append(got, ids...)
		}
		if !slices.Equal(got, all) {
			t.Error(got, "want", all)
		}
	})
}

func TestSearchRefuses(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		path := v3 + "search"
		for body, code := range map[string]string{
			`{}`: "M_MISSING_PARAM",
			`{"search_categories":{"room_events":{}}}`:                                                         "M_MISSING_PARAM",
			`{"search_categories":{"room_events":{"search_term":"a","order_by":"x"}}}`:                         "M_INVALID_PARAM",
			`{"search_categories":{"room_events":{"search_term":"a","keys":["content.x"]}}}`:                   "M_INVALID_PARAM",
			`{"search_categories":{"room_events":{"search_term":"a","keys":[]}}}`:                              "M_INVALID_PARAM",
			`{"search_categories":{"room_events":{"search_term":"a","filter":{"limit":0}}}}`:                   "M_INVALID_PARAM",
			`{"search_categories":{"room_events":{"search_term":"a","groupings":{"group_by":[{"key":"x"}]}}}}`: "M_INVALID_PARAM",
		} {
			n.expect(400, code, "alice", "POST", path, body)
		}
		const good = `{"search_categories":{"room_events":{"search_term":"a"}}}`
		for _, token := range []string{"x", "room_id.x.y", "a.b.c", "..", "room_id.IWE."} {
			n.expect(400, "M_INVALID_PARAM", "alice", "POST", path+"?next_batch="+token, good)
		}
		n.ok("alice", "POST", path, `{"search_categories":{}}`)
		o := n.o
		o.Search = nil
		n.router = shapes.Watched(t, httpx.NewRouter(New(o).Routes(), httpx.Hooks{Authenticate: authenticate}))
		n.expect(403, "M_FORBIDDEN", "alice", "POST", path, good)
	})
}
