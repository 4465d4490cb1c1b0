package interop

import (
	"testing"

	"knock/cmd/knock/demo/lab"
)

// invites: accepted, refused, taken back, of somebody who is in no room, with what an invited user may see.
func invites(t *testing.T, p *pair) {
	host, guest := p.people()
	room := p.room(host, object{"preset": "private_chat", "name": "Order 4711"})
	host.act(room, "invite", guest)
	r := guest.seesOwn(room, "invite")
	for _, key := range []lab.Key{{Type: "m.room.create"}, {Type: "m.room.name"}, {Type: "m.room.join_rules"}, {Type: "m.room.member", StateKey: guest.UserID}} {
		if r.State[key].Type == "" {
			t.Errorf("an invited user sees no %s", key.Type)
		}
	}
	guest.leave(room)
	guest.seesOwn(room, "leave")
	host.seesMember(room, guest, "leave")
	guest.refused("joins after a refusal", guest.tryJoin(room, p.home), "M_FORBIDDEN")
	host.act(room, "invite", guest)
	guest.seesOwn(room, "invite")
	host.act(room, "kick", guest)
	guest.seesOwn(room, "leave")
	host.act(room, "invite", guest)
	guest.seesOwn(room, "invite")
	guest.join(room)
	host.seesMember(room, guest, "join")
	guest.sees(room, host.say(room, "welcome"))
	back := p.person(p.home, "back")
	guest.act(room, "invite", back)
	back.seesOwn(room, "invite")
	back.join(room)
	guest.seesMember(room, back, "join")
	direct := p.room(host, object{"preset": "trusted_private_chat", "is_direct": true, "invite": []string{guest.UserID}})
	guest.seesOwn(direct, "invite")
	guest.join(direct)
	guest.sees(direct, host.say(direct, "between us"))
	agree(room, host, guest)
	agree(direct, host, guest)
}

// blocked: a user who takes no invites, and then does.
func blocked(_ *testing.T, p *pair) {
	host, guest := p.people()
	room := p.room(host, object{"preset": "private_chat"})
	guest.setData("m.invite_permission_config", object{"default_action": "block"})
	host.refused("an invite of who takes none", host.Act(p.ctx, room, "invite", object{"user_id": guest.UserID}), "M_INVITE_BLOCKED")
	guest.setData("m.invite_permission_config", object{})
	host.act(room, "invite", guest)
	guest.seesOwn(room, "invite")
	guest.join(room)
	host.seesMember(room, guest, "join")
}

func rule(name string, allow ...string) object {
	content := object{"join_rule": name}
	for _, room := range allow {
		content["allow"] = []object{{"type": "m.room_membership", "room_id": room}}
	}
	return content
}

// knocks: let in, turned away, taken back.
func knocks(t *testing.T, p *pair) {
	host, guest := p.people()
	room := p.room(host, object{"preset": "private_chat", "name": "Club",
		"initial_state": []object{{"type": "m.room.join_rules", "state_key": "", "content": rule("knock")}}})
	guest.refused("joins without an invite", guest.tryJoin(room, p.home), "M_FORBIDDEN")
	guest.knock(room, p.home)
	host.seesMember(room, guest, "knock")
	r := guest.seesOwn(room, "knock")
	if r.State[lab.Key{Type: "m.room.name"}].Text("name") != "Club" {
		t.Errorf("who knocks sees %v", r.State)
	}
	guest.leave(room)
	guest.seesOwn(room, "leave")
	if p.away.kind == "knock" { // Synapse takes a knock back at home only
		host.seesMember(room, guest, "leave")
	}
	guest.knock(room, p.home)
	host.seesMember(room, guest, "knock")
	guest.seesOwn(room, "knock")
	host.act(room, "kick", guest) // of which Synapse neither tells the user's server nor hears from it
	host.seesMember(room, guest, "leave")
	guest.knock(room, p.home)
	host.seesMember(room, guest, "knock")
	host.act(room, "invite", guest)
	guest.seesOwn(room, "invite")
	guest.join(room)
	host.seesMember(room, guest, "join")
	guest.sees(room, host.say(room, "come in"))
	agree(room, host, guest)
}

// restricted: members of one room may join another, with the word of a server that can invite.
func restricted(_ *testing.T, p *pair) {
	lobby, host, guest := p.together()
	room := p.room(host, object{"preset": "private_chat",
		"initial_state": []object{{"type": "m.room.join_rules", "state_key": "", "content": rule("restricted", lobby)}}})
	stranger := p.person(p.away, "stranger")
	stranger.refused("joins a restricted room", stranger.tryJoin(room, p.home), "M_FORBIDDEN", "M_UNABLE_TO_AUTHORISE_JOIN")
	guest.join(room, p.home)
	host.seesMember(room, guest, "join")
	guest.sees(room, host.say(room, "members only"))
	stranger.refused("joins a restricted room", stranger.tryJoin(room), "M_FORBIDDEN", "M_UNABLE_TO_AUTHORISE_JOIN")
	stranger.join(lobby, p.home)
	host.seesMember(lobby, stranger, "join")
	stranger.join(room)
	host.seesMember(room, stranger, "join")
	guest.leave(room)
	guest.join(room, p.home)
	host.sees(room, guest.say(room, "and again"))
	agree(room, host, guest)
}

// knockRestricted: members of one room may join, everybody may ask.
func knockRestricted(_ *testing.T, p *pair) {
	lobby, host, guest := p.together()
	room := p.room(host, object{"preset": "private_chat",
		"initial_state": []object{{"type": "m.room.join_rules", "state_key": "", "content": rule("knock_restricted", lobby)}}})
	stranger := p.person(p.away, "stranger")
	stranger.refused("joins", stranger.tryJoin(room, p.home), "M_FORBIDDEN", "M_UNABLE_TO_AUTHORISE_JOIN")
	stranger.knock(room, p.home)
	host.seesMember(room, stranger, "knock")
	guest.join(room, p.home)
	host.seesMember(room, guest, "join")
	guest.act(room, "invite", stranger)
	stranger.seesOwn(room, "invite")
	stranger.join(room)
	host.seesMember(room, stranger, "join")
	agree(room, host, guest)
}
