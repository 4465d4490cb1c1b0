package liar

import (
	"net/url"
	"strings"
	"testing"

	"knock/roomserver/event"
)

// TestMemberships asks for joins and the like that are none of the liar's business.
func TestMemberships(t *testing.T) {
	play(t, []row{
		{name: "a template for another server's user", want: "403 M_FORBIDDEN", lie: func(s *scene) { s.template("join", s.carol.UserID) }},
		{name: "a template for the node's own user", want: "403 M_FORBIDDEN", lie: func(s *scene) { s.template("leave", s.alice.UserID) }},
		{name: "a template for what is no user", want: "403 M_FORBIDDEN", lie: func(s *scene) { s.template("join", "nobody") }},
		{name: "a template for a room that nobody knows", want: "404 M_NOT_FOUND", lie: func(s *scene) {
			s.call(Request{Method: "GET", Path: Escape("/_matrix/federation/v1/make_join/", "!nowhere:a.test", "/", s.peer.User("x")) + "?ver=10"})
		}},
		{name: "versions that the room has not", want: "400 M_INCOMPATIBLE_ROOM_VERSION", lie: func(s *scene) {
			s.call(Request{Method: "GET", Path: Escape("/_matrix/federation/v1/make_join/", s.id, "/", s.peer.User("x")) + "?ver=9"})
		}},
		{name: "a join to a room that the user is banned from", want: "403 M_FORBIDDEN; 403 M_FORBIDDEN", lie: func(s *scene) {
			e := s.sneak(s.peer.User("banned"))
			s.template("join", s.peer.User("banned"))
			s.sendMember("join", e)
		}},
		{name: "a join to a room that the server is banned from", version: "11", want: "403 M_FORBIDDEN; 403 M_FORBIDDEN", lie: func(s *scene) {
			s.unlisted(func() {
				s.template("join", s.peer.User("x"))
				s.sendMember("join", s.membership(s.peer.User("x"), "join"))
			})
		}},
		{name: "another server's user's join", want: "403 M_FORBIDDEN", lie: func(s *scene) {
			d := Draft{Type: "m.room.member", Key: Key("@x:c.test"), Sender: "@x:c.test", Content: Object{"membership": "join"}}
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a join signed with another key", want: "403 M_FORBIDDEN", lie: func(s *scene) {
			other := NewSigner(s.peer.Name, "1")
			other.Key = NewSigner("other", "2").Key
			d := s.member1(s.peer.User("x"), "join")
			d.Signer = &other
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a leave sent as a join", want: "400 M_INVALID_PARAM", lie: func(s *scene) { s.sendMember("join", s.membership(s.peer.User("liar"), "leave")) }},
		{name: "a message sent as a join", want: "400 M_INVALID_PARAM", lie: func(s *scene) { s.sendMember("join", s.room.Make(s.draft("x"))) }},
		{name: "an invite sent as a join", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			d := s.member1(s.peer.User("x"), "invite")
			d.Sender = s.peer.User("liar")
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a join under another id", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			e := s.membership(s.peer.User("x"), "join")
			s.call(Request{Method: "PUT", Path: Escape("/_matrix/federation/v2/send_join/", s.id, "/", "$other"), Body: e.JSON()})
		}},
		{name: "a join to another room", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			d := s.member1(s.peer.User("x"), "join")
			d.RoomID = "!other:a.test"
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a join on auth events of another room", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			other, err := s.alice.CreateRoom(s.ctx, Object{"preset": "public_chat", "room_version": "10"})
			s.must(err)
			foreign, err := s.peer.Join(s.ctx, s.a, other, s.peer.User("liar"))
			s.must(err)
			d := s.member1(s.peer.User("x"), "join")
			d.State = foreign.State
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a join that follows what nobody has", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			d := s.member1(s.peer.User("x"), "join")
			d.Prev = many(1)
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a join that follows nothing", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			d := s.member1(s.peer.User("x"), "join")
			d.Prev = []string{}
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a join that cites what nobody has", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			d := s.member1(s.peer.User("x"), "join")
			d.Auth = many(3)
			s.sendMember("join", s.room.Make(d))
		}},
		{name: "a knock on a room that takes none", want: "403 M_FORBIDDEN", lie: func(s *scene) { s.sendMember("knock", s.membership(s.peer.User("x"), "knock")) }},
		{name: "a join that the node's user is said to vouch for", want: "403 M_FORBIDDEN; 403 M_FORBIDDEN", lie: func(s *scene) { s.restricted() }},
		{name: "history of a room that the server is not in", want: "403 M_FORBIDDEN; 403 M_FORBIDDEN; 403 M_FORBIDDEN; 403 M_FORBIDDEN; 403 M_FORBIDDEN; 403 M_FORBIDDEN", lie: func(s *scene) {
			id, stranger := s.room.Heads[0], s.newPeer()
			for _, path := range []string{
				Escape("/_matrix/federation/v1/event/", id), Escape("/_matrix/federation/v1/event_auth/", s.id, "/", id),
				Escape("/_matrix/federation/v1/state/", s.id) + "?" + url.Values{"event_id": {id}}.Encode(),
				Escape("/_matrix/federation/v1/state_ids/", s.id) + "?" + url.Values{"event_id": {id}}.Encode(),
				Escape("/_matrix/federation/v1/backfill/", s.id) + "?" + url.Values{"v": {id}, "limit": {"10"}}.Encode(),
			} {
				s.note("%s", code(stranger.JSON(s.ctx, s.a, "GET", path, nil)))
			}
			s.note("%s", code(stranger.JSON(s.ctx, s.a, "POST", Escape("/_matrix/federation/v1/get_missing_events/", s.id),
				Object{"earliest_events": []string{}, "latest_events": []string{id}})))
		}},
	})
}

