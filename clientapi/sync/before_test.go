package sync

import (
	"net/http"
	"testing"

	"knock/internal/httpx"
	"knock/roomserver"
	"knock/test/shapes"
)

// TestBeforeSync uses the API before /sync: all rooms at first, then what happens.
func TestBeforeSync(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "R"})
		g.join(room, b)
		old, left := g.create(roomserver.CreateRequest{Creator: a}), g.create(roomserver.CreateRequest{Creator: a})
		g.join(left, b)
		g.member(left, b, b, "leave")
		banned := g.create(roomserver.CreateRequest{Creator: a})
		g.join(banned, b)
		g.member(banned, a, b, "ban")
		said := g.say(room, a, "one")
		g.member(old, a, b, "invite")

		_, first := g.call(b, "GET", "/_matrix/client/v3/initialSync?limit=1", "")
		expect(t, "rooms", first.Get("rooms.#").Int(), int64(2))
		joined := first.Get(`rooms.#(membership=="join")`)
		expect(t, "room", joined.Get("room_id").Str, room)
		expect(t, "messages", joined.Get("messages.chunk.#.event_id").Raw, `["`+said+`"]`)
		expect(t, "the room of a message", joined.Get("messages.chunk.0.room_id").Str, room)
		expect(t, "name", joined.Get(`state.#(type=="m.room.name").content.name`).Str, "R")
		invited := first.Get(`rooms.#(membership=="invite")`)
		expect(t, "invite", invited.Get("room_id").Str, old)
		expect(t, "inviter", invited.Get("invite.sender").Str, a)
		_, archived := g.call(b, "GET", "/_matrix/client/v3/initialSync?archived=true", "")
		expect(t, "archived", archived.Get(`rooms.#(membership=="leave").room_id`).Str, left)
		expect(t, "banned", archived.Get(`rooms.#(membership=="ban").room_id`).Str, banned)

		g.router = g.events()
		since := first.Get("end").Str
		_, res := g.call(b, "GET", "/_matrix/client/v3/events?from="+since, "")
		expect(t, "nothing yet", res.Get("chunk").Raw, "[]")
		next := g.say(room, a, "two")
		_, res = g.call(b, "GET", "/_matrix/client/v3/events?timeout=10000&from="+since, "")
		expect(t, "the message", res.Get("chunk.#.event_id").Raw, `["`+next+`"]`)
		expect(t, "its room", res.Get("chunk.0.room_id").Str, room)
		_, res = g.call(b, "GET", "/_matrix/client/v3/events?from="+res.Get("end").Str, "")
		expect(t, "once", res.Get("chunk").Raw, "[]")
		status, _ := g.call(b, "GET", "/_matrix/client/v3/events?from=x", "")
		expect(t, "a bad token", status, 400)
	})
}

// events serves GET /events, which another door routes.
func (g *rig) events() http.Handler {
	return shapes.Watched(g.t, httpx.NewRouter([]httpx.Route{{Method: "GET", Path: "/_matrix/client/v3/events", Handler: g.sync.Events, Auth: httpx.AuthUser, Waits: true}}, g.hooks()))
}
