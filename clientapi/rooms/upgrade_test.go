package rooms

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"knock/roomserver/store"
)

func TestUpgrade(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		ctx := context.Background()
		for _, c := range []struct{ from, to string }{{"1", "11"}, {"6", "12"}, {"9", "10"}, {"11", "12"}, {"12", "12"}, {"12", "11"}, {"12", "1"}} {
			name := c.from + "to" + c.to
			room := n.create("alice", fmt.Sprintf(`{"room_version":%q,"room_alias_name":"a%s","name":"N","topic":"T","visibility":"public","creation_content":{"type":"m.space","m.federate":false},
				"initial_state":[{"type":"m.room.history_visibility","content":{"history_visibility":"invited"}},{"type":"m.room.encryption","content":{"algorithm":"m.megolm.v1.aes-sha2"}},{"type":"m.room.guest_access","content":{"guest_access":"can_join"}},
				{"type":"m.room.server_acl","content":{"allow":["*"],"deny":["evil"]}},{"type":"m.room.avatar","content":{"url":"mxc://a/b"}},
				{"type":"m.space.child","state_key":"!c:hs","content":{"via":["hs"]}},{"type":"m.space.child","state_key":"!d:hs","content":{}},{"type":"x.y","content":{"a":1}}]}`, c.from, name))
			if err := n.s.AddAlias(ctx, store.Alias{Alias: "#b" + name + ":hs", RoomID: room, Creator: "@alice:hs"}); err != nil {
				t.Fatal(err)
			}
			n.join("bob", room)
			n.ok("alice", "POST", in(room, "ban"), `{"user_id":"@eve:hs","reason":"spam"}`)
			levels := n.content("alice", room, "m.room.power_levels")
			users := levels["users"].(answer)
			users["@bob:hs"] = 60
			levels["kick"] = 40
			n.setState("alice", room, "m.room.power_levels", string(encode(levels)))
			last := n.say("alice", room, "last")

			n.expect(400, "M_MISSING_PARAM", "alice", "POST", in(room, "upgrade"), `{}`)
			n.expect(400, "M_UNSUPPORTED_ROOM_VERSION", "alice", "POST", in(room, "upgrade"), `{"new_version":"x"}`)
			n.expect(403, "M_FORBIDDEN", "bob", "POST", in(room, "upgrade"), `{"new_version":"11"}`)
			n.expect(403, "M_FORBIDDEN", "dave", "POST", in(room, "upgrade"), `{"new_version":"11"}`)
			next := n.ok("alice", "POST", in(room, "upgrade"), `{"new_version":"`+c.to+`","additional_creators":["@carol:hs"]}`)["replacement_room"].(string)

			got := func(typ, key string) string { return fmt.Sprint(n.content("alice", next, typ)[key]) }
			create := n.content("alice", next, "m.room.create")
			predecessor := create["predecessor"].(answer)
			if predecessor["room_id"] != room || create["type"] != "m.space" || create["m.federate"] != false || create["room_version"] != c.to || c.to != "12" && predecessor["event_id"] != last {
				t.Errorf("%s: m.room.create %v", name, create)
			}
			for what, want := range map[string]string{
				"m.room.name name": "N", "m.room.topic topic": "T", "m.room.avatar url": "mxc://a/b", "m.room.history_visibility history_visibility": "invited",
				"m.room.encryption algorithm": "m.megolm.v1.aes-sha2", "m.room.server_acl deny": "[evil]", "m.room.join_rules join_rule": "public",
				"m.room.guest_access guest_access": "can_join", "m.room.member/@eve:hs membership": "ban", "m.room.member/@eve:hs reason": "spam",
				"m.room.canonical_alias alias": "#a" + name + ":hs", "m.space.child/!c:hs via": "[hs]", "m.room.power_levels kick": "40",
			} {
				if typ, key, _ := strings.Cut(what, " "); got(typ, key) != want {
					t.Errorf("%s: %s is %s, want %s", name, what, got(typ, key), want)
				}
			}
			for _, absent := range []string{"x.y", "m.space.child/!d:hs", "m.room.member/@bob:hs"} {
				n.expect(404, "M_NOT_FOUND", "alice", "GET", in(next, "state/"+absent), "")
			}
			now := n.content("alice", next, "m.room.power_levels")["users"].(answer)
			if _, listed := now["@alice:hs"]; now["@bob:hs"] != 60.0 || listed == (c.to == "12") {
				t.Errorf("%s: power levels %v", name, now)
			}
			if c.to == "12" && fmt.Sprint(create["additional_creators"]) != "[@carol:hs]" {
				t.Errorf("%s: creators %v", name, create)
			}
			for _, alias := range []string{"#a", "#b"} {
				if id, _, err := n.s.ResolveAlias(ctx, alias+name+":hs"); id != next {
					t.Errorf("%s: the alias %s stayed: %v", name, alias, err)
				}
			}
			old, _ := n.s.IsPublished(ctx, room)
			if public, _ := n.s.IsPublished(ctx, next); !public || old {
				t.Errorf("%s: in the directory: old %v, new %v", name, old, public)
			}
			if n.content("alice", room, "m.room.tombstone")["replacement_room"] != next || len(n.content("alice", room, "m.room.canonical_alias")) != 0 {
				t.Errorf("%s: the old room does not point to the new one", name)
			}
			closed := n.content("alice", room, "m.room.power_levels")
			if closed["events_default"] != 50.0 || closed["invite"] != 50.0 {
				t.Errorf("%s: the old room's power levels %v", name, closed)
			}
		}
	})
}

