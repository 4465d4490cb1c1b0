package roomserver

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/event"
)

// forked makes a public room of alice's with @bob:b.example in it and returns it as it then was.
func forked(t *testing.T, s *Server, version string) (room string, before snapshot) {
	t.Helper()
	room = createRoom(t, s, CreateRequest{Version: version, Preset: "public_chat"})
	bob := "@bob:b.example"
	join := snap(t, s, room).build(t, s, room, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`)
	if got := receive(t, s, join)[join.EventID()]; got != "" {
		t.Fatal(got)
	}
	return room, snap(t, s, room)
}

// fork sends n messages of bob's that follow the same event.
func fork(t *testing.T, s *Server, room string, before snapshot, n int) {
	t.Helper()
	for i := 0; i < n; i += 50 {
		var events []*event.Event
		for k := i; k < min(i+50, n); k++ {
			events = append(events, before.build(t, s, room, farSigner, "@bob:b.example", "m.room.message", nil, fmt.Sprintf(`{"body":"fork %d"}`, k)))
		}
		for id, refused := range receive(t, s, events...) {
			if refused != "" {
				t.Fatal(id, refused)
			}
		}
	}
}

// TestForksAreBroughtTogether makes many forks: the extremities are capped, and events that no client is shown bring them
// together, at once and then once a minute.
func TestForksAreBroughtTogether(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room, before := forked(t, s, "10")
		fork(t, s, room, before, 300)
		state := snap(t, s, room).view.State
		if n := ends(t, s, room); n != maxExtremities {
			t.Errorf("%d forward extremities", n)
		}
		if !same(before.view.State.Set, state.Set) {
			t.Error("the state changed")
		}
		s.forgetHandles()
		for _, id := range s.untidy.next(s.Clock()) {
			if err := s.tidy(context.Background(), id); err != nil {
				t.Fatal(err)
			}
		}
		if n := ends(t, s, room); n > tidyAbove {
			t.Errorf("%d forward extremities are left", n)
		}
		fork(t, s, room, before, 20)
		if rooms := s.untidy.next(s.Clock()); len(rooms) > 0 {
			t.Error("the room has another turn at once")
		}
		if rooms := s.untidy.next(s.Clock().Add(tidyPause)); len(rooms) != 1 {
			t.Error("the room has no other turn")
		}
		h, err := s.History(context.Background(), HistoryRequest{RoomID: room, User: "@alice:a.example", Back: true, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range h.Events {
			if e.Event.Dummy() {
				t.Error("a client is shown an event that says nothing")
			}
		}
		if len(h.Events) < 320 {
			t.Errorf("%d events of the history", len(h.Events))
		}
	})
}

func ends(t *testing.T, s *Server, room string) int {
	t.Helper()
	key, err := s.Room(context.Background(), room)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.extremities(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestNobodyMayTidy sends nothing where nobody here may.
func TestNobodyMayTidy(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		room, _ := forked(t, s, "10")
		empty := ""
		levels := snap(t, s, room).state.Lookup("m.room.power_levels", "")
		content := strings.Replace(string(levels.ContentJSON()), `"events_default":0`, `"events_default":200`, 1)
		if _, err := s.Send(context.Background(), SendRequest{RoomID: room, Sender: "@alice:a.example", Type: "m.room.power_levels", StateKey: &empty, Content: []byte(content)}); err == nil {
			t.Fatal("alice gave more than she has")
		}
		content = strings.Replace(string(levels.ContentJSON()), `"events":{`, `"events":{"org.matrix.dummy_event":100,`, 1)
		content = strings.Replace(content, `"@alice:a.example":100`, `"@alice:a.example":100,"@bob:b.example":100`, 1)
		mustSend(t, s, room, "m.room.power_levels", content)
		content = strings.Replace(content, `"@alice:a.example":100`, `"@alice:a.example":50`, 1)
		mustSend(t, s, room, "m.room.power_levels", content)
		if user, err := s.mayTidy(context.Background(), room); user != "" || err != nil {
			t.Errorf("%s may, %v", user, err)
		}
	})
}

func mustSend(t *testing.T, s *Server, room, typ, content string) {
	t.Helper()
	empty := ""
	if _, err := s.Send(context.Background(), SendRequest{RoomID: room, Sender: "@alice:a.example", Type: typ, StateKey: &empty, Content: []byte(content)}); err != nil {
		t.Fatal(err)
	}
}

// TestStateThatAForkTakesBack has bob, who may, set a topic, and then come with a fork on which he had lost the right
// before: the topic is gone, and the operator is told.
func TestStateThatAForkTakesBack(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		s := newTestServer(t, db)
		log, hook := logtest.NewNullLogger()
		s.Log = logrus.NewEntry(log)
		room, _ := forked(t, s, "10")
		levels := string(snap(t, s, room).state.Lookup("m.room.power_levels", "").ContentJSON())
		mustSend(t, s, room, "m.room.power_levels", strings.Replace(levels, `"@alice:a.example":100`, `"@alice:a.example":100,"@bob:b.example":100`, 1))
		before := snap(t, s, room)
		empty := ""
		topic := before.build(t, s, room, farSigner, "@bob:b.example", "m.room.topic", &empty, `{"topic":"mine"}`)
		down := before.build(t, s, room, farSigner, "@bob:b.example", "m.room.power_levels", &empty, levels)
		if got := receive(t, s, topic)[topic.EventID()]; got != "" {
			t.Fatal(got)
		}
		if snap(t, s, room).state.Lookup("m.room.topic", "") == nil || len(hook.AllEntries()) > 0 {
			t.Fatal("there is no topic, or too much was told")
		}
		if got := receive(t, s, down)[down.EventID()]; got != "" {
			t.Fatal(got)
		}
		if snap(t, s, room).state.Lookup("m.room.topic", "") != nil {
			t.Fatal("the topic is there")
		}
		if counted(t, s.resets) != 1 || len(hook.AllEntries()) != 1 {
			t.Fatalf("told %d times, counted %v", len(hook.AllEntries()), counted(t, s.resets))
		}
		told := hook.LastEntry()
		if got := fmt.Sprint(told.Data["state"]); got != "[m.room.topic : "+topic.EventID()+" → nothing]" {
			t.Error(got)
		}
		if got := fmt.Sprint(told.Data["forks"]); !strings.Contains(got, topic.EventID()) || !strings.Contains(got, down.EventID()) {
			t.Error(got)
		}
	})
}
