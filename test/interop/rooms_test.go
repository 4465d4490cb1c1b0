package interop

import (
	"fmt"
	"net/http"
	"testing"

	"knock/cmd/knock/demo/lab"
)

// talk is messages, state and redactions both ways.
func talk(t *testing.T, p *pair) {
	room, host, guest := p.together()
	for i, speaker := range []*person{host, guest, guest, host} {
		listener := map[*person]*person{host: guest, guest: host}[speaker]
		text := fmt.Sprintf("message %d, with ünïcode 🎉 and \"quotes\"", i)
		e := listener.sees(room, speaker.say(room, text))
		if e.Text("body") != text || e.Sender != speaker.UserID {
			t.Errorf("got %+v", e)
		}
	}
	topic := host.set(room, "m.room.topic", "", object{"topic": "delivery"})
	guest.sees(room, topic)
	_, err := guest.SetState(p.ctx, room, "m.room.topic", "", object{"topic": "mine"})
	guest.refused("a topic without the power", err, "M_FORBIDDEN")
	guest.sees(room, host.set(room, "m.room.power_levels", "", powers(p, host, object{guest.UserID: 50})))
	host.sees(room, guest.set(room, "m.room.topic", "", object{"topic": "returns"}))
	host.sees(room, guest.set(room, "org.example.thing", "key/with slash", object{"number": 1 << 40, "list": []any{nil, true, "x"}}))
	redactions(t, room, host, guest)
	agree(room, host, guest)
	guest.leave(room)
	host.seesMember(room, guest, "leave")
	host.say(room, "guest does not hear this")
	guest.join(room, p.home)
	host.sees(room, guest.say(room, "back again"))
	agree(room, host, guest)
}

// powers are power levels. The creators of version 12 must not be in them.
func powers(p *pair, host *person, users object) object {
	if p.version != "12" {
		users[host.UserID] = 100
	}
	return object{"users": users, "state_default": 50, "events_default": 0, "users_default": 0, "ban": 50, "kick": 50, "redact": 50, "invite": 0}
}

// redactions: one's own message, and a moderator someone else's.
func redactions(t *testing.T, room string, host, guest *person) {
	t.Helper()
	for _, pair := range [][3]*person{{guest, guest, host}, {host, guest, guest}, {guest, host, host}} {
		author, redactor, other := pair[0], pair[1], pair[2]
		id := author.say(room, "oops")
		host.sees(room, id)
		guest.sees(room, id)
		var sent struct {
			ID string `json:"event_id"`
		}
		redactor.call(http.MethodPut, lab.V3("rooms", room, "redact", id, "t"+id[1:]), object{"reason": "a slip"}, &sent)
		if e := other.sees(room, sent.ID); e.Type != "m.room.redaction" || e.Text("reason") != "a slip" {
			t.Errorf("the redaction: %+v", e)
		}
		for _, reader := range []*person{host, guest} {
			reader.eventually(func() error {
				e, err := reader.event(room, id)
				if err == nil && string(e.Content) != "{}" {
					err = fmt.Errorf("a redacted event with %s", e.Content)
				}
				return err
			})
		}
	}
}

// moderation is kick, ban and unban.
func moderation(t *testing.T, p *pair) {
	room, host, guest := p.together()
	host.act(room, "kick", guest)
	guest.seesOwn(room, "leave")
	guest.join(room, p.home)
	host.seesMember(room, guest, "join")
	guest.seesOwn(room, "join") // Synapse tells clients of a room when it has all of its state
	host.act(room, "ban", guest)
	guest.seesOwn(room, "leave")
	guest.refused("joins a room that banned them", guest.tryJoin(room, p.home), "M_FORBIDDEN")
	host.act(room, "unban", guest)
	host.seesMember(room, guest, "leave")
	guest.join(room, p.home)
	host.seesMember(room, guest, "join")
	guest.seesOwn(room, "join") // Synapse tells clients of a room when it has all of its state
	other := p.person(p.home, "other")
	other.join(room)
	other.seesOwn(room, "join")
	guest.seesMember(room, other, "join")
	guest.sees(room, host.set(room, "m.room.power_levels", "", powers(p, host, object{guest.UserID: 50})))
	guest.act(room, "kick", other)
	other.seesOwn(room, "leave")
	guest.act(room, "ban", other)
	host.seesMember(room, other, "ban")
	other.refused("joins a room that banned them", other.tryJoin(room), "M_FORBIDDEN", "M_BAD_STATE")
	agree(room, host, guest)
}

