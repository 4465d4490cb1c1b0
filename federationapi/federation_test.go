package federationapi_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"

	"knock/internal/schema"
	"knock/roomserver"
)

var schemaFiles = schema.Files

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMessagesBothWays(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"1", "10", "11", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, Preset: "public_chat", Name: "Room " + version})
			must(t, b.join(room, b.user("bob"), a))
			a.knows(room, b.user("bob"), "join")
			for i := range 3 {
				b.sees(room, a.say(room, a.user("alice"), fmt.Sprint("from a ", i)))
				a.sees(room, b.say(room, b.user("bob"), fmt.Sprint("from b ", i)))
			}
			a.setState(room, a.user("alice"), "m.room.topic", `{"topic":"news"}`)
			eventually(t, "the topic is there", func() bool { return b.state(room, "m.room.topic", "topic") == "news" })
			must(t, b.rooms.Leave(t.Context(), room, b.user("bob"), ""))
			a.knows(room, b.user("bob"), "leave")
		}
	})
}
