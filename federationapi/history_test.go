package federationapi_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/roomserver"
)

func TestHistoryAfterAJoin(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for _, version := range []string{"1", "10", "12"} {
			room := a.create(roomserver.CreateRequest{Version: version, Preset: "public_chat"})
			var said []string
			for i := range 30 {
				said = append(said, a.say(room, a.user("alice"), fmt.Sprint("long ago ", i)))
			}
			must(t, b.join(room, b.user("bob"), a))
			create, err := b.rooms.CurrentState(t.Context(), room, "m.room.create", "")
			must(t, err)
			said = append(said, create.ID)
			more := true
			for range 10 {
				if b.placed(room, create.ID) {
					break
				}
				more, err = b.rooms.Backfill(t.Context(), room, -1<<62, 10)
				must(t, err)
				if !more {
					break
				}
			}
			for _, id := range said {
				if !b.placed(room, id) {
					t.Fatalf("version %s: %s did not come (more: %v)", version, id, more)
				}
			}
		}
	})
}

// placed tells whether an event has its place in the room's history here.
func (n *node) placed(room, id string) bool { return n.has(room, id) }

func TestQuestionsAboutEvents(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b, c := w.add("a.test"), w.add("b.test"), w.add("c.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		first := a.say(room, a.user("alice"), "one")
		second := a.say(room, a.user("alice"), "two")
		third := a.say(room, a.user("alice"), "three")
		const v1 = "/_matrix/federation/v1"
		ask := func(method, path, body, field string, want int) {
			t.Helper()
			status, answer := b.call(a, method, v1+path, body)
			if n := len(gjson.Get(answer, field).Array()); status != 200 || n < want {
				t.Errorf("%s: %d, %d in %s: %.300s", path, status, n, field, answer)
			}
			if status, answer := c.call(a, method, v1+path, body); status != 403 || gjson.Get(answer, "errcode").Str != "M_FORBIDDEN" {
				t.Errorf("%s of a server that is not in the room: %d %.300s", path, status, answer)
			}
		}
		ask("GET", "/event/"+second, "", "pdus", 1)
		ask("GET", "/event_auth/"+room+"/"+second, "", "auth_chain", 3)
		ask("GET", "/state/"+room+"?event_id="+second, "", "pdus", 6)
		ask("GET", "/state/"+room+"?event_id="+second, "", "auth_chain", 3)
		ask("GET", "/state_ids/"+room+"?event_id="+second, "", "pdu_ids", 6)
		ask("GET", "/backfill/"+room+"?limit=2&v="+second, "", "pdus", 2)
		ask("GET", "/timestamp_to_event/"+room+"?ts=0&dir=f", "", "event_id", 1)
		ask("POST", "/get_missing_events/"+room, fmt.Sprintf(`{"earliest_events":[%q],"latest_events":[%q]}`, first, third), "events", 1)

		for path, status := range map[string]int{
			"/event/$unknown": 404, "/state/" + room + "?event_id=$unknown": 404, "/state/" + room: 400, "/state_ids/!nowhere:a.test?event_id=$x": 404,
			"/backfill/" + room + "?limit=2": 400, "/backfill/" + room + "?v=" + second: 400, "/timestamp_to_event/" + room + "?ts=x&dir=f": 400,
			"/timestamp_to_event/" + room + "?ts=0&dir=b": 404, "/event_auth/" + room + "/$unknown": 404,
		} {
			if got, answer := b.call(a, "GET", v1+path, ""); got != status {
				t.Errorf("%s: %d, want %d: %s", path, got, status, answer)
			}
		}
	})
}

