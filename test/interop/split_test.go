package interop

import (
	"fmt"
	"testing"
)

// apart parts the two while something happens.
func (p *pair) apart(during func()) {
	p.home.gate.set(true)
	p.away.gate.set(true)
	during()
	p.home.gate.set(false)
	p.away.gate.set(false)
}

// split: both sides go on alone, with changes that contradict each other, and end in the same state with all messages.
func split(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	guest.sees(room, host.set(room, "m.room.power_levels", "", powers(p, host, object{guest.UserID: 50})))
	third := p.person(p.away, "third")
	third.join(room)
	host.seesMember(room, third, "join")
	var ours, theirs []string
	p.apart(func() {
		for i := range 12 {
			ours = append(ours, host.say(room, fmt.Sprint("from home ", i)))
			theirs = append(theirs, guest.say(room, fmt.Sprint("from away ", i)))
			host.set(room, "m.room.topic", "", object{"topic": fmt.Sprint("home ", i)})
			guest.set(room, "m.room.topic", "", object{"topic": fmt.Sprint("away ", i)})
		}
		host.act(room, "ban", third)
		third.say(room, "not heard by those who banned me")
		guest.set(room, "m.room.name", "", object{"name": "ours"})
		host.set(room, "m.room.power_levels", "", powers(p, host, object{}))
	})
	host.say(room, "are you there?")
	guest.say(room, "are you there?")
	hasAll(guest, room, ours)
	hasAll(host, room, theirs)
	settle(room, host, guest)
}

// hasAll waits until every event can be fetched.
func hasAll(p *person, room string, ids []string) {
	p.t.Helper()
	for _, id := range ids {
		p.eventually(func() error {
			_, err := p.event(room, id)
			return err
		})
	}
}

// settle says something on both sides, so that both know all extremities, and wants the same state then.
func settle(room string, a, b *person) {
	a.t.Helper()
	b.sees(room, a.say(room, "one"))
	a.sees(room, b.say(room, "two"))
	agree(room, a, b)
}

// gap: a server forgets in a restart what it had to send; Synapse then sends the newest event alone, and the other side
// has to ask for what is between.
func gap(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	host.sees(room, guest.say(room, "before"))
	var missed []string
	p.apart(func() {
		for i := range 40 {
			missed = append(missed, host.say(room, fmt.Sprint("unheard ", i)))
		}
		host.set(room, "m.room.topic", "", object{"topic": "unheard"})
		p.home.restart(func() {})
	})
	guest.sees(room, host.say(room, "after"))
	hasAll(guest, room, missed)
	settle(room, host, guest)
}

// down: one side is stopped, the other goes on, and later everything arrives.
func down(_ *testing.T, p *pair) {
	room, host, guest := p.together()
	private := p.room(host, object{"preset": "private_chat"})
	host.act(private, "invite", guest)
	guest.join(private)
	guest.sees(private, host.say(private, "before"))
	var missed []string
	a, b := newDevice(host), newDevice(guest)
	p.away.restart(func() {
		for i := range 30 {
			missed = append(missed, host.say(room, fmt.Sprint("you are away ", i)))
		}
		host.set(room, "m.room.topic", "", object{"topic": "while you were away"})
		host.say(private, "here too")
		a.send("down1", "one", b)
		a.send("down2", "two", b)
	})
	host.say(private, "and later")
	b.receives("one", "two")
	hasAll(guest, room, missed)
	settle(room, host, guest)
	settle(private, host, guest)
}
