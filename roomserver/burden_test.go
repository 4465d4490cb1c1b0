package roomserver

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// counted is the value of a counter.
func counted(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// TestFullQueue fills the inbound queue of a room: what is too much is refused event by event, another server's events
// and other rooms are not, and nothing is missing in the end.
func TestFullQueue(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		r.s.Inbound.Full, r.s.Inbound.RoomWaits = 20, 1000
		chain := []*event.Event{r.say(nil, "lost")}
		for i := range 30 {
			chain = append(chain, r.say(chain[i], fmt.Sprint(i)))
		}
		results := receive(t, r.s, chain[1:]...)
		refused := 0
		for i, e := range chain[1:] {
			reason, ok := results[e.EventID()]
			if want := i >= 10; !ok || (reason != "") != want {
				t.Fatalf("event %d of %d: %q", i, len(chain)-1, reason)
			} else if want {
				refused++
			}
		}
		if n := counted(t, r.s.bounds.refused.WithLabelValues(fullShare)); r.queued() != 10 || n != float64(refused) {
			t.Fatalf("%d wait, %v refused", r.queued(), n)
		}
		if left := r.s.intake.left[r.key.NID]; len(left) != 1 || left[0].event.EventID() != chain[30].EventID() {
			t.Fatalf("left over: %d", len(left))
		}
		other := createRoom(t, r.s, CreateRequest{Version: "11", Preset: "public_chat"})
		bob := farBob
		join := snap(t, r.s, other).build(t, r.s, other, farSigner, bob, "m.room.member", &bob, `{"membership":"join"}`)
		again := r.say(nil, "beside")
		if got := receive(t, r.s, again, join); got[join.EventID()] != "" || got[again.EventID()] == "" {
			t.Fatalf("another room: %v", got)
		}
		third, err := r.s.Receive(t.Context(), "c.example", []json.RawMessage{chain[29].JSON()})
		if err != nil || third[chain[29].EventID()] != "" || r.queued() != 11 {
			t.Fatalf("another server: %v, %v", third, err)
		}

		r.far.history = chain
		for range 3 {
			r.s.retryInbound()
			r.s.drainRoom(t.Context(), r.key)
		}
		for i, e := range append(chain, again) {
			if !r.placed(e) {
				t.Errorf("event %d is missing", i)
			}
		}
		if r.queued() != 0 || len(r.s.intake.left) != 0 {
			t.Errorf("%d wait, %d left over", r.queued(), len(r.s.intake.left))
		}
	})
}

func TestRoomOfTheQueue(t *testing.T) {
	l := InboundLimits{Full: 100}.orDefault()
	for _, c := range []struct {
		n    store.Backlog
		want int
		got  fullness
	}{
		{store.Backlog{}, 50, fullness{50, ""}},
		{store.Backlog{Room: 60, Origin: 10, Share: 10}, 50, fullness{40, fullRoom}},
		{store.Backlog{Room: 100, Origin: 10, Share: 0}, 1, fullness{0, fullRoom}},
		{store.Backlog{Room: 0, Origin: 95, Share: 0}, 50, fullness{5, fullOrigin}},
		{store.Backlog{Room: 48, Origin: 48, Share: 48}, 50, fullness{2, fullShare}},
		{store.Backlog{Room: 200, Origin: 200, Share: 200}, 50, fullness{0, fullRoom}},
	} {
		if got := l.room(c.n, c.want); got != c.got {
			t.Errorf("%+v: %+v, want %+v", c.n, got, c.got)
		}
	}
}

// TestSlowAnswers answers a transaction only when what waits of its server is little enough, and what it sent is safe
// before.
func TestSlowAnswers(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		r.s.Inbound.RoomWaits = 2
		lost := r.say(nil, "lost")
		receive(t, r.s, r.say(lost, "1"), r.say(lost, "2"))
		if n := counted(t, r.s.bounds.slowed); n != 0 {
			t.Fatalf("%v answers were slow", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		answered := make(chan error, 1)
		third := r.say(lost, "3")
		go func() {
			_, err := r.s.Receive(ctx, "b.example", []json.RawMessage{third.JSON()})
			answered <- err
		}()
		for counted(t, r.s.bounds.slowed) == 0 {
			time.Sleep(time.Millisecond)
		}
		if r.queued() != 3 {
			t.Errorf("%d events wait", r.queued())
		}
		r.s.drainRoom(t.Context(), r.key)
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// TestDrainersAreShared lets no server keep all drainers.
func TestDrainersAreShared(t *testing.T) {
	s := newTestServer(t, sqldbtest.Open(t, sqldb.SQLite))
	for i := range int64(10) {
		s.signal(store.RoomKey{NID: i}, "bad.example")
	}
	for range drainShare {
		if _, ok := s.nextInbound(); !ok {
			t.Fatal("nothing to do")
		}
	}
	if key, ok := s.nextInbound(); ok {
		t.Fatalf("room %d too", key.NID)
	}
	s.signal(store.RoomKey{NID: 99}, "good.example")
	if key, ok := s.nextInbound(); !ok || key.NID != 99 {
		t.Fatalf("room %d, %v", key.NID, ok)
	}
}

// TestThinking has a server whose events take much state resolution wait, and not others.
func TestThinking(t *testing.T) {
	now := time.UnixMilli(0)
	th := thinking{perMinute: 10 * time.Second, spent: map[string]account{}}
	for range 6 {
		th.add("bad", 10*time.Second, now)
	}
	th.add("good", 10*time.Second, now)
	if !th.over("bad", now) || th.over("good", now) || th.over("unheard of", now) {
		t.Error("who is over?")
	}
	if th.over("bad", now.Add(time.Minute)) || !th.over("bad", now.Add(-time.Hour)) {
		t.Error("time does not pass")
	}
	for i := range 2 * maxAccounts {
		th.add(fmt.Sprint(i), time.Millisecond, now.Add(time.Hour))
	}
	if len(th.spent) > maxAccounts {
		t.Errorf("%d accounts", len(th.spent))
	}

	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := newGapRig(t, db)
		e := r.say(nil, "later")
		r.s.thinking.add("b.example", time.Hour, r.s.Clock())
		receive(t, r.s, e)
		r.s.drainRoom(t.Context(), r.key)
		if r.placed(e) || r.queued() != 1 || counted(t, r.s.bounds.heldBack) != 2 {
			t.Fatalf("placed %v, %d wait", r.placed(e), r.queued())
		}
		clear(r.s.thinking.spent)
		r.s.retryInbound()
		r.s.drainRoom(t.Context(), r.key)
		if !r.placed(e) || r.queued() != 0 {
			t.Fatalf("placed %v, %d wait", r.placed(e), r.queued())
		}
	})
}
