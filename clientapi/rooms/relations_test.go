package rooms

import "testing"

// TestRelationsAreChecked asks for what only the relations' index knows: the same reaction twice.
func TestRelationsAreChecked(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		n.join("bob", room)
		parent := n.say("alice", room, "hello")
		reaction := `{"m.relates_to":{"rel_type":"m.annotation","event_id":"` + parent + `","key":"👍"}}`
		first := n.ok("alice", "PUT", in(room, "send/m.reaction/r1"), reaction)["event_id"]
		n.expect(400, "M_DUPLICATE_ANNOTATION", "alice", "PUT", in(room, "send/m.reaction/r2"), reaction)
		if again := n.ok("alice", "PUT", in(room, "send/m.reaction/r1"), reaction)["event_id"]; again != first {
			t.Errorf("the same transaction made %v, before %v", again, first)
		}
		n.ok("bob", "PUT", in(room, "send/m.reaction/r1"), reaction)
	})
}