func (s *scene) template(kind, user string) {
	s.Helper()
	s.call(Request{Method: "GET", Path: Escape("/_matrix/federation/v1/make_"+kind+"/", s.id, "/", user) + "?ver=10&ver=11"})
}

// member1 is a membership that a user of the liar gives themself.
func (s *scene) member1(user, membership string) Draft {
	return Draft{Type: "m.room.member", Key: &user, Sender: user, Content: Object{"membership": membership}}
}

func (s *scene) membership(user, membership string) *event.Event {
	s.Helper()
	return s.room.Make(s.member1(user, membership))
}

func (s *scene) sendMember(kind string, e *event.Event) {
	s.Helper()
	version := "/_matrix/federation/v2/send_"
	if kind == "knock" {
		version = "/_matrix/federation/v1/send_"
	}
	s.call(Request{Method: "PUT", Path: Escape(version+kind+"/", s.id, "/", e.EventID()), Body: e.JSON()})
}

// sneak has a user banned and returns a join of theirs that ignores it.
func (s *scene) sneak(user string) *event.Event {
	s.Helper()
	e := s.membership(user, "join")
	s.must(s.alice.Act(s.ctx, s.id, "ban", Object{"user_id": user}))
	s.member(s.carol, user, "ban")
	s.before = s.state(s.a, s.alice)
	return e
}

// unlisted does something while the room's ACL denies the liar.
func (s *scene) unlisted(do func()) {
	s.Helper()
	for _, deny := range [][]string{{s.peer.Name}, {}} {
		_, err := s.alice.SetState(s.ctx, s.id, "m.room.server_acl", "", Object{"allow": []string{"*"}, "deny": deny})
		s.must(err)
		if len(deny) > 0 {
			do()
		}
	}
	s.before = s.state(s.a, s.alice)
}

// restricted sends joins to a room that lets in members of another one, which the user is not in.
func (s *scene) restricted() {
	s.Helper()
	inner, err := s.alice.CreateRoom(s.ctx, Object{"room_version": "10"})
	s.must(err)
	_, err = s.alice.SetState(s.ctx, s.id, "m.room.join_rules", "", Object{"join_rule": "restricted",
		"allow": []Object{{"type": "m.room_membership", "room_id": inner}}})
	s.must(err)
	s.before = s.state(s.a, s.alice)
	d := s.member1(s.peer.User("x"), "join")
	d.Content = Object{"membership": "join", "join_authorised_via_users_server": s.alice.UserID}
	d.State = s.room.State
	for _, via := range []string{s.alice.UserID, s.peer.User("liar")} {
		d.Content = Object{"membership": "join", "join_authorised_via_users_server": via}
		s.sendMember("join", s.room.Make(d))
	}
}

