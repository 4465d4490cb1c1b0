package rooms

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"knock/roomserver/event"
)

func TestMemberships(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"room_alias_name":"den"}`)
		bob := `{"user_id":"@bob:hs","reason":"r"}`
		for _, step := range []struct {
			token, path, body string
			status            int
			code              string
		}{
			{"bob", "join", ``, 403, "M_FORBIDDEN"},
			{"bob", "invite", bob, 403, "M_FORBIDDEN"},
			{"alice", "invite", `{}`, 400, "M_MISSING_PARAM"},
			{"alice", "invite", `{"user_id":"bob"}`, 400, "M_INVALID_PARAM"},
			{"alice", "invite", `{"user_id":1}`, 400, "M_BAD_JSON"},
			{"alice", "invite", `{"medium":"email","address":"a@b","id_server":"x","id_access_token":"y"}`, 403, "M_THREEPID_DENIED"},
			{"alice", "kick", bob, 403, "M_FORBIDDEN"},
			{"alice", "unban", bob, 403, "M_FORBIDDEN"},
			{"alice", "invite", bob, 200, ""},
			{"bob", "messages?dir=b", "GET", 403, "M_FORBIDDEN"},
			{"bob", "leave", `{"reason":"no"}`, 200, ""},
			{"bob", "leave", ``, 200, ""},
			{"alice", "invite", bob, 200, ""},
			{"bob", "join", `{"reason":"hi"}`, 200, ""},
			{"bob", "join", ``, 200, ""},
			{"alice", "invite", bob, 403, "M_FORBIDDEN"},
			{"bob", "kick", `{"user_id":"@alice:hs"}`, 403, "M_FORBIDDEN"},
			{"bob", "forget", ``, 400, "M_UNKNOWN"},
			{"alice", "kick", bob, 200, ""},
			{"bob", "send/m.room.message/1", "PUT", 403, "M_FORBIDDEN"},
			{"alice", "ban", bob, 200, ""},
			{"alice", "kick", bob, 403, "M_FORBIDDEN"},
			{"alice", "invite", bob, 403, "M_FORBIDDEN"},
			{"bob", "join", ``, 403, "M_FORBIDDEN"},
			{"bob", "leave", ``, 403, "M_FORBIDDEN"},
			{"alice", "unban", bob, 200, ""},
			{"alice", "invite", bob, 200, ""},
			{"bob", "join", `{"third_party_signed":{"sender":"x"}}`, 403, "M_FORBIDDEN"},
			{"bob", "join", ``, 200, ""},
			{"bob", "leave", ``, 200, ""},
			{"bob", "forget", ``, 200, ""},
			{"eve", "forget", ``, 404, "M_NOT_FOUND"},
			{"eve", "leave", ``, 403, "M_FORBIDDEN"},
			{"eve", "joined_members", "GET", 403, "M_FORBIDDEN"},
		} {
			method, body := "POST", step.body
			if body == "GET" || body == "PUT" {
				method, body = body, `{}`
			}
			n.expect(step.status, step.code, step.token, method, in(room, step.path), body)
		}
		none := url.PathEscape("!none:hs")
		n.expect(404, "M_NOT_FOUND", "bob", "POST", in("!none:hs", "join"), ``)
		n.expect(404, "M_NOT_FOUND", "bob", "POST", in("!none:hs", "leave"), ``)
		n.expect(403, "M_FORBIDDEN", "bob", "POST", in("!none:hs", "kick"), bob)
		n.expect(404, "M_NOT_FOUND", "bob", "POST", v3+"join/"+none+"?via=hs", ``)
		n.expect(404, "M_NOT_FOUND", "bob", "POST", v3+"join/%23none:hs", ``)
		n.expect(400, "M_INVALID_PARAM", "bob", "POST", v3+"join/nonsense", ``)
		n.setState("alice", room, "m.room.join_rules", `{"join_rule":"public"}`)
		if got := n.ok("bob", "POST", v3+"join/%23den:hs", ``)["room_id"]; got != room {
			t.Errorf("joined %v", got)
		}
		if got := fmt.Sprint(n.ok("bob", "GET", v3+"joined_rooms", "")["joined_rooms"]); got != "["+room+"]" {
			t.Errorf("joined rooms %s", got)
		}
	})
}

func TestKnockAndRestricted(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		for _, v := range event.Versions() {
			room := n.create("alice", `{"room_version":"`+v+`","initial_state":[{"type":"m.room.join_rules","content":{"join_rule":"knock"}}]}`)
			info, _ := event.GetVersion(v)
			if !info.Knock {
				n.expect(403, "M_FORBIDDEN", "bob", "POST", v3+"knock/"+url.PathEscape(room), `{}`)
				continue
			}
			n.ok("bob", "POST", v3+"knock/"+url.PathEscape(room), `{"reason":"please"}`)
			if m := n.content("alice", room, "m.room.member/@bob:hs"); m["membership"] != "knock" || m["reason"] != "please" {
				t.Errorf("version %s: %v", v, m)
			}
			n.expect(403, "M_FORBIDDEN", "bob", "POST", in(room, "join"), ``)
			n.ok("alice", "POST", in(room, "invite"), `{"user_id":"@bob:hs"}`)
			n.join("bob", room)
			n.expect(403, "M_FORBIDDEN", "bob", "POST", v3+"knock/"+url.PathEscape(room), `{}`)
			if info.KnockRestricted {
				asked := n.create("alice", `{"room_version":"`+v+`","initial_state":[{"type":"m.room.join_rules","content":{"join_rule":"knock_restricted"}}]}`)
				n.expect(403, "M_FORBIDDEN", "eve", "POST", in(asked, "join"), ``)
			}
			if info.Restricted {
				inner := n.create("alice", fmt.Sprintf(`{"room_version":%q,"initial_state":[{"type":"m.room.join_rules","content":{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}}]}`, v, room))
				n.expect(403, "M_FORBIDDEN", "eve", "POST", in(inner, "join"), ``)
				n.ok("bob", "PUT", in(inner, "state/m.room.member/@bob:hs"), `{"membership":"join"}`)
				n.ok("bob", "PUT", in(inner, "state/m.room.member/@bob:hs"), `{"membership":"join","displayname":"Other","join_authorised_via_users_server":"unused"}`)
				if m := n.content("alice", inner, "m.room.member/@bob:hs"); m["displayname"] != "Other" || m["avatar_url"] != "mxc://hs/bob" {
					t.Errorf("version %s: %v", v, m)
				}
			}
		}
	})
}

func TestMembershipByState(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		path := func(user string) string { return in(room, "state/m.room.member/@"+user+":hs") }
		n.expect(400, "M_BAD_JSON", "bob", "PUT", path("bob"), `{}`)
		n.expect(400, "M_BAD_JSON", "bob", "PUT", path("bob"), `{"membership":"guest"}`)
		n.expect(400, "M_INVALID_PARAM", "bob", "PUT", in(room, "state/m.room.member/bob"), `{"membership":"join"}`)
		n.expect(400, "M_INVALID_PARAM", "bob", "PUT", in(room, "state/m.room.member"), `{"membership":"join"}`)
		n.expect(403, "M_FORBIDDEN", "bob", "PUT", path("eve"), `{"membership":"join"}`)
		if id := n.ok("bob", "PUT", path("bob"), `{"membership":"join"}`)["event_id"]; !strings.HasPrefix(id.(string), "$") {
			t.Errorf("event id %v", id)
		}
		n.ok("alice", "PUT", path("eve"), `{"membership":"ban"}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", path("eve"), `{"membership":"join"}`)
		n.ok("bob", "PUT", path("bob"), `{"membership":"leave","reason":"bye"}`)
		if m := n.content("alice", room, "m.room.member/@bob:hs"); len(m) != 2 || m["membership"] != "leave" {
			t.Errorf("bob's leave says %v", m)
		}
	})
}

