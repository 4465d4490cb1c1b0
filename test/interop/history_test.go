package interop

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"knock/cmd/knock/demo/lab"
)

// history is read by somebody who joined later, back to the beginning.
func history(t *testing.T, p *pair) {
	host, guest := p.people()
	room := p.room(host, nil)
	want := []string{}
	for i := range 60 {
		want = append(want, host.say(room, fmt.Sprint("message ", i)))
	}
	guest.join(room, p.home)
	got := pageBack(guest, room)
	if got[len(got)-1].Type != "m.room.create" {
		t.Errorf("history begins with %s", got[len(got)-1].Type)
	}
	var messages []string
	for _, e := range got {
		if e.Type == "m.room.message" {
			messages = append([]string{e.ID}, messages...)
		}
	}
	same(t, "the messages", messages, want)
	middle, err := guest.event(room, want[30])
	if err != nil || middle.Text("body") != "message 30" {
		t.Errorf("one event: %+v, %v", middle, err)
	}
	if p.away.kind == "knock" { // Synapse leaves the event just before a fetched one out
		around(t, guest, room, want[28:33])
	}
	atTime(t, guest, room, middle)
}

// pageBack is all that the user may read, newest first.
func pageBack(p *person, room string) (all []lab.Event) {
	p.t.Helper()
	from := ""
	for {
		query := url.Values{"dir": {"b"}, "limit": {"25"}}
		if from != "" {
			query.Set("from", from)
		}
		var page struct {
			Chunk []lab.Event
			End   string
		}
		p.get(lab.V3("rooms", room, "messages")+"?"+query.Encode(), &page)
		all = append(all, page.Chunk...)
		if page.End == "" || page.End == from || len(all) > 1000 {
			return all
		}
		from = page.End
	}
}

// around wants the events in their order around the middle one.
func around(t *testing.T, p *person, room string, want []string) {
	t.Helper()
	var context struct {
		Before []lab.Event `json:"events_before"`
		Event  lab.Event
		After  []lab.Event `json:"events_after"`
	}
	p.get(lab.V3("rooms", room, "context", want[2])+"?limit=4", &context)
	slices.Reverse(context.Before)
	var got []string
	for _, e := range append(append(context.Before, context.Event), context.After...) {
		got = append(got, e.ID)
	}
	same(t, "the context", got, want)
}

func atTime(t *testing.T, p *person, room string, e lab.Event) {
	t.Helper()
	var found struct {
		ID string `json:"event_id"`
	}
	p.get(fmt.Sprintf("/_matrix/client/v1/rooms/%s/timestamp_to_event?dir=f&ts=%d", url.PathEscape(room), e.Timestamp), &found)
	at := must(p.event(room, found.ID))(p)
	if at.Timestamp != e.Timestamp {
		t.Errorf("asked for %d, got %d", e.Timestamp, at.Timestamp)
	}
}

// visibility: what was said before one came stays hidden when the room says so, on every way.
func visibility(t *testing.T, p *pair) {
	host, guest := p.people()
	room := p.room(host, object{"initial_state": []object{{"type": "m.room.history_visibility", "state_key": "", "content": object{"history_visibility": "joined"}}}})
	hidden := host.say(room, "before")
	guest.join(room, p.home)
	host.seesMember(room, guest, "join")
	shown := host.say(room, "after")
	guest.sees(room, shown)
	for _, e := range pageBack(guest, room) {
		if e.ID == hidden {
			t.Error("a hidden message is in the history")
		}
	}
	_, err := guest.event(room, hidden)
	guest.refused("a hidden message", err, "M_NOT_FOUND", "M_FORBIDDEN")
	guest.refused("the context of a hidden message", guest.Call(p.ctx, http.MethodGet, lab.V3("rooms", room, "context", hidden), nil, nil), "M_NOT_FOUND", "M_FORBIDDEN")
}
