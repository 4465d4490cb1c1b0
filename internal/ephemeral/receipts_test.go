package ephemeral

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"knock/internal/clock"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

// history is a room whose events are $1, $2, …; those from $20 on are in thread $2.
type history struct {
	mu  sync.Mutex
	end int
}

func (h *history) Locate(_ context.Context, room, id string) (Place, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var n int
	if _, err := fmt.Sscanf(id, "$%d", &n); err != nil || n > h.end || room != "!r" {
		return Place{}, false, nil
	}
	p := Place{RoomNID: 1, Ord: int64(n), Pos: int64(n), Thread: "main"}
	if n >= 20 {
		p.Thread, p.Related = "$2", []string{"$2"}
	}
	return p, true, nil
}

type marks struct {
	mu  sync.Mutex
	log []string
}

func (m *marks) MarkRead(_ *sqldb.Tx, user string, room int64, thread string, pos int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, fmt.Sprint(user, " ", thread, " ", pos))
}

type memory map[string]json.RawMessage

func (m memory) AccountData(_ context.Context, user, room, kind string) (json.RawMessage, error) {
	if c, ok := m[user+room+kind]; ok {
		return c, nil
	}
	return nil, matrixerr.NotFound("none")
}

func (m memory) PutAccountData(_ context.Context, user, room, kind string, content json.RawMessage) error {
	m[user+room+kind] = content
	return nil
}

type rig struct {
	*Receipts
	t     *testing.T
	db    *sqldb.DB
	hub   *stream.Hub
	now   *clock.Manual
	out   *sent
	marks *marks
	room  *history
	data  memory
}

func each(t *testing.T, fn func(g *rig)) {
	for name, url := range sqldbtest.URLs(t) {
		t.Run(name, func(t *testing.T) {
			db := sqldbtest.OpenURL(t, url)
			g := &rig{t: t, db: db, hub: stream.New(0), now: clock.NewManual(time.UnixMilli(1e12)), out: &sent{},
				marks: &marks{}, room: &history{end: 30}, data: memory{}}
			db.OnPublish(g.hub.Advance)
			db.Start(t.Context())
			for _, u := range []string{"@a:x", "@b:x"} {
				g.hub.SetJoined(u, "!r", true)
			}
			g.Receipts = NewReceipts(ReceiptOptions{DB: db, Hub: g.hub, Events: g.room, Counts: g.marks, AccountData: g.data,
				Outbox: g.out, Clock: g.now.Now, Log: logrus.NewEntry(logrus.New()),
				Member: func(_, user string) bool { return user != "@stranger:y" }})
			fn(g)
		})
	}
}

func (g *rig) read(user, kind, event, thread string) {
	g.t.Helper()
	if err := g.Read(g.t.Context(), user, "!r", kind, event, thread); err != nil {
		g.t.Fatal(err)
	}
}

// since lists the receipts that a user's sync shows.
func (g *rig) since(user string, from int64) []string {
	g.t.Helper()
	var got map[string][]Receipt
	err := g.db.Read(g.t.Context(), func(tx *sqldb.Tx) (err error) {
		got, err = g.ReceiptsSince(tx, user, []string{"!r", "!s"}, from, g.hub.Published())
		return err
	})
	if err != nil {
		g.t.Fatal(err)
	}
	var out []string
	for _, r := range got["!r"] {
		out = append(out, fmt.Sprint(r.User, " ", r.Type, " ", r.Event, " ", r.Thread))
	}
	slices.Sort(out)
	return out
}

func TestReceipts(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		g.read("@a:x", Read, "$5", "")
		g.read("@a:x", Read, "$3", "") // behind
		g.read("@a:x", Read, "$7", "main")
		g.read("@a:x", Read, "$25", "$2")
		g.read("@a:x", ReadPrivate, "$9", "")
		mine := []string{"@a:x m.read $25 $2", "@a:x m.read $5 ", "@a:x m.read $7 main", "@a:x m.read.private $9 "}
		expect(t, "own", g.since("@a:x", 0), mine)
		expect(t, "others do not see private ones", g.since("@b:x", 0), mine[:3])
		expect(t, "read positions", g.marks.log,
			[]string{"@a:x * 5", "@a:x main 7", "@a:x $2 25", "@a:x * 9"})
		pos := g.hub.Published()
		expect(t, "nothing new", len(g.since("@b:x", pos)), 0)
		g.read("@b:x", Read, "$6", "")
		expect(t, "new", g.since("@a:x", pos), []string{"@b:x m.read $6 "})
	})
}

func TestReceiptErrors(t *testing.T) {
	each(t, func(g *rig) {
		for name, c := range map[string]struct{ kind, event, thread, code string }{
			"type":               {"m.other", "$1", "", "M_INVALID_PARAM"},
			"unknown event":      {Read, "$99", "", "M_NOT_FOUND"},
			"thread syntax":      {Read, "$1", "x", "M_INVALID_PARAM"},
			"wrong thread":       {Read, "$1", "$2", "M_INVALID_PARAM"},
			"thread's, not main": {Read, "$21", "main", "M_INVALID_PARAM"},
			"root in its thread": {Read, "$2", "$2", ""},
		} {
			err := g.Read(g.t.Context(), "@a:x", "!r", c.kind, c.event, c.thread)
			code := ""
			if err != nil {
				code = matrixerr.From(err).Code
			}
			expect(g.t, name, code, c.code)
		}
	})
}