// TestInvites invites users whom there is nobody to invite, to rooms that are not as they are said to be.
func TestInvites(t *testing.T) {
	play(t, []row{
		{name: "nobody", want: "404 M_NOT_FOUND", lie: func(s *scene) { s.invite("@nobody:a.test", nil) }},
		{name: "another server's user", want: "400 M_INVALID_PARAM", lie: func(s *scene) { s.invite(s.carol.UserID, nil) }},
		{name: "what is no user", want: "400 M_INVALID_PARAM", lie: func(s *scene) { s.invite("nobody", nil) }},
		{name: "an unknown room version", want: "400 M_INCOMPATIBLE_ROOM_VERSION", lie: func(s *scene) {
			s.invite(s.alice.UserID, func(o Object, _ *Room) { o["room_version"] = "99" })
		}},
		{name: "no room version", want: "400 M_MISSING_PARAM", lie: func(s *scene) {
			s.invite(s.alice.UserID, func(o Object, _ *Room) { delete(o, "room_version") })
		}},
		{name: "no event", want: "400 M_MISSING_PARAM", lie: func(s *scene) {
			s.invite(s.alice.UserID, func(o Object, _ *Room) { delete(o, "event") })
		}},
		{name: "another event than the path names", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.invite(s.alice.UserID, func(o Object, r *Room) { o["event"] = r.State.events()[0] })
		}},
		{name: "by another server's user", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.inviteBy(Draft{Sender: s.carol.UserID}, s.alice.UserID, nil)
		}},
		{name: "signed with another key", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			other := s.peer.Signer
			other.Key = NewSigner("other", "2").Key
			s.inviteBy(Draft{Sender: s.peer.User("liar"), Signer: &other}, s.alice.UserID, nil)
		}},
		{name: "101 events of state", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.invite(s.alice.UserID, func(o Object, r *Room) {
				list := raws(r.State.events())
				for len(list) < 101 {
					list = append(list, list[0])
				}
				o["invite_room_state"] = list
			})
		}},
		{name: "state without m.room.create", version: "12", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.inviteState(func(r *Room) any { return raws(without(r.State.events(), "m.room.create")) })
		}},
		{name: "stripped state where full events belong", version: "12", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.inviteState(func(r *Room) any {
				return append(raws(r.State.events()), []byte(`{"type":"m.room.name","state_key":"","sender":"@a:a.test","content":{"name":"x"}}`))
			})
		}},
		{name: "m.room.create of another room", version: "12", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			other := s.peer.CreateRoom("12")
			s.inviteState(func(r *Room) any { return raws(append(other.State.events(), r.State.events()...)) })
		}},
		{name: "state with a forged signature", version: "12", want: "400 M_INVALID_PARAM", lie: func(s *scene) {
			s.inviteState(func(r *Room) any {
				name := r.Make(Draft{Type: "m.room.name", Key: Key(""), Sender: s.carol.UserID, Content: Object{"name": "the bank"}})
				return raws(append(r.State.events(), name))
			})
		}},
		{name: "the truth", version: "12", want: "200", lie: func(s *scene) {
			s.inviteState(func(r *Room) any { return raws(r.State.events()) })
		}},
	})
}

// invite invites a user to a room of the liar, with a request that change may bend.
func (s *scene) invite(user string, change func(Object, *Room)) {
	s.Helper()
	s.inviteBy(Draft{Sender: s.peer.User("liar")}, user, change)
}

func (s *scene) inviteState(state func(*Room) any) {
	s.Helper()
	s.invite(s.alice.UserID, func(o Object, r *Room) { o["invite_room_state"] = state(r) })
}

func (s *scene) inviteBy(d Draft, user string, change func(Object, *Room)) {
	s.Helper()
	r := s.peer.CreateRoom(s.room.V.ID)
	d.Type, d.Key, d.Content = "m.room.member", &user, Object{"membership": "invite"}
	e := r.Make(d)
	o := Object{"room_version": r.V.ID, "event": e, "invite_room_state": raws(r.State.events())}
	if change != nil {
		change(o, r)
	}
	s.note("%s", code(s.peer.JSON(s.ctx, s.a, "PUT", Escape("/_matrix/federation/v2/invite/", r.ID, "/", e.EventID()), o)))
}

func without(events []*event.Event, typ string) (out []*event.Event) {
	for _, e := range events {
		if !strings.EqualFold(e.Type(), typ) {
			out = append(out, e)
		}
	}
	return out
}