func TestJoinContent(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat","room_alias_name":"den"}`)
		n.ok("bob", "POST", in(room, "join"), `{"foo":"bar","membership":"ban","join_authorised_via_users_server":"x"}`)
		n.ok("carol", "POST", v3+"join/%23den:hs", `{"foo":{},"displayname":"C","reason":"r"}`)
		for user, want := range map[string]string{
			"bob":   "map[avatar_url:mxc://hs/bob displayname:BOB foo:bar membership:join]",
			"carol": "map[avatar_url:mxc://hs/carol displayname:C foo:map[] membership:join reason:r]",
		} {
			if got := fmt.Sprint(n.content("alice", room, "m.room.member/@"+user+":hs")); got != want {
				t.Errorf("%s: %s, want %s", user, got, want)
			}
		}
	})
}

func TestGuests(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", "guest1", "POST", in(room, "join"), ``)
		n.setState("alice", room, "m.room.guest_access", `{"guest_access":"can_join"}`)
		n.join("guest1", room)
		n.say("guest1", room, "hello")
		n.ok("guest1", "POST", in(room, "leave"), ``)
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", "guest1", "POST", in(room, "forget"), ``)
		n.expect(403, "M_GUEST_ACCESS_FORBIDDEN", "guest1", "POST", in("!elsewhere:hs", "join"), ``)
	})
}

