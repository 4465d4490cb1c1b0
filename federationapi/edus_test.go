package federationapi_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"knock/roomserver"
)

func (n *node) types(room, user string) bool {
	return slices.Contains(n.typing.Since([]string{room}, 0, 1<<60)[room], user)
}

func TestTypingBetweenServers(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		b.typing.Set(room, b.user("bob"), true, time.Minute)
		eventually(t, "bob types", func() bool { return a.types(room, b.user("bob")) })
		b.typing.Set(room, b.user("bob"), false, 0)
		eventually(t, "bob stopped", func() bool { return !a.types(room, b.user("bob")) })

		typing := func(from *node, txn, user string) {
			t.Helper()
			edu := fmt.Sprintf(`{"content":{"room_id":%q,"typing":true,"user_id":%q},"edu_type":"m.typing"}`, room, user)
			if status, answer := from.transact(a, txn, nil, []string{edu}); status != 200 {
				t.Errorf("%d %s", status, answer)
			}
		}
		typing(c, "t1", c.user("carol"))
		typing(b, "t1", a.user("alice"))
		typing(b, "t2", b.user("stranger"))
		for _, user := range []string{c.user("carol"), a.user("alice"), b.user("stranger")} {
			if a.types(room, user) {
				t.Errorf("%s is said to type", user)
			}
		}
		a.setState(room, a.user("alice"), "m.room.server_acl", `{"allow":["*"],"deny":["b.test"]}`)
		typing(b, "t3", b.user("bob"))
		if a.types(room, b.user("bob")) {
			t.Error("a denied server's user is said to type")
		}
	})
}
