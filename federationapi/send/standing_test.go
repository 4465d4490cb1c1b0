package send

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"knock/federationapi/client"
	"knock/internal/clock"
	"knock/internal/ephemeral"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
)

// standingRig has a clock that is moved by hand and retires servers after 30 days.
func standingRig(t *testing.T, db *sqldb.DB) *rig {
	t.Helper()
	r := &rig{t: t, db: db, net: &network{}, durable: &box{}, clock: clock.NewManual(time.UnixMilli(1_700_000_000_000)), passing: &remembered{}}
	r.begin()
	return r
}

func (d *destination) now() (standing, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.standing, d.failures
}

// retire lets b.test be down until it counts as gone.
func (r *rig) retire() *destination {
	r.t.Helper()
	r.say("before")
	r.arrived("b.test", "before")
	r.net.set(down)
	r.say("missed")
	d := r.sender.destination("b.test")
	r.eventually("b fails", func() bool { s, _ := d.now(); return s.failing > 0 })
	if s, _ := d.now(); s.retired {
		r.t.Fatal("retired at once")
	}
	r.durable.put(3, 2)
	r.sender.Notify([]string{"b.test"})
	r.clock.Advance(31 * 24 * time.Hour)
	r.eventually("b is retired", func() bool { s, _ := d.now(); return s.retired })
	r.eventually("the messages to its devices are dropped", func() bool { return r.durable.left() == 0 })
	return d
}

// quiet waits until no attempt is under way and says how many there were.
func (r *rig) quiet(d *destination) int {
	r.t.Helper()
	r.eventually("nothing is tried", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return !d.running && d.timer == nil
	})
	return len(r.net.attempts())
}

func TestGoneServersAreRetiredAndComeBack(t *testing.T) {
	back := map[string]func(r *rig){
		"it calls":                   func(r *rig) { r.sender.Wake("b.test") },
		"a user of its joins a room": func(r *rig) { r.joinFrom("b.test") },
	}
	for how, comes := range back {
		t.Run(how, func(t *testing.T) {
			sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
				r := standingRig(t, db)
				d := r.retire()
				tried := r.quiet(d)
				r.say("while it was gone")
				r.eventually("the event is handed out", func() bool {
					d.mu.Lock()
					defer d.mu.Unlock()
					return d.latest > 0 && r.sender.horizon() == r.sender.o.Hub.Published()
				})
				r.stop()
				r.start() // it is remembered
				d = r.sender.destination("b.test")
				r.eventually("that it is gone outlives a restart", func() bool { s, _ := d.now(); return s.retired })
				if again := r.quiet(d); again != tried {
					t.Fatalf("a server that is gone was tried %d times", again-tried)
				}
				r.net.set(nil)
				if how == "a user of its joins a room" {
					r.member("b.test", "leave")
				}
				comes(r)
				r.arrived("b.test", "before", "missed", "while it was gone")
				if s, _ := d.now(); s.retired || s.failing != 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// TestKeptServersAreNeverRetired has a configured partner be silent for a year.
func TestKeptServersAreNeverRetired(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := standingRig(t, db)
		r.sender.o.Keep = func(server string) bool { return server == "b.test" }
		r.net.set(down)
		r.say("missed")
		r.eventually("an attempt", func() bool { return len(r.net.attempts()) > 0 })
		r.clock.Advance(365 * 24 * time.Hour)
		n := len(r.net.attempts())
		r.eventually("it is tried on", func() bool { return len(r.net.attempts()) > n+3 })
		if !r.sender.Partner("b.test") {
			t.Error("it is no partner")
		}
		r.net.set(nil)
		r.arrived("b.test", "missed")
	})
}

func TestPartners(t *testing.T) {
	day := (24 * time.Hour).Milliseconds()
	now := 1000 * day
	for _, c := range []struct {
		s    standing
		want bool
	}{
		{standing{}, true},
		{standing{failing: now - day/2}, true},
		{standing{failing: now - 2*day}, false},
		{standing{heard: now - 29*day, failing: now - 29*day}, true},
		{standing{heard: now - 31*day, failing: now - 31*day}, false},
		{standing{heard: now - day, failing: now - 100*day}, true},
	} {
		if got := c.s.partner(now); got != c.want {
			t.Errorf("%+v: %v", c.s, got)
		}
	}
}

// TestSignOfLife has a server call that cannot be called: it is tried again soon, but not each time.
func TestSignOfLife(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := standingRig(t, db)
		r.net.wait.Store(int64(time.Hour))
		r.net.set(down)
		r.say("1")
		d := r.sender.destination("b.test")
		r.eventually("it is left alone", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.timer != nil
		})
		n := len(r.net.attempts())
		for range 100 {
			r.sender.Wake("b.test")
		}
		if got := len(r.net.attempts()) - n; got > 1 {
			t.Errorf("%d attempts at once", got)
		}
		r.net.set(nil)
		r.clock.Advance(time.Second)
		d.mu.Lock()
		d.failures = 1
		d.mu.Unlock()
		r.sender.Wake("b.test")
		r.arrived("b.test", "1")
	})
}

// missReceipt has b.test be down while a message and a receipt are for it, and time pass.
func (r *rig) missReceipt() {
	r.t.Helper()
	r.say("before")
	r.arrived("b.test", "before")
	d := r.sender.destination("b.test")
	r.net.set(down)
	r.say("missed")
	r.eventually("it fails", func() bool { _, failures := d.now(); return failures > 0 })
	r.passing.receipts.Store(&[]ephemeral.Receipt{{Room: r.room, User: "@alice:a.test", Type: ephemeral.Read, Event: "$read"}})
	r.passing.at.Store(r.sender.o.Hub.Published())
	for range len(r.sender.marks.pos) {
		r.sender.marks.note(r.sender.o.Hub.Published()) // seconds pass
	}
}