func TestMembers(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat","invite":["@carol:hs"]}`)
		n.join("bob", room)
		_, _, page := n.page("alice", room, "dir=b&limit=1")
		at := fmt.Sprintf("s%d", n.hub.Published())
		n.ok("alice", "POST", in(room, "ban"), `{"user_id":"@bob:hs"}`)
		n.join("dave", room)
		members := func(token, query string) string {
			var list []string
			for _, e := range n.ok(token, "GET", in(room, "members"+query), "")["chunk"].([]any) {
				e := e.(answer)
				list = append(list, strings.TrimSuffix(e["state_key"].(string), ":hs")+" "+e["content"].(answer)["membership"].(string))
			}
			slices.Sort(list)
			return strings.Join(list, ", ")
		}
		then := "@alice join, @bob join, @carol invite"
		for query, want := range map[string]string{
			"":                                      "@alice join, @bob ban, @carol invite, @dave join",
			"?membership=join":                      "@alice join, @dave join",
			"?not_membership=join":                  "@bob ban, @carol invite",
			"?membership=ban&not_membership=x":      "",
			"?membership=ban&not_membership=invite": "@alice join, @bob ban, @dave join",
			"?at=" + at:                             then,
			"?at=" + page["start"].(string):         then,
			"?at=" + page["end"].(string):           "@alice join, @carol invite",
			"?at=t-5":                               "@alice join", // what the room began with
		} {
			if strings.HasSuffix(query, "=x") {
				n.expect(400, "M_INVALID_PARAM", "alice", "GET", in(room, "members"+query), "")
			} else if got := members("alice", query); got != want {
				t.Errorf("%s: %s, want %s", query, got, want)
			}
		}
		if got := members("bob", ""); got != "@alice join, @bob ban, @carol invite" {
			t.Errorf("banned bob sees %s", got)
		}
		n.expect(400, "M_INVALID_PARAM", "alice", "GET", in(room, "members?at=x"), "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", in(room, "members"), "")
		joined := n.ok("alice", "GET", in(room, "joined_members"), "")["joined"].(answer)
		if fmt.Sprint(joined["@dave:hs"]) != "map[avatar_url:mxc://hs/dave display_name:DAVE]" || len(joined) != 2 {
			t.Errorf("joined members %v", joined)
		}
		n.ok("dave", "PUT", in(room, "state/m.room.member/@dave:hs"), `{"membership":"join","displayname":null,"avatar_url":1}`)
		if joined := n.ok("alice", "GET", in(room, "joined_members"), "")["joined"].(answer); fmt.Sprint(joined["@dave:hs"]) != "map[avatar_url:]" {
			t.Errorf("without a profile: %v", joined)
		}
	})
}

func TestState(t *testing.T) {
	each(t, func(t *testing.T, n *node) {
		room := n.create("alice", `{"preset":"public_chat"}`)
		first := n.setState("alice", room, "m.room.topic", `{"topic":"x"}`)
		if again := n.setState("alice", room, "m.room.topic/", `{"topic":"x"}`); again != first {
			t.Error("the same state made another event")
		}
		for _, path := range []string{"m.room.topic", "m.room.topic/", "m.room.topic?format=content"} {
			if n.content("alice", room, path)["topic"] != "x" {
				t.Error("no topic at " + path)
			}
		}
		n.setState("alice", room, "m.room.topic", `{"topic":"y"}`)
		e := n.content("alice", room, "m.room.topic?format=event")
		if e["type"] != "m.room.topic" || e["state_key"] != "" || e["room_id"] != room || e["unsigned"].(answer)["prev_content"].(answer)["topic"] != "x" {
			t.Errorf("format=event: %v", e)
		}
		for _, key := range []string{"a%2Fb", "a//b", "..", "%20", "%E4%BD%A0%E5%A5%BD"} {
			n.setState("alice", room, "x.y/"+key, `{"key":"`+key+`"}`)
			if n.content("alice", room, "x.y/"+key)["key"] != key {
				t.Error("state key " + key)
			}
		}
		status, data := n.raw("alice", "GET", in(room, "state"), "")
		if status != 200 || strings.Count(string(data), `"x.y"`) != 5 || !strings.Contains(string(data), `"room_id"`) {
			t.Errorf("state %s", data)
		}
		n.expect(404, "M_NOT_FOUND", "alice", "GET", in(room, "state/no.such"), "")
		n.expect(400, "M_INVALID_PARAM", "alice", "GET", in(room, "state/m.room.topic?format=x"), "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", in(room, "state/m.room.topic"), "")
		n.expect(403, "M_FORBIDDEN", "eve", "GET", in(room, "state"), "")
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", in(room, "state/m.room.topic"), `{}`)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", in(room, "state/m.room.create"), `{}`)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", in(room, "state/m.room.power_levels"), `{"users":{"@alice:hs":100}}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", in(room, "state/m.room.power_levels"), `{"users":{"@alice:hs":100}}`)
		n.expect(403, "M_FORBIDDEN", "alice", "PUT", in(room, "state/x.y/@bob:hs"), `{}`)
		n.expect(400, "M_BAD_JSON", "alice", "PUT", in(room, "state/x.y"), `[]`)

		const alias = "m.room.canonical_alias"
		n.create("alice", `{"room_alias_name":"other"}`)
		n.expect(400, "M_BAD_ALIAS", "alice", "PUT", in(room, "state/"+alias), `{"alias":"#other:hs"}`)
		n.expect(400, "M_BAD_ALIAS", "alice", "PUT", in(room, "state/"+alias), `{"alt_aliases":["#none:hs"]}`)
		n.expect(400, "M_INVALID_PARAM", "alice", "PUT", in(room, "state/"+alias), `{"alt_aliases":["none"]}`)
		n.expect(400, "M_BAD_JSON", "alice", "PUT", in(room, "state/"+alias), `{"alt_aliases":"none"}`)
		n.expect(403, "M_FORBIDDEN", "eve", "PUT", in(room, "state/"+alias), `{"alias":"#other:hs"}`)
		n.setState("alice", room, alias, `{}`)
	})
}