// acl: a server that the room denies cannot come in.
func acl(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	guest.leave(room)
	host.seesMember(room, guest, "leave")
	host.set(room, "m.room.server_acl", "", object{"allow": []string{"*"}, "allow_ip_literals": false})
	guest.refused("joins from a denied server", guest.tryJoin(room, p.home), "M_FORBIDDEN")
	host.set(room, "m.room.server_acl", "", object{"allow": []string{"*"}, "allow_ip_literals": true})
	guest.join(room, p.home)
	host.sees(room, guest.say(room, "admitted"))
	agree(room, host, guest)
}

// three servers: the third comes in through the second, and both go on while the first cannot be reached.
func three(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	outsider := p.person(p.third, "outsider")
	outsider.join(room, p.away)
	all := []*person{host, guest, outsider}
	for _, speaker := range all {
		speaker.seesMember(room, outsider, "join")
		id := speaker.say(room, "hello from "+speaker.UserID)
		for _, listener := range all {
			listener.sees(room, id)
		}
	}
	p.home.gate.set(true)
	one := guest.say(room, "can you hear me?")
	outsider.sees(room, one)
	two := outsider.say(room, "yes")
	guest.sees(room, two)
	p.home.gate.set(false)
	outsider.sees(room, host.say(room, "what did I miss?"))
	host.sees(room, guest.say(room, "we are three"))
	host.sees(room, outsider.say(room, "there you are"))
	hasAll(host, room, []string{one, two})
	relayed(p, room, host, guest, outsider)
	agree(room, host, guest)
	agree(room, host, outsider)
}

// relayed: the second server hears of what the first said from the third, which does not tell it by itself.
func relayed(p *pair, room string, host, guest, outsider *person) {
	p.t.Helper()
	var said []string
	p.away.gate.set(true)
	for i := range 25 {
		said = append(said, host.say(room, fmt.Sprint("relayed ", i)))
	}
	outsider.sees(room, said[24])
	p.away.gate.set(false)
	guest.sees(room, outsider.say(room, "did you hear?"))
	hasAll(guest, room, said)
	guest.sees(room, host.say(room, "now we can talk again"))
}

// alone: a room lives on at the other side when its server's users left, and they come back.
func alone(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	guest.sees(room, host.set(room, "m.room.power_levels", "", powers(p, host, object{guest.UserID: 90})))
	host.leave(room)
	guest.seesMember(room, host, "leave")
	guest.say(room, "alone")
	guest.set(room, "m.room.topic", "", object{"topic": "quiet"})
	host.join(room, p.away)
	guest.seesMember(room, host, "join")
	guest.sees(room, host.say(room, "here again"))
	agree(room, host, guest)
}

// upgrade moves to another version, and the other side follows.
func upgrade(t *testing.T, p *pair) {
	host, guest := p.people()
	old := p.room(host, object{"room_version": "11", "name": "moves"})
	guest.join(old, p.home)
	host.seesMember(old, guest, "join")
	var made struct {
		Room string `json:"replacement_room"`
	}
	host.call(http.MethodPost, lab.V3("rooms", old, "upgrade"), object{"new_version": p.version}, &made)
	guest.until(func(v *lab.View) error {
		if got := v.Room(old).State[lab.Key{Type: "m.room.tombstone"}].Text("replacement_room"); got != made.Room {
			return fmt.Errorf("the tombstone points to %q", got)
		}
		return nil
	})
	guest.join(made.Room, p.home)
	host.seesMember(made.Room, guest, "join")
	create := must(guest.content(made.Room, "m.room.create", ""))(guest)
	if from, _ := create["predecessor"].(object); create["room_version"] != p.version || from["room_id"] != old {
		t.Errorf("the new room's create event: %v", create)
	}
	name := must(guest.content(made.Room, "m.room.name", ""))(guest)
	same(t, "the name", name, object{"name": "moves"})
	guest.refused("speaks in the old room", second(guest.Say(p.ctx, old, "too late")), "M_FORBIDDEN")
	host.sees(made.Room, guest.say(made.Room, "hello"))
	agree(made.Room, host, guest)
	agree(old, host, guest)
}

func second(_ string, err error) error { return err }
