package bridges

import (
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
)

// TestDelayedEvents schedules events for users of a service, dated by it.
func TestDelayedEvents(t *testing.T) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		_, v, b := start(t, s)
		if err := b.register("irc_zoe"); err != nil {
			t.Fatal(err)
		}
		room, _ := b.as("irc_zoe", "POST", lab.V3("createRoom"), map[string]string{})["room_id"].(string)
		id, _ := b.as("irc_zoe", "PUT", lab.V3("rooms", room, "send", "m.room.message", "1")+"?org.matrix.msc4140.delay=1&ts=1234567",
			map[string]string{"msgtype": "m.text", "body": "later"})["delay_id"].(string)
		if id == "" {
			t.Fatal("no id")
		}
		if e := v.until("a delayed message", func(e event) bool { return e.Content.Body == "later" }); e.Sender != "@irc_zoe:"+server || e.TS != 1234567 {
			t.Errorf("%+v", e)
		}
		one := b.as("irc_zoe", "GET", "/_matrix/client/v1/delayed_events/"+id, nil)
		if one["event_id"] == nil {
			t.Errorf("it became %v", one)
		}
		refused(t, b.try("", "GET", "/_matrix/client/v1/delayed_events/"+id, nil, nil), 404, "M_NOT_FOUND")
	})
}
