package pushers

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/stream"
)

// TestMailTimes goes through when e-mails may go.
func TestMailTimes(t *testing.T) {
	now := clock.NewManual(time.UnixMilli(1_000_000_000))
	s := New(Options{Hub: stream.New(0), Clock: now.Now, Log: logrus.NewEntry(logrus.New())})
	l := newLane(s, &Pusher{Kind: KindEmail})
	notice := func(pos int64) {
		l.pending = append(l.pending, notice{pos: pos, ts: now.Now().UnixMilli()})
	}
	waits := func(want time.Duration) {
		t.Helper()
		if _, wait := l.ripe(); max(wait, 0) != want {
			t.Errorf("waits %v, want %v", wait, want)
		}
	}
	told := func(sent bool) {
		all, _ := l.ripe()
		l.settleMail(all, sent, nil)
	}
	notice(1)
	waits(10 * time.Minute)
	now.Advance(6 * time.Minute)
	notice(2)
	waits(4 * time.Minute)
	now.Advance(4 * time.Minute)
	waits(0)
	if wait := l.settleMail(l.pending, false, errors.New("down")); wait != time.Minute || len(l.pending) != 2 {
		t.Errorf("after a failure: %v, %d wait", wait, len(l.pending))
	}
	told(true)
	if len(l.pending) != 0 {
		t.Errorf("%d wait after the e-mail", len(l.pending))
	}
	for _, gap := range []time.Duration{10, 20, 40, 80, 160, 320, 640, 720, 720} {
		notice(3)
		waits(gap * time.Minute)
		now.Advance(gap * time.Minute)
		told(true)
	}
	notice(4)
	now.Advance(12 * time.Hour)
	told(false) // it was read
	notice(5)
	waits(10 * time.Minute)
}

func TestDigest(t *testing.T) {
	if got := oneLine(" a\r\nBcc: b\u202ec\x00\u2028d "+strings.Repeat("字", 400), 30); got != "a  Bcc: bc d "+strings.Repeat("字", 16)+"…" {
		t.Errorf("%q", got)
	}
	var rooms []*mailRoom
	for range maxMailRooms + 2 {
		rooms = append(rooms, &mailRoom{name: "Room", lines: []string{"alice: hi"}, more: 3})
	}
	m := digestMail("hs", &Pusher{PushKey: "a@b", user: "@a:hs"}, rooms, "https://link")
	if m.To != "a@b" || m.Subject != "Unread messages on hs" || strings.Count(m.Text, "alice: hi") != maxMailRooms ||
		!strings.Contains(m.Text, "And in 2 more conversations.") || !strings.Contains(m.Text, "(3 earlier)") || m.Unsubscribe != "https://link" {
		t.Errorf("%+v", m)
	}
	if m := digestMail("hs", &Pusher{}, rooms[:1], ""); m.Subject != "Unread messages in Room" {
		t.Error(m.Subject)
	}
}
