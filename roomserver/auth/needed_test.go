package auth

import (
	"fmt"
	"testing"

	"knock/roomserver/event"
)

func TestNeededFor(t *testing.T) {
	key := func(s string) *string { return &s }
	for _, c := range []struct {
		version, evType string
		key             *string
		content, want   string
	}{
		{"11", "m.room.create", key(""), `{}`, ``},
		{"11", "m.room.message", nil, `{}`, `create/ power_levels/ member/@alice`},
		{"12", "m.room.message", nil, `{}`, `power_levels/ member/@alice`},
		{"11", "m.room.member", key(bob), m(Join), `create/ power_levels/ member/@alice member/@bob join_rules/`},
		{"11", "m.room.member", key(alice), m(Join), `create/ power_levels/ member/@alice join_rules/`},
		{"11", "m.room.member", key(bob), m(Invite), `create/ power_levels/ member/@alice member/@bob join_rules/`},
		{"11", "m.room.member", key(bob), m(Knock), `create/ power_levels/ member/@alice member/@bob join_rules/`},
		{"11", "m.room.member", key(bob), m(Leave), `create/ power_levels/ member/@alice member/@bob`},
		{"11", "m.room.member", key(bob), m(Ban), `create/ power_levels/ member/@alice member/@bob`},
		{"12", "m.room.member", key(bob), `{"membership":"invite","third_party_invite":{"signed":{"token":"tok"}}}`, `power_levels/ member/@alice member/@bob join_rules/ third_party_invite/tok`},
		{"12", "m.room.member", key(bob), `{"membership":"invite","third_party_invite":{"signed":{"token":5}}}`, `power_levels/ member/@alice member/@bob join_rules/`},
		{"12", "m.room.member", key(alice), `{"membership":"join","join_authorised_via_users_server":"` + carol + `"}`, `power_levels/ member/@alice join_rules/ member/@carol`},
		{"7", "m.room.member", key(alice), `{"membership":"join","join_authorised_via_users_server":"` + carol + `"}`, `create/ power_levels/ member/@alice join_rules/`},
		{"12", "m.room.member", key(alice), `{"membership":"leave","join_authorised_via_users_server":"` + carol + `"}`, `power_levels/ member/@alice`},
	} {
		got := ""
		for i, tuple := range NeededFor(version(t, c.version), c.evType, c.key, alice, []byte(c.content)) {
			if i > 0 {
				got += " "
			}
			got += tuple.Type[len("m.room."):] + "/"
			if tuple.Key != "" && tuple.Key[0] == '@' {
				got += "@" + event.LocalpartOf(tuple.Key)
			} else {
				got += tuple.Key
			}
		}
		if got != c.want {
			t.Errorf("v%s %s %s:\n got %s\nwant %s", c.version, c.evType, c.content, got, c.want)
		}
	}
}

func TestCheckAuthEvents(t *testing.T) {
	for _, v := range event.Versions() {
		r := newTestRoom(t, v)
		r.powers(`{}`)
		r.rule("public")
		r.member(bob, Join)
		get := func(list ...Tuple) (events []*event.Event) {
			for _, tuple := range list {
				events = append(events, r.Lookup(tuple.Type, tuple.Key))
			}
			return events
		}
		create, pl, own := Tuple{"m.room.create", ""}, Tuple{"m.room.power_levels", ""}, Tuple{"m.room.member", bob}
		message := r.build("m.room.message", "-", bob, `{}`)
		base := []Tuple{create, pl, own}
		if r.v.DomainlessRoomIDs {
			base = base[1:]
		}
		stray := r.build("m.room.message", "-", bob, `{}`)
		home := r.id
		r.id = "!elsewhere:a.example"
		foreign := r.build("m.room.power_levels", "", alice, `{}`)
		r.id = home
		for _, c := range []struct {
			name    string
			cited   []*event.Event
			allowed bool
		}{
			{"selected", get(base...), true},
			{"fewer", get(base[:1]...), true},
			{"twice", append(get(base...), r.Lookup("m.room.member", bob)), false},
			{"join rules of a message", append(get(base...), r.Lookup("m.room.join_rules", "")), false},
			{"another member", append(get(base...), r.Lookup("m.room.member", alice)), false},
			{"a message", append(get(base...), stray), false},
			{"another room", append(get(base[:1]...), foreign), false},
			{"create", get(create, own), !r.v.DomainlessRoomIDs},
			{"no create", get(own), r.v.DomainlessRoomIDs},
		} {
			if c.name == "another room" && r.v.DomainlessRoomIDs {
				c.cited = []*event.Event{foreign}
			}
			if err := CheckAuthEvents(message, c.cited); (err == nil) != c.allowed {
				t.Errorf("v%s %s: %v, want allowed = %v", v, c.name, err, c.allowed)
			}
		}
		if err := CheckAuthEvents(r.Lookup("m.room.create", ""), nil); err != nil {
			t.Errorf("v%s: m.room.create: %v", v, err)
		}
	}
}

