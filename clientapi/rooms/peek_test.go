package rooms

import (
	"net/url"
	"testing"

	"github.com/tidwall/gjson"
)

// got reads what is there.
func (n *node) got(token, path string) gjson.Result {
	n.t.Helper()
	status, body := n.raw(token, "GET", path, "")
	if status != 200 {
		n.t.Fatalf("GET %s as %s: %d %s", path, token, status, body)
	}
	return gjson.ParseBytes(body)
}

// TestPeeking has a user look into a room of others, and one whom nobody shows anything.
func TestPeeking(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat","visibility":"public","name":"Shop"}`)
		said := n.say("alice", room, "good morning")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", in(room, "initialSync"), "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", "/_matrix/client/v3/events?room_id="+url.QueryEscape(room), "")
		n.expect(404, "M_NOT_FOUND", "eve", "GET", "/_matrix/client/v3/events/"+url.PathEscape(said), "")
		n.expect(404, "M_NOT_FOUND", "eve", "GET", "/_matrix/client/v3/events/$none", "")
		if got := n.got("alice", "/_matrix/client/v3/events/"+url.PathEscape(said)); got.Get("room_id").Str != room || got.Get("event_id").Str != said {
			t.Errorf("the event: %s", got.Raw)
		}
		own := n.got("alice", in(room, "initialSync"))
		if own.Get("membership").Str != "join" || own.Get("visibility").Str != "public" || !own.Get(`state.#(type=="m.room.name")`).Exists() {
			t.Errorf("alice's room: %s", own.Raw)
		}

		n.setState("alice", room, "m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		open := n.say("alice", room, "open")
		shown := n.got("eve", in(room, "initialSync?limit=1"))
		if shown.Get("messages.chunk.#.event_id").Raw != `["`+open+`"]` || shown.Get("membership").Exists() || !shown.Get("state.0").Exists() {
			t.Errorf("eve's view: %s", shown.Raw)
		}
		peek := "/_matrix/client/v3/events?room_id=" + url.QueryEscape(room) + "&from="
		end := shown.Get("messages.end").Str
		nothing := n.got("eve", peek+url.QueryEscape(end))
		if nothing.Get("chunk").Raw != "[]" || nothing.Get("end").Str != end {
			t.Errorf("nothing new: %s", nothing.Raw)
		}
		next := n.say("alice", room, "next")
		news := n.got("eve", peek+url.QueryEscape(end))
		if news.Get("chunk.#.event_id").Raw != `["`+next+`"]` {
			t.Errorf("news: %s", news.Raw)
		}
		again := n.got("eve", peek+url.QueryEscape(news.Get("end").Str))
		if again.Get("chunk").Raw != "[]" {
			t.Errorf("told twice: %s", again.Raw)
		}
		n.expect(400, "M_INVALID_PARAM", "eve", "GET", peek+"nonsense", "")
		n.expect(400, "M_MISSING_PARAM", "eve", "GET", "/_matrix/client/v3/events", "")
	})
}