// A moderator who may upgrade a room, but not set all of its state, gets no
// more power by it.
func TestUpgradeByModerator(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"room_version":"9","preset":"public_chat","power_level_content_override":{"users":{"@alice:hs":100,"@bob:hs":50,"@eve:hs":70},"ban":"50","events":{"m.room.tombstone":50,"m.room.server_acl":100}},
			"initial_state":[{"type":"m.room.server_acl","content":{"allow":["*"]}}]}`)
		n.join("bob", room)
		n.ok("alice", "POST", in(room, "ban"), `{"user_id":"@eve:hs"}`)
		next := n.ok("bob", "POST", in(room, "upgrade"), `{"new_version":"11"}`)["replacement_room"].(string)
		levels := n.content("bob", next, "m.room.power_levels")
		if users := levels["users"].(answer); users["@bob:hs"] != 50.0 || users["@alice:hs"] != 100.0 || levels["ban"] != 50.0 {
			t.Errorf("power levels %v", levels)
		}
		if n.content("bob", next, "m.room.member/@eve:hs")["membership"] != "ban" {
			t.Error("the ban was lost")
		}
		n.expect(403, "M_FORBIDDEN", "bob", "PUT", in(next, "state/m.room.server_acl"), `{"allow":[]}`)
	})
}

func TestSettingsOfReplacedRooms(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		old := n.create("alice", `{"preset":"public_chat","room_version":"10"}`)
		n.join("bob", old)
		if len(n.replaced) != 0 {
			t.Errorf("a room that replaces none: %v", n.replaced)
		}
		next := n.ok("alice", "POST", in(old, "upgrade"), `{"new_version":"11"}`)["replacement_room"].(string)
		n.join("bob", next)
		n.join("bob", next)
		byHand := n.create("alice", `{"preset":"public_chat","creation_content":{"predecessor":{"room_id":"`+next+`"}}}`)
		n.ok("bob", "PUT", in(byHand, "state/m.room.member/@bob:hs"), `{"membership":"join"}`)
		want := []string{"@alice:hs " + old + " " + next, "@bob:hs " + old + " " + next, "@alice:hs " + next + " " + byHand, "@bob:hs " + next + " " + byHand}
		if !slices.Equal(n.replaced, want) {
			t.Errorf("got %v, want %v", n.replaced, want)
		}
	})
}
