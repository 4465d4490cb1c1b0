package auth

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"knock/roomserver/event"
)

// pick returns one of the choices.
func pick[T any](rnd *rand.Rand, choices ...T) T { return choices[rnd.IntN(len(choices))] }

// randomLevels makes power levels content. All stand-alone levels are present: about absent ones the library deviates
// (it compares defaults where the rules compare what was added, changed or removed).
func randomLevels(rnd *rand.Rand, skipUser string) string {
	level := func() int { return pick(rnd, 0, 10, 50, 100) }
	users := `"@z:z.example":0`
	for _, user := range []string{alice, bob, carol, dave} {
		if user != skipUser && rnd.IntN(3) > 0 {
			users += fmt.Sprintf(`,"%s":%d`, user, level())
		}
	}
	return fmt.Sprintf(`{"users":{%s},"users_default":%d,"events_default":%d,"state_default":%d,"ban":%d,"redact":%d,"kick":%d,"invite":%d,"events":{"m.room.topic":%d,"m.room.power_levels":%d},"notifications":{"room":%d}}`,
		users, pick(rnd, 0, 10), pick(rnd, 0, 10), level(), level(), level(), level(), level(), level(), level(), level())
}

// randomRoom makes a state in which anything may be.
func randomRoom(t *testing.T, rnd *rand.Rand, v string) *testRoom {
	r := newTestRoom(t, v)
	delete(r.events, Tuple{"m.room.member", alice})
	for _, user := range []string{alice, bob, carol, dave} {
		if rnd.IntN(4) > 0 {
			r.member(user, pick(rnd, Join, Join, Join, Invite, Leave, Ban, Knock))
		}
	}
	if rnd.IntN(5) > 0 {
		r.rule(pick(rnd, "public", "invite", "knock", "restricted", "knock_restricted", "private"))
	}
	skip := ""
	if r.v.PrivilegedCreators {
		skip = alice
	}
	r.powers(randomLevels(rnd, skip))
	return r
}

func randomEvent(rnd *rand.Rand, r *testRoom) *event.Event {
	sender, target := pick(rnd, alice, bob, carol, dave), pick(rnd, alice, bob, carol, dave)
	skip := ""
	if r.v.PrivilegedCreators {
		skip = alice
	}
	switch rnd.IntN(8) {
	case 0, 1, 2:
		content := m(pick(rnd, Join, Invite, Leave, Ban, Knock))
		if rnd.IntN(4) == 0 {
			content = `{"membership":"join","join_authorised_via_users_server":"` + pick(rnd, alice, bob, carol, dave) + `"}`
		}
		return r.build("m.room.member", target, sender, content)
	case 3:
		return r.build("m.room.member", sender, sender, m(pick(rnd, Join, Leave, Knock)))
	case 4:
		return r.build("m.room.message", "-", sender, `{}`)
	case 5:
		return r.build(pick(rnd, "m.room.topic", "x.state", "m.room.third_party_invite"), pick(rnd, "", target), sender, `{}`)
	default:
		return r.build("m.room.power_levels", "", sender, randomLevels(rnd, skip))
	}
}

// TestLibraryAgrees compares with gomatrixserverlib.Allowed on random events. Where the library is known to be wrong
// nothing is compared: see libraryErs.
func TestLibraryAgrees(t *testing.T) {
	allowed := 0
	for i, v := range event.Versions() {
		rnd := rand.New(rand.NewPCG(7, uint64(i)))
		for range 500 {
			r := randomRoom(t, rnd, v)
			e := randomEvent(rnd, r)
			ours := Check(e, r)
			theirs := libraryCheck(t, r, e)
			if ours == nil {
				allowed++
			}
			if (ours == nil) != (theirs == nil) && !libraryErs(r, e) {
				t.Fatalf("v%s\nours:   %v\ntheirs: %v\n%s\nstate: %s", v, ours, theirs, e.JSON(), dump(r))
			}
		}
	}
	t.Logf("%d allowed", allowed)
}

// libraryErs lists where the library departs from the specification's text:
//   - a member's or invited user's join passes under any join rule, even one that the room version does not know;
//   - who knocked cannot join a public room;
//   - knock_restricted lets people knock before there was such a rule;
//   - who is not in the room may leave it, and a knock may be withdrawn where there are no knocks;
//   - unbanning asks for the ban level alone, not also for the kick level and a target below the sender;
//   - m.room.third_party_invite falls under the rule about state keys that are user ids;
//   - changing a notification level needs more than the old level, and creators have no infinite power over it.
func libraryErs(r *testRoom, e *event.Event) bool {
	key, _ := e.Key()
	was, rule := Membership(r.Lookup("m.room.member", key)), JoinRule(r.Lookup("m.room.join_rules", ""))
	own := key == e.Sender()
	switch e.Type() {
	case "m.room.member":
		switch Membership(e) {
		case Join:
			return (was == Join || was == Invite) && !letsInvitedIn(r.v, rule) || was == Knock && rule == "public"
		case Knock:
			return rule == "knock_restricted" && !r.v.KnockRestricted
		case Leave:
			return own && (was == "" || was == Leave || was == Knock) || !own && was == Ban
		}
	case "m.room.third_party_invite":
		return strings.HasPrefix(key, "@") && !own
	case "m.room.power_levels":
		return notificationsDiffer(r.Lookup("m.room.power_levels", ""), e)
	}
	return false
}

func letsInvitedIn(v *event.Version, rule string) bool {
	switch rule {
	case "knock":
		return v.Knock
	case "restricted":
		return v.Restricted
	case "knock_restricted":
		return v.KnockRestricted
	}
	return rule == "public" || rule == "invite"
}

func notificationsDiffer(a, b *event.Event) bool {
	return string(a.ContentField("notifications")) != string(b.ContentField("notifications"))
}

func dump(r *testRoom) (s string) {
	for _, e := range r.events {
		s += "\n" + string(e.JSON())
	}
	return s
}

func libraryCheck(t *testing.T, r *testRoom, e *event.Event) error {
	var pdus []gomatrixserverlib.PDU
	for _, e := range r.events {
		pdus = append(pdus, e.PDU())
	}
	provider, err := gomatrixserverlib.NewAuthEvents(pdus)
	if err != nil {
		t.Fatal(err)
	}
	return gomatrixserverlib.Allowed(e.PDU(), provider, func(_ spec.RoomID, id spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(id), true)
	})
}
