package sync

import (
	"testing"

	"knock/roomserver"
)

func TestInitialThenIncremental(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a, Name: "R"})
		g.join(room, b)
		g.say(room, a, "one")
		first := g.get(b)
		expect(t, "timeline", list(in(first, "join", room, "timeline.events")),
			"create join:@a power_levels join_rules history_visibility name=R join:@b one")
		expect(t, "whole", in(first, "join", room, "timeline.limited"), false)
		expect(t, "counts", in(first, "join", room, "summary").Raw, `{"m.joined_member_count":2,"m.invited_member_count":0}`)
		if !first.Get("account_data.events.#(type==\"m.push_rules\").content.global.override").IsArray() {
			t.Error("an initial sync needs the push rules")
		}
		expect(t, "no keys yet", first.Get("device_one_time_keys_count").Raw, `{"signed_curve25519":0}`)
		expect(t, "no fallback keys yet", first.Get("device_unused_fallback_key_types").Raw, `[]`)

		quiet := g.get(b, "since", next(first))
		expect(t, "nothing new", quiet.Get("rooms").Raw, "")
		expect(t, "same place", next(quiet), next(first))

		g.say(room, a, "two")
		g.say(room, b, "three")
		second := g.get(b, "since", next(first))
		expect(t, "new", list(in(second, "join", room, "timeline.events")), "two three")
		expect(t, "whole", in(second, "join", room, "timeline.limited"), false)
		expect(t, "no state", in(second, "join", room, "state").Raw, `{"events":[]}`)
	})
}

// What a client has of an earlier stay does not go on in the timeline of a room
// that the user came into.
func TestNewlyJoinedIsLimited(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		since := next(g.get(b))
		g.join(room, b)
		res := g.get(b, "since", since, "filter", `{"room":{"timeline":{"limit":50}}}`)
		expect(t, "come", in(res, "join", room, "timeline.limited"), true)
		expect(t, "all of it", list(in(res, "join", room, "timeline.events")), "create join:@a power_levels join_rules history_visibility join:@b")
		g.say(room, a, "one")
		expect(t, "stayed", in(g.get(b, "since", next(res)), "join", room, "timeline.limited"), false)
		expect(t, "at first", in(g.get(b, "filter", `{"room":{"timeline":{"limit":50}}}`), "join", room, "timeline.limited"), false)
	})
}