// TestEventAtTime asks for events by their time before any of the history is here, and reads on from there.
func TestEventAtTime(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		var said []string
		const hour = int64(3_600_000)
		began := time.Now().UnixMilli() - 1000*hour
		for i := range 300 {
			id, err := a.rooms.Send(t.Context(), roomserver.SendRequest{RoomID: room, Sender: a.user("alice"), Type: "m.room.message",
				Content: json.RawMessage(`{"body":"x"}`), TS: began + int64(i)*hour})
			must(t, err)
			said = append(said, id)
		}
		bob := b.user("bob")
		must(t, b.join(room, bob, a))
		at := func(ts int64, forward bool) string {
			t.Helper()
			e, err := b.rooms.EventAtTime(t.Context(), room, bob, ts, forward)
			must(t, err)
			return e.ID
		}
		for _, c := range []struct {
			ts      int64
			forward bool
			want    int
		}{{began + 100*hour - 1, true, 100}, {began + 200*hour + 1, false, 200}, {began + 250*hour, true, 250}, {began + 100*hour, false, 100}} {
			if got := at(c.ts, c.forward); got != said[c.want] {
				t.Fatalf("%+v: %s, want %s", c, got, said[c.want])
			}
		}
		from := roomserver.Point(-1 << 62)
		read := func(q roomserver.HistoryRequest) (ids []string) {
			t.Helper()
			q.RoomID, q.User, q.From = room, bob, &from
			h, err := b.rooms.History(t.Context(), q)
			must(t, err)
			for _, e := range h.Events {
				if e.Event.Type() == "m.room.message" {
					ids = append(ids, e.ID)
				}
			}
			from = h.End
			return ids
		}
		// Back from the newest: the gaps around what was found are filled.
		_, err := b.rooms.EventAtTime(t.Context(), room, bob, began, true)
		must(t, err)
		var back []string
		from = roomserver.Point(1 << 62)
		for len(back) < len(said) {
			ids := read(roomserver.HistoryRequest{Back: true, Limit: 70})
			if len(ids) == 0 {
				break
			}
			back = append(back, ids...)
		}
		slices.Reverse(back)
		if !slices.Equal(back, said) {
			t.Fatalf("the history has %d messages, or not in their order", len(back))
		}
	})
}

// TestMissingEventsByVisibility asks for what preceded a join: in order, and redacted where the room hides it from those
// who came later.
func TestMissingEventsByVisibility(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		for visibility, hidden := range map[string]bool{"world_readable": false, "shared": false, "invited": true, "joined": true} {
			room := a.create(roomserver.CreateRequest{Version: "11", Preset: "public_chat", InitialState: []roomserver.StateEvent{
				{Type: "m.room.history_visibility", Content: json.RawMessage(fmt.Sprintf(`{"history_visibility":%q}`, visibility))}}})
			a.say(room, a.user("alice"), "before the join")
			must(t, b.join(room, b.user("bob"), a))
			create, err := a.rooms.CurrentState(t.Context(), room, "m.room.create", "")
			must(t, err)
			join, err := a.rooms.CurrentState(t.Context(), room, "m.room.member", b.user("bob"))
			must(t, err)
			status, answer := b.call(a, "POST", "/_matrix/federation/v1/get_missing_events/"+room,
				fmt.Sprintf(`{"earliest_events":[%q],"latest_events":[%q],"limit":10,"min_depth":1}`, create.ID, join.ID))
			var types []string
			for _, e := range gjson.Get(answer, "events").Array() {
				types = append(types, e.Get("type").Str)
			}
			want := []string{"m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility", "m.room.message"}
			if status != 200 || !slices.Equal(types, want) {
				t.Errorf("%s: %d %v", visibility, status, types)
			}
			if body := gjson.Get(answer, "events.4.content.body"); body.Exists() == hidden {
				t.Errorf("%s: the message is %s", visibility, gjson.Get(answer, "events.4"))
			}
		}
	})
}

// TestMissingEventsLimit answers as many as are asked for, 10 when no number is said, and 100 at most: those nearest to
// what the asker has.
func TestMissingEventsLimit(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		first := a.say(room, a.user("alice"), "first")
		var said []string
		for i := range 120 {
			said = append(said, a.say(room, a.user("alice"), fmt.Sprint(i)))
		}
		last := a.say(room, a.user("alice"), "last")
		for limit, want := range map[string]int{"": 10, `,"limit":35`: 35, `,"limit":1000`: 100} {
			status, answer := b.call(a, "POST", "/_matrix/federation/v1/get_missing_events/"+room,
				fmt.Sprintf(`{"earliest_events":[%q],"latest_events":[%q]%s}`, first, last, limit))
			events := gjson.Get(answer, "events.#.content.body").Array()
			if status != 200 || len(events) != want || events[0].Str != fmt.Sprint(len(said)-want) || events[want-1].Str != "119" {
				t.Errorf("%s: %d %v", limit, status, events)
			}
		}
	})
}
