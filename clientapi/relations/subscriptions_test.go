package relations

import (
	"context"
	"encoding/json"
	"net/url"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
)

// say sends as alice.
func (n *node) say(room, content string) string {
	n.t.Helper()
	id, err := n.rooms.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@alice:hs", Type: "m.room.message", Content: json.RawMessage(content)})
	if err != nil {
		n.t.Fatal(err)
	}
	return id
}

func TestSubscriptions(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db)
		room := n.create("public_chat")
		root := n.say(room, `{"body":"root"}`)
		reply := func() string {
			return n.say(room, `{"m.relates_to":{"rel_type":"m.thread","event_id":"`+root+`"}}`)
		}
		path := func(room, root string) string {
			return "unstable/io.element.msc4306/rooms/" + url.PathEscape(room) + "/thread/" + url.PathEscape(root) + "/subscription"
		}
		do := func(user, method, path, body string, status int, code string) {
			t.Helper()
			got, res := n.call(user, method, path, body)
			if got != status || res.Get("errcode").Str != code {
				t.Errorf("%s %s %s: %d %s, want %d %s", user, method, body, got, res.Raw, status, code)
			}
		}
		automatic := func(want bool) {
			t.Helper()
			if code, res := n.call("alice", "GET", path(room, root), ""); code != 200 || res.Get("automatic").Bool() != want {
				t.Errorf("%d %s, want automatic %v", code, res.Raw, want)
			}
		}
		here := path(room, root)
		do("alice", "GET", here, "", 404, "M_NOT_FOUND")
		do("alice", "DELETE", here, "", 200, "")
		one := reply()
		do("alice", "PUT", here, `{"automatic":"`+one+`"}`, 200, "")
		automatic(true)
		do("alice", "PUT", here, `{}`, 200, "")
		automatic(false)
		do("alice", "PUT", here, `{"automatic":"`+one+`"}`, 200, "")
		automatic(false)
		two := reply()
		do("alice", "DELETE", here, "", 200, "")
		three := reply()
		do("alice", "GET", here, "", 404, "M_NOT_FOUND")
		for _, cause := range []string{one, two} {
			do("alice", "PUT", here, `{"automatic":"`+cause+`"}`, 409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
		}
		do("alice", "PUT", here, `{"automatic":"`+three+`"}`, 200, "")
		automatic(true)

		do("alice", "PUT", here, `{"automatic":"`+root+`"}`, 400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
		do("alice", "PUT", here, `{"automatic":""}`, 400, "M_INVALID_PARAM")
		do("alice", "PUT", here, `{"automatic":"$none"}`, 404, "M_NOT_FOUND")
		do("alice", "PUT", path(room, "$none"), `{}`, 404, "M_NOT_FOUND")
		do("alice", "PUT", path("!none:hs", root), `{}`, 404, "M_NOT_FOUND")
		private := n.create("private_chat")
		secret := n.say(private, `{"body":"root"}`)
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			do("eve", method, path(private, secret), `{}`, 404, "M_NOT_FOUND")
		}
	})
}

func TestSubscriptionsPage(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		n := newNode(t, db)
		room := n.create("public_chat")
		all := map[string]bool{}
		for range 7 {
			root := n.say(room, `{"body":"root"}`)
			all[root] = true
			if code, res := n.call("alice", "PUT", "unstable/io.element.msc4306/rooms/"+url.PathEscape(room)+"/thread/"+url.PathEscape(root)+"/subscription", `{}`); code != 200 {
				t.Fatal(code, res.Raw)
			}
		}
		const list = "unstable/io.element.msc4308/thread_subscriptions?dir=b&limit=3"
		for pages, from := 0, ""; ; pages++ {
			code, res := n.call("alice", "GET", list+from, "")
			if code != 200 || pages > 3 {
				t.Fatal(code, res.Raw)
			}
			for root := range res.Get("subscribed").Map()[room].Map() {
				if !all[root] {
					t.Error("listed twice:", root)
				}
				delete(all, root)
			}
			if !res.Get("end").Exists() {
				break
			}
			from = "&from=" + res.Get("end").Str
		}
		if len(all) != 0 {
			t.Error("not listed:", all)
		}
		if _, res := n.call("alice", "GET", list+"&to=s999999999", ""); len(res.Get("subscribed").Map()) != 0 {
			t.Error("older than a sync:", res.Raw)
		}
		for _, bad := range []string{"thread_subscriptions", "thread_subscriptions?dir=f", "thread_subscriptions?dir=b&from=x", "thread_subscriptions?dir=b&to=x", "thread_subscriptions?dir=b&limit=0"} {
			if code, res := n.call("alice", "GET", "unstable/io.element.msc4308/"+bad, ""); code != 400 {
				t.Error(bad, code, res.Raw)
			}
		}
	})
}