// TestReceiptsCollapse queues many receipts of one user while the writer is busy.
func TestReceiptsCollapse(t *testing.T) {
	each(t, func(g *rig) {
		busy, started := make(chan struct{}), make(chan struct{})
		var once sync.Once
		wait := g.db.Enqueue(&sqldb.Op{Name: "test", Write: func(*sqldb.Tx, int64) error {
			once.Do(func() { close(started) })
			<-busy
			return nil
		}})
		<-started
		var group sync.WaitGroup
		for i := range 20 {
			place, _, _ := g.room.Locate(g.t.Context(), "!r", fmt.Sprint("$", i+1))
			wait := g.put(placed{Receipt{Room: "!r", User: "@a:x", Type: Read, Event: fmt.Sprint("$", i+1)}, place}, true)
			group.Go(func() {
				if err := wait(g.t.Context()); err != nil {
					g.t.Error(err)
				}
			})
		}
		close(busy)
		group.Wait()
		if err := wait(g.t.Context()); err != nil {
			g.t.Fatal(err)
		}
		expect(g.t, "written once", g.marks.log, []string{"@a:x * 20"})
		expect(g.t, "stored", g.since("@b:x", 0), []string{"@a:x m.read $20 "})
	})
}

func TestOthersWakeOnceASecond(t *testing.T) {
	each(t, func(g *rig) {
		t, eph := g.t, int64(0)
		pos := g.hub.Published()
		g.read("@a:x", Read, "$1", "")
		expect(t, "the first wakes others", g.hub.Ready("@b:x", pos, eph), true)
		pos = g.hub.Published()
		g.read("@a:x", Read, "$2", "")
		expect(t, "the reader's own at once", g.hub.Ready("@a:x", pos, eph), true)
		expect(t, "the second waits", g.hub.Ready("@b:x", pos, eph), false)
		expect(t, "but comes with any sync", g.since("@b:x", pos), []string{"@a:x m.read $2 "})
		g.flush(t.Context())
		expect(t, "not yet", g.hub.Ready("@b:x", pos, eph), false)
		g.now.Advance(time.Second)
		g.flush(t.Context())
		expect(t, "after a second", g.hub.Ready("@b:x", pos, eph), true)
		expect(t, "other servers hear the last one only", g.out.take(), []string{"receipt @a:x $2"})
		g.read("@a:x", Read, "$1", "")
		g.now.Advance(time.Second)
		g.flush(t.Context())
		expect(t, "and never an older one", len(g.out.take()), 0)
	})
}

func TestRemoteReceipts(t *testing.T) {
	each(t, func(g *rig) {
		t := g.t
		edu := func(content string) {
			t.Helper()
			if err := g.EDU(t.Context(), "y", json.RawMessage(content)); err != nil {
				t.Fatal(err)
			}
		}
		edu(`{"!r":{"m.read":{
			"@u:y":{"event_ids":["$4"],"data":{"ts":5,"thread_id":"main"}},
			"@v:y":{"event_ids":["$40"],"data":{"ts":5}},
			"@w:y":{"event_ids":["$1","$2"],"data":{"ts":5}},
			"@stranger:y":{"event_ids":["$1"],"data":{"ts":5}},
			"@a:x":{"event_ids":["$9"],"data":{"ts":5}},
			"@odd:y":7},
			"m.read.private":{"@u:y":{"event_ids":["$4"],"data":{"ts":5}}}},
			"!elsewhere":{"m.read":{"@u:y":{"event_ids":["$4"],"data":{"ts":5}}}}}`)
		expect(t, "only its own users' good ones", g.since("@a:x", 0), []string{"@u:y m.read $4 main"})
		expect(t, "no counts, no echo", len(g.marks.log)+len(*g.out), 0)
		g.room.mu.Lock()
		g.room.end = 50
		g.room.mu.Unlock()
		g.flush(t.Context())
		g.read("@a:x", Read, "$1", "") // behind the one that waited in the writer's queue
		expect(t, "the event has come", slices.Contains(g.since("@a:x", 0), "@v:y m.read $40 "), true)
		if err := g.EDU(t.Context(), "y", json.RawMessage(`[]`)); err == nil {
			t.Error("junk must be refused")
		}
	})
}

func TestFullyRead(t *testing.T) {
	each(t, func(g *rig) {
		for _, c := range []struct{ event, want string }{{"$5", "$5"}, {"$3", "$5"}, {"$8", "$8"}} {
			if err := g.MarkFullyRead(g.t.Context(), "@a:x", "!r", c.event); err != nil {
				g.t.Fatal(err)
			}
			expect(g.t, c.event, string(g.data["@a:x!rm.fully_read"]), `{"event_id":"`+c.want+`"}`)
		}
		if err := g.MarkFullyRead(g.t.Context(), "@a:x", "!other", "$5"); matrixerr.From(err).Code != "M_NOT_FOUND" {
			g.t.Errorf("an event of another room: %v", err)
		}
	})
}

func TestContents(t *testing.T) {
	contents, err := Contents([]Receipt{
		{User: "@a:x", Type: Read, Event: "$1", TS: 1},
		{User: "@b:x", Type: Read, Event: "$1", TS: 2},
		{User: "@a:x", Type: Read, Event: "$1", Thread: "main", TS: 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{string(contents[0]), string(contents[1])}
	slices.Sort(got)
	expect(t, "contents", got, []string{
		`{"$1":{"m.read":{"@a:x":{"ts":1},"@b:x":{"ts":2}}}}`,
		`{"$1":{"m.read":{"@a:x":{"ts":3,"thread_id":"main"}}}}`,
	})
}
