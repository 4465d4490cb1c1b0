package sync

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	stdsync "sync"
	"testing"

	"github.com/tidwall/gjson"

	"knock/clientapi/syncread"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func TestLongPoll(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		g.join(room, b)
		since := next(g.get(b))
		answers := make(chan gjson.Result)
		poll := func() { answers <- g.get(b, "since", since, "timeout", "60000") }
		go poll()
		g.say(room, a, "hello")
		expect(t, "woken", list(in(<-answers, "join", room, "timeline.events")), "hello")

		since = next(g.get(b))
		go poll()
		g.closing()
		res := <-answers
		expect(t, "the node stops", next(res), since)
		expect(t, "without news", res.Get("rooms").Raw, "")
	})
}

func TestTokensOfAnotherStore(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a})
		now, err := parseToken(next(g.get(a)))
		must(t, err)
		ahead, foreign := now, now
		ahead.pos += 1000
		foreign.epoch = "ANOTHER"
		for what, tok := range map[string]token{"ahead": ahead, "another epoch": foreign} {
			res := g.get(a, "since", tok.String(), "timeout", "60000")
			expect(t, what, in(res, "join", room, "timeline.events.0.type"), "m.room.create")
			expect(t, what+": a good token", next(res), now.String())
		}
		for _, bad := range []string{"x", "s", "s1", "s1_2_3_4", "s-1_0_0_a_b", "s1_0_0__b", "s1_0_0_a_b_c", "s99999999999999999999_0_0_a_b", "t5", strings.Repeat("s", 500)} {
			code, res := g.try(a, "since", bad)
			expect(t, bad, fmt.Sprint(code, res.Get("errcode").Str), "400M_INVALID_PARAM")
		}
	})
}

// TestEveryEventOnce lets many send while one syncs: every event must come once,
// each sender's in order, or stand behind a gap that is announced.
func TestEveryEventOnce(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		const senders, each = 6, 25
		reader := g.user("reader")
		rooms := []string{g.create(roomserver.CreateRequest{Creator: reader}), g.create(roomserver.CreateRequest{Creator: reader})}
		var users []string
		for i := range senders {
			users = append(users, g.user(fmt.Sprint("s", i)))
			g.join(rooms[i%2], users[i])
		}
		const filter = `{"room":{"timeline":{"limit":500}}}`
		since := next(g.get(reader, "filter", filter))
		var group stdsync.WaitGroup
		for i, u := range users {
			group.Go(func() {
				for n := range each {
					g.say(rooms[i%2], u, strconv.Itoa(n))
				}
			})
		}
		seen := map[string]int{}
		for total := 0; total < senders*each; {
			res := g.get(reader, "since", since, "timeout", "60000", "filter", filter)
			since = next(res)
			for _, room := range rooms {
				expect(t, "no gap", in(res, "join", room, "timeline.limited").Bool(), false)
				for _, e := range in(res, "join", room, "timeline.events").Array() {
					from := e.Get("sender").Str
					expect(t, from, e.Get("content.body").Str, strconv.Itoa(seen[from]))
					seen[from]++
					total++
				}
			}
			if t.Failed() {
				break
			}
		}
		group.Wait()
		expect(t, "and nothing more", g.get(reader, "since", since).Get("rooms").Raw, "")
	})
}

// TestComingAndGoing lets a user join and leave while another syncs as them:
// after each answer the client's idea of where it is must be one that was true.
func TestComingAndGoing(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		a, b := g.user("a"), g.user("b")
		room := g.create(roomserver.CreateRequest{Creator: a})
		since := next(g.get(b))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 30 {
				g.join(room, b)
				g.say(room, a, strconv.Itoa(i))
				g.member(room, b, b, "leave")
			}
			g.join(room, b)
		}()
		var joined bool
		for running := true; running || !joined; {
			select {
			case <-done:
				running = false
			default:
			}
			res := g.get(b, "since", since)
			since = next(res)
			join, leave := in(res, "join", room, ""), in(res, "leave", room, "")
			if join.Exists() && leave.Exists() {
				t.Fatal("one room in two sections")
			}
			switch {
			case join.Exists() && !joined:
				if !strings.Contains(join.Raw, "m.room.create") {
					t.Fatal("a newly joined room needs its whole state")
				}
				joined = true
			case leave.Exists():
				joined = false
			}
			if !running && !join.Exists() && !joined {
				t.Fatal("the last join was not told")
			}
		}
	})
}

func TestHeadersAndMethods(t *testing.T) {
	each(t, func(g *rig) {
		a := g.user("a")
		code, _ := g.call(a, http.MethodPost, "/_matrix/client/v3/sync", "")
		expect(g.t, "method", code, http.StatusMethodNotAllowed)
		code, _ = g.try(a, "timeout", "soon")
		expect(g.t, "timeout", code, http.StatusBadRequest)
	})
}

// TestAfterARestart syncs from before a start of the node, when nobody remembers
// which rooms have changed.
func TestAfterARestart(t *testing.T) {
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			g := newRig(t, url)
			a := g.user("a")
			quiet, busy := g.create(roomserver.CreateRequest{Creator: a}), g.create(roomserver.CreateRequest{Creator: a})
			since := next(g.get(a))
			g.say(busy, a, "new")
			now := next(g.get(a, "since", since))
			must(t, g.db.Close())
			g = newRig(t, url)
			res := g.get(a, "since", since)
			expect(t, "new", list(in(res, "join", busy, "timeline.events")), "new")
			expect(t, "quiet", list(in(res, "join", quiet, "timeline.events")), "")
			res = g.get(a, "since", now)
			expect(t, "up to date", list(in(res, "join", busy, "timeline.events")), "")
			expect(t, "told once who types", g.get(a, "since", next(res)).Get("rooms").Raw, "")
		})
	}
}

// TestManyRooms needs more than one snapshot.
func TestManyRooms(t *testing.T) {
	each(t, func(g *rig) {
		a := g.user("a")
		for range snapshotRooms + 3 {
			g.create(roomserver.CreateRequest{Creator: a})
		}
		expect(g.t, "rooms", len(g.get(a).Get("rooms.join").Map()), snapshotRooms+3)
	})
}

func TestBundles(t *testing.T) {
	each(t, func(g *rig) {
		a := g.user("a")
		room := g.create(roomserver.CreateRequest{Creator: a})
		bundle := func(_ *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) (func(*store.Stored, *event.ClientOptions), error) {
			expect(g.t, "viewer", v, roomserver.Viewer{User: a, Device: "D"})
			expect(g.t, "all but the newest", len(events), 1)
			return func(e *store.Stored, o *event.ClientOptions) { o.Relations = []byte(`{"n":1}`) }, nil
		}
		g.sync.reader = syncread.New(syncread.Options{Rooms: g.rooms, Bundle: bundle})
		g.say(room, a, "1")
		g.say(room, a, "2")
		res := g.get(a+"/D", "filter", `{"room":{"timeline":{"limit":2}}}`)
		expect(g.t, "bundled", in(res, "join", room, "timeline.events.0.unsigned.m\\.relations").Raw, `{"n":1}`)
	})
}