func (r *rig) receiptArrives() {
	r.t.Helper()
	r.eventually("the receipt arrives", func() bool {
		_, read := r.net.told("b.test")
		return slices.Contains(read, "@alice:a.test $read")
	})
}

// TestRemindersAreRepeated has the transaction fail that tells what a server missed, long after that was.
func TestRemindersAreRepeated(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := standingRig(t, db)
		r.missReceipt()
		var failed atomic.Bool
		r.net.set(func(_ string, tr *client.Transaction) error {
			if slices.ContainsFunc(tr.EDUs, func(e client.EDU) bool { return e.Type == "m.receipt" }) && !failed.Swap(true) {
				return errDown
			}
			return nil
		})
		r.receiptArrives()
	})
}

// TestRemindersOutliveARestart stops while a server has its events again, and has not been told what else it missed.
func TestRemindersOutliveARestart(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := standingRig(t, db)
		r.missReceipt()
		var failed atomic.Bool
		r.net.set(func(_ string, tr *client.Transaction) error {
			if slices.ContainsFunc(tr.EDUs, func(e client.EDU) bool { return e.Type == "m.receipt" }) {
				failed.Store(true)
				return errDown
			}
			return nil
		})
		r.arrived("b.test", "before", "missed")
		r.eventually("the reminder fails", failed.Load)
		r.stop()
		r.net.set(nil)
		r.start()
		r.receiptArrives()
	})
}

// remembered is a Passing in memory.
type remembered struct {
	receipts atomic.Pointer[[]ephemeral.Receipt]
	present  atomic.Pointer[[]ephemeral.State]
	at       atomic.Int64 // position of the receipts; 0: after all
}

func (m *remembered) ReceiptsAfter(_ *sqldb.Tx, rooms []string, pos int64, _ int) (out []ephemeral.Receipt, _ error) {
	if list := m.receipts.Load(); list != nil && (m.at.Load() == 0 || m.at.Load() > pos) {
		for _, r := range *list {
			if slices.Contains(rooms, r.Room) {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func (m *remembered) Present(users []string) (out []ephemeral.State) {
	if list := m.present.Load(); list != nil {
		for _, p := range *list {
			if slices.Contains(users, p.User) {
				out = append(out, p)
			}
		}
	}
	return out
}

// told lists whose presence and receipts arrived at a server.
func (n *network) told(server string) (present, read []string) {
	for _, a := range n.attempts() {
		if a.server != server || a.err != nil {
			continue
		}
		for _, e := range a.t.EDUs {
			switch e.Type {
			case "m.presence":
				for _, u := range gjson.GetBytes(e.Content, "push.#.user_id").Array() {
					present = append(present, u.Str)
				}
			case "m.receipt":
				gjson.GetBytes(e.Content, `*.m\.read`).ForEach(func(user, r gjson.Result) bool {
					read = append(read, user.Str+" "+r.Get("event_ids.0").Str)
					return true
				})
			}
		}
	}
	return present, read
}

// TestMissedReceiptsAndPresence are said again after an outage, once the events have arrived.
func TestMissedReceiptsAndPresence(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := standingRig(t, db)
		r.say("before")
		r.arrived("b.test", "before")
		r.net.set(down)
		r.say("missed")
		d := r.sender.destination("b.test")
		r.eventually("b fails", func() bool { _, n := d.now(); return n > 0 })
		receipts := []ephemeral.Receipt{
			{Room: r.room, User: "@alice:a.test", Type: ephemeral.Read, Event: "$missed", TS: 7},
			{Room: r.room, User: "@user:b.test", Type: ephemeral.Read, Event: "$missed", TS: 8},
			{Room: "!other:a.test", User: "@alice:a.test", Type: ephemeral.Read, Event: "$elsewhere", TS: 7},
		}
		r.passing.receipts.Store(&receipts)
		r.passing.present.Store(&[]ephemeral.State{{User: "@alice:a.test", Presence: "online"}})
		r.sender.Receipt(receipts[0])
		r.net.set(nil)
		r.arrived("b.test", "before", "missed")
		r.eventually("b learns what it missed", func() bool {
			present, read := r.net.told("b.test")
			return slices.Contains(present, "@alice:a.test") && slices.Contains(read, "@alice:a.test $missed")
		})
		if _, read := r.net.told("b.test"); strings.Contains(strings.Join(read, " "), "b.test") || slices.Contains(read, "@alice:a.test $elsewhere") {
			t.Errorf("b learnt %v", read)
		}
	})
}

// TestNewServersLearnWhoIsPresent has a server come into a room whose members are online already; what changes then
// reaches it as it does others.
func TestNewServersLearnWhoIsPresent(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		r := standingRig(t, db)
		r.passing.present.Store(&[]ephemeral.State{{User: "@alice:a.test", Presence: "online"}})
		r.joinFrom("c.test")
		r.eventually("c learns that alice is online", func() bool {
			present, _ := r.net.told("c.test")
			return slices.Contains(present, "@alice:a.test")
		})
		r.sender.Receipt(ephemeral.Receipt{Room: r.room, User: "@alice:a.test", Type: ephemeral.Read, Event: "$e", TS: 7})
		r.sender.Typing(r.room, "@alice:a.test", true, time.Second)
		r.eventually("c learns what alice reads and that she types", func() bool {
			_, read := r.net.told("c.test")
			typing := slices.ContainsFunc(r.net.attempts(), func(a attempt) bool {
				return a.server == "c.test" && len(a.t.EDUs) > 0 && slices.ContainsFunc(a.t.EDUs, func(e edu) bool { return e.Type == "m.typing" })
			})
			return typing && slices.Contains(read, "@alice:a.test $e")
		})
	})
}