// TestVisible goes through all combinations and compares with the sentences of the specification.
func TestVisible(t *testing.T) {
	visibilities := []string{WorldReadable, Shared, Invited, Joined, "", "odd"}
	memberships := []string{"", Join, Invite, Leave, Ban, Knock}
	literal := func(visibility, membership string, joinedLater bool) bool {
		if visibility == "" || visibility == "odd" {
			visibility = Shared
		}
		switch {
		case visibility == WorldReadable:
			return true
		case membership == Join:
			return true
		case visibility == Shared && joinedLater:
			return true
		case membership == Invite && visibility == Invited:
			return true
		}
		return false
	}
	for _, before := range visibilities {
		for _, after := range visibilities {
			for _, was := range memberships {
				for _, is := range memberships {
					for _, later := range []bool{false, true} {
						s := Sight{Visibility: before, VisibilityAfter: after, Membership: was, MembershipAfter: is, JoinedLater: later}
						want := literal(before, was, later)
						if is != "" {
							want = want || literal(before, is, later)
						}
						if after != "" {
							want = want || literal(after, was, later)
						}
						if after != "" && is != "" {
							want = want || literal(after, is, later)
						}
						if got := Visible(s); got != want {
							t.Fatalf("Visible(%+v) = %v, want %v", s, got, want)
						}
						server := VisibleToServer(ServerSight{Visibility: before, VisibilityAfter: after, Memberships: []string{was, is}, JoinedLater: later})
						if server != want && is != "" {
							t.Fatalf("VisibleToServer(%+v) = %v, want %v", s, server, want)
						}
					}
				}
			}
		}
	}
}

func TestHistoryVisibility(t *testing.T) {
	r := newTestRoom(t, "11")
	for content, want := range map[string]string{`{"history_visibility":"joined"}`: Joined, `{"history_visibility":"odd"}`: Shared, `{}`: Shared,
		`{"history_visibility":7}`: Shared, `{"History_visibility":"world_readable"}`: Shared} {
		if got := HistoryVisibility(r.build("m.room.history_visibility", "", alice, content)); got != want {
			t.Errorf("%s: %s, want %s", content, got, want)
		}
	}
	if got := HistoryVisibility(nil); got != Shared {
		t.Errorf("nil: %s", got)
	}
}

func BenchmarkCheckMessage(b *testing.B) {
	r := newTestRoom(b, "11")
	r.powers(`{"users":{"` + alice + `":100}}`)
	e := r.build("m.room.message", "-", alice, `{"body":"hello","msgtype":"m.text"}`)
	b.Run("parsed", func(b *testing.B) {
		p := Parse(r, nil)
		b.ReportAllocs()
		for b.Loop() {
			p = Parse(r, p)
			if err := CheckParsed(e, r, p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("fresh", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := Check(e, r); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParse1500Users(b *testing.B) {
	r := newTestRoom(b, "11")
	users := ""
	for i := range 1500 {
		users += fmt.Sprintf(`,"@user%d:b.example":50`, i)
	}
	r.powers(`{"users":{"` + alice + `":100` + users + `}}`)
	b.ReportAllocs()
	for b.Loop() {
		Parse(r, nil)
	}
}
