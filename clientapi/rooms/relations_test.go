package rooms

import (
	"net/url"
	"slices"
	"testing"

	"knock/internal/relations"
)

// TestFilterByRelations filters by the relations that events have, and by what relates to them.
func TestFilterByRelations(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		n.join("bob", room)
		root := n.say("alice", room, "root")
		relate := func(user, txn, rel, parent string) string {
			return n.ok(user, "PUT", in(room, "send/m.room.message/rel"+txn),
				`{"msgtype":"m.text","body":"x","m.relates_to":{"rel_type":"`+rel+`","event_id":"`+parent+`"}}`)["event_id"].(string)
		}
		thread := relate("alice", "1", "m.thread", root)
		reference := relate("bob", "2", "m.reference", thread)
		gone := n.say("alice", room, "without")
		n.ok("alice", "PUT", in(room, "redact/"+relate("bob", "3", "m.reference", gone)+"/1"), "{}")
		for filter, want := range map[string][]string{
			`"org.matrix.msc3874.rel_types":["m.thread"]`:                               {thread},
			`"org.matrix.msc3874.rel_types":["m.thread","m.reference"]`:                 {reference, thread},
			`"org.matrix.msc3874.not_rel_types":["m.thread"],"not_senders":["@bob:hs"]`: {gone, root},
			`"related_by_rel_types":["m.thread"]`:                                       {root},
			`"related_by_rel_types":["m.reference"]`:                                    {thread},
			`"related_by_rel_types":["m.thread","m.reference","x"]`:                     {thread, root},
			`"related_by_senders":["@alice:hs"]`:                                        {root},
			`"related_by_senders":["@alice:hs","@bob:hs"]`:                              {thread, root},
			`"related_by_rel_types":["m.thread"],"related_by_senders":["@bob:hs"]`:      {},
			`"related_by_rel_types":[]`:                                                 {},
		} {
			got, _, _ := n.page("alice", room, "dir=b&limit=50&filter="+url.QueryEscape(`{"types":["m.room.message"],`+filter+`}`))
			if !slices.Equal(got, want) {
				t.Errorf("%s: %v, want %v", filter, got, want)
			}
		}
		long := `"x"`
		for range relations.MaxNamed {
			long += `,"x"`
		}
		n.expect(400, "M_INVALID_PARAM", "alice", "GET", in(room, "messages?dir=b&filter="+url.QueryEscape(`{"related_by_senders":[`+long+`]}`)), "")
	})
}

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
