package stream

import (
	"context"
	"testing"
)

func TestWaitReturnsOnlyAfterAdvance(t *testing.T) {
	h := New(10)
	h.SetJoined("@a:x", "!r", true)
	done := make(chan bool)
	go func() { done <- h.Wait(context.Background(), "@a:x", 10, 0) }()
	h.TouchTimeline("!r", 11)
	if h.Ready("@a:x", 10, 0) {
		t.Fatal("a touched but unpublished position must not be ready")
	}
	h.Advance(11)
	if !<-done {
		t.Fatal("Wait ended without the change")
	}
	if h.Ready("@a:x", 11, 0) {
		t.Fatal("nothing newer than 11 is there")
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	h := New(0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if h.Wait(ctx, "@a:x", 0, 0) {
		t.Fatal("nothing changed")
	}
}

func TestEphemeralWakesAtOnce(t *testing.T) {
	h := New(5)
	h.SetJoined("@a:x", "!r", true)
	h.WakeRoom("!r", h.NextEphemeral())
	if !h.Ready("@a:x", 5, 0) || h.Ready("@a:x", 5, 1) {
		t.Fatal("ephemeral sequence 1 should be ready after 0 and not after 1")
	}
}

func TestChangedRoomsAfterBootAreUnknown(t *testing.T) {
	h := New(100)
	h.SetJoined("@a:x", "!r", true)
	if got := h.ChangedRooms("@a:x", 50); len(got) != 1 {
		t.Fatalf("a position older than the start must look at every room, got %v", got)
	}
	if got := h.ChangedRooms("@a:x", 100); len(got) != 0 {
		t.Fatalf("nothing changed since the start, got %v", got)
	}
	h.TouchRoom("!r", 101)
	if got := h.ChangedRooms("@a:x", 100); len(got) != 0 {
		t.Fatalf("a receipt is not a timeline change, got %v", got)
	}
	h.TouchTimeline("!r", 102)
	if got := h.ChangedRooms("@a:x", 100); len(got) != 1 {
		t.Fatalf("got %v", got)
	}
}

func TestMembershipIndex(t *testing.T) {
	h := New(0)
	h.SetJoined("@a:x", "!r", true)
	h.SetJoined("@b:x", "!r", true)
	h.SetJoined("@b:x", "!s", true)
	if !h.ShareRoom("@a:x", "@b:x") || h.ShareRoom("@a:x", "@c:x") {
		t.Fatal("ShareRoom")
	}
	h.SetJoined("@a:x", "!r", false)
	if h.ShareRoom("@a:x", "@b:x") || h.IsJoined("@a:x", "!r") || h.JoinedCount("!r") != 1 {
		t.Fatal("a user who left shares nothing")
	}
}

func TestSubscriptionOverflow(t *testing.T) {
	h := New(0)
	s := h.Subscribe(1)
	h.Emit(Change{Pos: 1})
	h.Emit(Change{Pos: 2})
	if c := <-s.C; c.Pos != 1 || !s.Overflowed() || s.Overflowed() {
		t.Fatal("the second change must be dropped and reported once")
	}
}

func BenchmarkTouchRoomOf2000(b *testing.B) {
	h := New(0)
	for i := range 2000 {
		h.SetJoined(string(rune('a'+i%26))+string(rune(i)), "!r", true)
	}
	for i := 0; b.Loop(); i++ {
		h.TouchTimeline("!r", int64(i+1))
		h.Advance(int64(i + 1))
	}
}
