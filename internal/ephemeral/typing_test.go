package ephemeral

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knock/internal/clock"
	"knock/internal/stream"
)

// sent records what other servers are told.
type sent []string

func (s *sent) Typing(room, user string, typing bool, _ time.Duration) {
	*s = append(*s, fmt.Sprint("typing ", room, " ", user, " ", typing))
}
func (s *sent) Receipt(r Receipt) { *s = append(*s, fmt.Sprint("receipt ", r.User, " ", r.Event)) }
func (s *sent) Presence(p State)  { *s = append(*s, fmt.Sprint("presence ", p.User, " ", p.Presence)) }

func (s *sent) take() []string {
	out := *s
	*s = nil
	return out
}

func expect(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestTyping(t *testing.T) {
	hub := stream.New(0)
	hub.SetJoined("@a:x", "!r", true)
	now := clock.NewManual(time.UnixMilli(1e12))
	out := &sent{}
	ty := NewTyping(TypingOptions{Hub: hub, Clock: now.Now, Outbox: out,
		Local:  func(room string) bool { return hub.JoinedCount(room) > 0 },
		Member: func(_, user string) bool { return user != "@stranger:y" }})
	at := int64(0)
	since := func() map[string][]string {
		from := at
		at = hub.Ephemeral()
		return ty.Since([]string{"!r", "!s"}, from, at)
	}
	ty.Set("!r", "@a:x", false, 0)
	expect(t, "not typing is no news", len(since())+len(out.take()), 0)

	ty.Set("!r", "@a:x", true, 10*time.Second)
	if !hub.Ready("@a:x", 0, 0) {
		t.Error("the room must wake")
	}
	expect(t, "typing", since(), map[string][]string{"!r": {"@a:x"}})
	expect(t, "told", out.take(), []string{"typing !r @a:x true"})
	ty.Set("!r", "@a:x", true, 40*time.Second)
	expect(t, "still typing is no news", len(since())+len(out.take()), 0)

	if err := ty.EDU("y", json.RawMessage(`{"room_id":"!r","user_id":"@b:y","typing":true}`)); err != nil {
		t.Fatal(err)
	}
	expect(t, "both", since(), map[string][]string{"!r": {"@a:x", "@b:y"}})
	expect(t, "remote users are not told of", len(out.take()), 0)
	expect(t, "from the start", ty.Since([]string{"!r"}, 0, at), map[string][]string{"!r": {"@a:x", "@b:y"}})

	now.Advance(30 * time.Second)
	ty.expire()
	ty.Set("!r", "@a:x", true, 10*time.Second)
	expect(t, "repeated to other servers", out.take(), []string{"typing !r @a:x true"})
	now.Advance(11 * time.Second)
	ty.expire()
	expect(t, "timed out", since(), map[string][]string{"!r": {"@b:y"}})
	if err := ty.Remote("y", "!r", "@b:y", false); err != nil {
		t.Fatal(err)
	}
	expect(t, "stopped", since(), map[string][]string{"!r": {}})
	expect(t, "nobody from the start", len(ty.Since([]string{"!r"}, 0, at)), 0)

	ty.forget()
	expect(t, "forgotten rooms tell old syncs again", ty.Since([]string{"!r"}, 1, at), map[string][]string{"!r": {}})
	expect(t, "new ones not", len(ty.Since([]string{"!r"}, at, at)), 0)

	for name, err := range map[string]error{
		"another server's user": ty.Remote("z", "!r", "@b:y", true),
		"not a user":            ty.Remote("y", "!r", "b:y", true),
		"unknown room":          ty.Remote("y", "!nowhere", "@b:y", true),
		"not a member":          ty.Remote("y", "!r", "@stranger:y", true),
		"junk":                  ty.EDU("y", json.RawMessage(`{"typing":"yes"}`)),
		"empty user":            ty.Remote("", "!r", "", true),
	} {
		if err == nil {
			t.Errorf("%s must be refused", name)
		}
	}
}

func TestTypistsAreBounded(t *testing.T) {
	ty := NewTyping(TypingOptions{Hub: stream.New(0)})
	for i := range maxTypists + 50 {
		if err := ty.Remote("y", "!r", fmt.Sprintf("@u%d:y", i), true); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, "typists", len(ty.Since([]string{"!r"}, 0, 1e9)["!r"]), maxTypists)
}
