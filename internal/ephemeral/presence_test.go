package ephemeral

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"knock/internal/clock"
	"knock/internal/stream"
)

func TestPresence(t *testing.T) {
	hub := stream.New(0)
	for _, u := range []string{"@a:x", "@b:x"} {
		hub.SetJoined(u, "!r", true)
	}
	hub.SetJoined("@c:x", "!other", true)
	now, out := clock.NewManual(time.UnixMilli(1e12)), &sent{}
	p := NewPresence(PresenceOptions{Enabled: true, Hub: hub, Clock: now.Now, Outbox: out,
		Rooms: func(user string) []string {
			if user == "@remote:y" {
				return []string{"!r"}
			}
			return nil
		}})
	at := map[string]int64{}
	since := func(viewer string) (got []string) {
		for _, s := range p.Since(viewer, at[viewer], hub.Ephemeral()) {
			got = append(got, fmt.Sprint(s.User, " ", s.Presence, " ", s.Status, " ", s.CurrentlyActive))
		}
		at[viewer] = hub.Ephemeral()
		return got
	}
	pass := func(d time.Duration) {
		now.Advance(d)
		p.age()
		p.tell()
	}
	done := p.Sync("@a:x", "D", "")
	p.tell()
	expect(t, "wakes those who share a room", hub.Ready("@b:x", 0, 0), true)
	expect(t, "and nobody else", hub.Ready("@c:x", 0, 0), false)
	expect(t, "online", since("@b:x"), []string{"@a:x online  true"})
	expect(t, "to others invisible", len(since("@c:x")), 0)
	expect(t, "told", out.take(), []string{"presence @a:x online"})

	status := "busy"
	must(t, p.Set("@a:x", "D", Online, &status))
	expect(t, "status", since("@b:x"), []string{"@a:x online busy true"})
	pass(2 * time.Minute)
	expect(t, "no longer active", since("@b:x"), []string{"@a:x online busy false"})
	pass(4 * time.Minute)
	expect(t, "idle", since("@b:x"), []string{"@a:x unavailable busy false"})
	p.Sync("@a:x", "D", Online)()
	expect(t, "a poll is no activity", len(since("@b:x")), 0)
	p.Active("@a:x", "D")
	p.Active("@a:x", "D")
	expect(t, "active again", since("@b:x"), []string{"@a:x online busy true"})
	p.Sync("@a:x", "E", Unavailable)()
	expect(t, "another device is in use", len(since("@b:x")), 0)
	p.Sync("@a:x", "D", Unavailable)()
	expect(t, "the device in use says idle", since("@b:x"), []string{"@a:x unavailable busy false"})
	p.Active("@a:x", "D")
	expect(t, "active once more", since("@b:x"), []string{"@a:x online busy true"})
	pass(90 * time.Second)
	since("@b:x")
	p.Sync("@a:x", "E", Unavailable)()
	expect(t, "the client says idle", since("@b:x"), []string{"@a:x unavailable busy false"})
	done()
	p.Sync("@a:x", "D", Offline)()
	pass(31 * time.Second)
	expect(t, "gone", since("@b:x"), []string{"@a:x offline busy false"})
	expect(t, "who is offline is not news at first", len(p.Since("@b:x", 0, hub.Ephemeral())), 0)

	must(t, p.Remote("y", json.RawMessage(`{"push":[
		{"user_id":"@remote:y","presence":"online","last_active_ago":5000,"currently_active":true,"status_msg":"hi"},
		{"user_id":"@a:x","presence":"online","last_active_ago":1},
		{"user_id":"@nobody:y","presence":"online","last_active_ago":1},
		{"user_id":"@remote:y","presence":"dancing","last_active_ago":1}, 7]}`)))
	expect(t, "only its own users who share a room", since("@b:x"), []string{"@remote:y online hi true"})
	s, err := p.Get("@b:x", "@remote:y")
	must(t, err)
	content, _ := json.Marshal(s.Content(clock.Clock(now.Now).Millis()))
	expect(t, "content", string(content), `{"presence":"online","last_active_ago":5000,"status_msg":"hi","currently_active":true}`)
	pass(time.Hour)
	expect(t, "their server says when they go", len(since("@b:x")), 0)
	if _, err := p.Get("@c:x", "@a:x"); err == nil {
		t.Error("strangers see nothing")
	}
	if p.Set("@a:x", "D", "dancing", nil) == nil || p.Remote("y", json.RawMessage(`[]`)) == nil {
		t.Error("junk must be refused")
	}
}

func TestPresenceSwitchedOff(t *testing.T) {
	hub := stream.New(0)
	p := NewPresence(PresenceOptions{Hub: hub})
	p.Sync("@a:x", "D", "")()
	p.Active("@a:x", "D")
	must(t, p.Remote("y", json.RawMessage(`{"push":[{"user_id":"@r:y","presence":"online"}]}`)))
	if p.Set("@a:x", "D", Online, nil) == nil || hub.Ephemeral() != 0 || len(p.Since("@a:x", 0, 9)) != 0 {
		t.Error("presence is switched off")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
