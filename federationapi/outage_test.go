package federationapi_test

import (
	"fmt"
	"testing"

	"knock/roomserver"
)

func TestPeerIsDownAndComesBack(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		b.sees(room, a.say(room, a.user("alice"), "before"))
		b.down.Store(true)
		var missed []string
		for i := range 120 {
			missed = append(missed, a.say(room, a.user("alice"), fmt.Sprint("missed ", i)))
		}
		b.down.Store(false)
		a.sees(room, b.say(room, b.user("bob"), "back again")) // which wakes a's queue
		for _, id := range missed {
			b.sees(room, id)
		}
		b.inOrder(room, missed)
	})
}

// inOrder checks that events were delivered to a room in this order.
func (n *node) inOrder(room string, ids []string) {
	n.t.Helper()
	events, _, err := n.rooms.Timeline(n.t.Context(), room, 0, n.hub.Published(), 10_000)
	must(n.t, err)
	next := 0
	for _, e := range events {
		if next < len(ids) && e.ID == ids[next] {
			next++
		}
	}
	if next != len(ids) {
		n.t.Fatalf("%s has only %d of %d events in their order", n.name, next, len(ids))
	}
}

func TestQueuesOutliveARestart(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		must(t, c.join(room, c.user("carol"), a))
		b.knows(room, c.user("carol"), "join")
		b.sees(room, a.say(room, a.user("alice"), "before"))
		private := a.create(roomserver.CreateRequest{})
		must(t, a.membership(private, a.user("alice"), b.user("dave"), "invite"))
		b.knows(private, b.user("dave"), "invite")

		b.down.Store(true)
		must(t, a.membership(private, a.user("alice"), b.user("dave"), "leave"))
		first := a.say(room, a.user("alice"), "missed")
		must(t, a.membership(room, a.user("alice"), b.user("bob"), "ban"))
		after := a.say(room, a.user("alice"), "not for b")
		c.sees(room, after)
		a.restart()
		b.down.Store(false)
		b.knows(private, b.user("dave"), "leave")
		b.sees(room, first)
		b.knows(room, b.user("bob"), "ban")
		if b.has(room, after) {
			t.Fatal("a server that is no longer in the room got an event")
		}
		sent := c.asked.Load()
		a.restart()
		c.sees(room, a.say(room, a.user("alice"), "goes on"))
		if n := c.asked.Load() - sent; n > 8 {
			t.Errorf("%d requests after a restart: what was delivered is sent again", n)
		}
	})
}

// TestLongOutage has more missed than is sent: the rest is asked for.
func TestLongOutage(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		b.sees(room, a.say(room, a.user("alice"), "before"))
		b.down.Store(true)
		a.setState(room, a.user("alice"), "m.room.topic", `{"topic":"missed"}`)
		var last string
		for i := range 600 {
			last = a.say(room, a.user("alice"), fmt.Sprint("missed ", i))
		}
		b.down.Store(false)
		a.sees(room, b.say(room, b.user("bob"), "back again"))
		b.sees(room, last)
		eventually(t, "b has the state", func() bool { return b.state(room, "m.room.topic", "topic") == "missed" })
	})
}
