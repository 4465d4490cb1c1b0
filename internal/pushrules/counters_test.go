package pushrules

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/test/cpu"
)

type touches map[string]int64

func (h touches) TouchUser(user string, pos int64) { h[user] = pos }

// ignoring maps a user to those whom they ignore.
type ignoring map[string][]string

func (g ignoring) Ignores(user, sender string) bool      { return slices.Contains(g[user], sender) }
func (g ignoring) HidesInvite(user, inviter string) bool { return g.Ignores(user, inviter) }
func (g ignoring) AnyoneIgnores(sender string) bool {
	for _, list := range g {
		if slices.Contains(list, sender) {
			return true
		}
	}
	return false
}

func newService(t testing.TB, db *sqldb.DB, g ignoring) *Service {
	t.Helper()
	s := New(Options{DB: db, Hub: touches{}, Log: logrus.NewEntry(logrus.New()), Ignores: g})
	if err := s.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *Service, user string, k Kind, id, body string) {
	t.Helper()
	def := &Definition{}
	if err := json.Unmarshal([]byte(body), def); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), user, k, id, def, "", ""); err != nil {
		t.Fatal(err)
	}
}

// world is a slow reference: it keeps every event and asks the full rules.
type world struct {
	t      *testing.T
	s      *Service
	db     *sqldb.DB
	rng    *rand.Rand
	users  []string // local
	rooms  []RoomKey
	ignore ignoring
	events []past
	reads  map[string]int64 // user, room, thread
	waits  []func(context.Context) error
}

type past struct {
	o      *Occurrence
	thread string
	pos    int64
}

func (w *world) readKey(user string, room int64, thread string) string {
	return fmt.Sprint(user, " ", room, " ", thread)
}

func (w *world) moveRead(user string, room int64, thread string, pos int64) {
	k := w.readKey(user, room, thread)
	w.reads[k] = max(w.reads[k], pos)
}

func (w *world) event() *Occurrence {
	sender := append([]string{"@zed:remote"}, w.users...)[w.rng.IntN(len(w.users)+1)]
	room := w.rooms[w.rng.IntN(len(w.rooms))]
	content := map[string]any{"body": w.body(), "msgtype": "m.text"}
	e := map[string]any{"type": "m.room.message", "sender": sender, "content": content}
	switch w.rng.IntN(10) {
	case 0:
		content["msgtype"] = "m.notice"
	case 1:
		e["type"] = "m.room.encrypted"
	case 2:
		e["type"] = "m.reaction"
	case 3:
		e["type"], e["state_key"] = "m.room.topic", ""
	case 4:
		e["type"], e["state_key"] = "m.room.tombstone", ""
	case 5:
		content["m.relates_to"] = map[string]any{"rel_type": "m.replace", "event_id": "$a"}
	}
	if w.rng.IntN(3) == 0 {
		content["m.relates_to"] = map[string]any{"rel_type": "m.thread", "event_id": fmt.Sprint("$root", w.rng.IntN(3))}
	}
	if w.rng.IntN(3) == 0 {
		content["m.mentions"] = map[string]any{"user_ids": []string{w.users[w.rng.IntN(len(w.users))]}, "room": w.rng.IntN(2) == 0}
	}
	data, _ := json.Marshal(e)
	members := 2 + w.rng.IntN(2)
	return &Occurrence{Room: room.ID, RoomNID: room.NID, EventID: "$e", Sender: sender, JSON: data, Members: members,
		Local:        func(u string) bool { return u != "@zed:remote" },
		IsMember:     func(u string) bool { return slices.Contains(w.users, u) },
		LocalMembers: func() []string { return w.users },
		CanNotify:    func(string) bool { return sender != "@bob:x" },
		DisplayName:  func(u string) string { return u[1:2] },
	}
}

func (w *world) body() string {
	words := []string{"cake", "tea", "time", "cakes", "today", "会议", "d"}
	return words[w.rng.IntN(len(words))] + " " + words[w.rng.IntN(len(words))]
}

// send writes the events in one or more transactions, as the writer likes.
func (w *world) send() {
	o := w.event()
	write := w.s.Prepare(w.t.Context(), o)
	thread := newSubject(o).thread()
	w.waits = append(w.waits, w.db.Enqueue(&sqldb.Op{Name: "test", Positions: 1,
		Write: func(tx *sqldb.Tx, pos int64) error {
			if write == nil {
				return nil
			}
			return write(tx, pos)
		},
		Committed: func(pos int64) {
			w.events = append(w.events, past{o, thread, pos})
			if o.Local(o.Sender) {
				w.moveRead(o.Sender, o.RoomNID, thread, pos)
			}
		},
	}))
}

func (w *world) settle() {
	for _, wait := range w.waits {
		if err := wait(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
	w.waits = w.waits[:0]
}

func (w *world) receipt() {
	if len(w.events) == 0 {
		return
	}
	e := w.events[max(0, len(w.events)-1-w.rng.IntN(20))]
	user := w.users[w.rng.IntN(len(w.users))]
	thread := []string{Unthreaded, e.thread, Main}[w.rng.IntN(3)]
	err := w.db.Do(w.t.Context(), &sqldb.Op{Name: "test", Positions: 1, Write: func(tx *sqldb.Tx, _ int64) error {
		w.s.MarkRead(tx, user, e.o.RoomNID, thread, e.pos)
		return nil
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.moveRead(user, e.o.RoomNID, thread, e.pos)
}

// naive counts by looking at every event.
func (w *world) naive(user string, at int64) map[string]Counts {
	out := map[string]Counts{}
	sets, err := w.s.readRulesets(w.t.Context(), []string{user})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range w.events {
		read := max(w.reads[w.readKey(user, e.o.RoomNID, Unthreaded)], w.reads[w.readKey(user, e.o.RoomNID, e.thread)])
		if e.pos > at || e.pos <= read || e.o.Sender == user || slices.Contains(w.ignore[user], e.o.Sender) {
			continue
		}
		var one Count
		one.add(sets[0].evaluate(newSubject(e.o), person{user}).flags(), 1)
		if one.zero() {
			continue
		}
		c := out[e.o.Room]
		if e.thread == Main {
			c.Main.Notification += one.Notification
			c.Main.Highlight += one.Highlight
		} else {
			if c.Threads == nil {
				c.Threads = map[string]Count{}
			}
			n := c.Threads[e.thread]
			c.Threads[e.thread] = Count{n.Notification + one.Notification, n.Highlight + one.Highlight}
		}
		out[e.o.Room] = c
	}
	return out
}

func (w *world) compare() {
	if len(w.events) == 0 {
		return
	}
	w.compareAt(w.events[len(w.events)-1].pos, w.events[max(0, len(w.events)-5)].pos)
}

func (w *world) compareNewest() { w.compareAt(w.events[len(w.events)-1].pos) }

func (w *world) compareAt(positions ...int64) {
	newest := positions[0]
	for _, at := range positions {
		for _, user := range w.users {
			var got map[string]Counts
			err := w.db.Read(w.t.Context(), func(tx *sqldb.Tx) (err error) {
				got, err = w.s.Unread(tx, user, w.rooms, at, w.ignore[user]...)
				return err
			})
			if err != nil {
				w.t.Fatal(err)
			}
			if diff := cmp.Diff(w.naive(user, at), got); diff != "" {
				w.t.Fatalf("%s at %d of %d (-naive +counted):\n%s", user, at, newest, diff)
			}
		}
	}
}

func TestCountsAgainstNaive(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		g := ignoring{"@frank:x": {"@carol:x", "@zed:remote"}}
		w := &world{t: t, s: newService(t, db, g), db: db, rng: rand.New(rand.NewPCG(1, 2)), ignore: g,
			rooms: []RoomKey{{"!a:x", 7}, {"!b:x", 8}}, reads: map[string]int64{},
			users: []string{"@alice:x", "@bob:x", "@carol:x", "@dave:x", "@erin:x", "@frank:x", "@gina:x"}}
		s := w.s
		put(t, s, "@bob:x", Override, "!a:x", `{"actions":[],"conditions":[{"kind":"event_match","key":"room_id","pattern":"!a:x"}]}`)
		put(t, s, "@bob:x", Content, "cake", `{"actions":["notify",{"set_tweak":"highlight"}],"pattern":"cake"}`)
		put(t, s, "@carol:x", Room, "!a:x", `{"actions":[]}`)
		put(t, s, "@carol:x", Room, "!b:x", `{"actions":["notify"]}`)
		put(t, s, "@dave:x", Underride, "tea", `{"actions":["notify",{"set_tweak":"highlight"}],"conditions":[{"kind":"event_match","key":"content.body","pattern":"t?a"}]}`)
		put(t, s, "@dave:x", Content, "glob", `{"actions":[],"pattern":"tod*"}`)
		must(t, s.SetEnabled(t.Context(), "@dave:x", Override, ".m.rule.suppress_notices", false))
		must(t, s.SetActions(t.Context(), "@erin:x", Override, ".m.rule.reaction", json.RawMessage(`["notify"]`)))
		must(t, s.SetActions(t.Context(), "@erin:x", Underride, ".m.rule.room_one_to_one", json.RawMessage(`[]`)))
		put(t, s, "@erin:x", Sender, "@alice:x", `{"actions":[]}`)
		put(t, s, "@gina:x", Content, "zh", `{"actions":["notify",{"set_tweak":"highlight"}],"pattern":"会"}`)
		put(t, s, "@gina:x", Override, "name", `{"actions":["notify"],"conditions":[{"kind":"contains_display_name"},{"kind":"room_member_count","is":">2"}]}`)
		w.s = newService(t, db, g) // as after a restart
		w.join()
		for i := range 60 {
			for range w.rng.IntN(12) {
				w.send()
			}
			w.settle()
			if i%2 == 1 {
				w.receipt()
			}
			w.compare()
		}
	})
}

// join gives everybody a read position, as their joins do.
func (w *world) join() {
	for _, u := range w.users {
		for _, r := range w.rooms {
			o := w.event()
			o.Room, o.RoomNID, o.Sender = r.ID, r.NID, u
			o.JSON = []byte(`{"type":"m.room.member","sender":"` + u + `","state_key":"` + u + `","content":{"membership":"join"}}`)
			o.IsMember = func(other string) bool { return false }
			write := w.s.Prepare(w.t.Context(), o)
			must(w.t, w.db.Do(w.t.Context(), &sqldb.Op{Name: "test", Positions: 1, Write: write,
				Committed: func(pos int64) { w.moveRead(u, r.NID, Unthreaded, pos) }}))
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFailedWrite makes an operation of a batch fail: the others' totals must
// not count its event.
func TestFailedWrite(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := &world{t: t, s: newService(t, db, nil), db: db, rng: rand.New(rand.NewPCG(3, 4)),
			rooms: []RoomKey{{"!a:x", 7}}, reads: map[string]int64{}, users: []string{"@alice:x", "@bob:x"}}
		w.join()
		for range 5 {
			w.send()
			bad := w.s.Prepare(t.Context(), w.event())
			fails := db.Enqueue(&sqldb.Op{Name: "test", Positions: 1, Write: func(tx *sqldb.Tx, pos int64) error {
				if bad != nil {
					must(t, bad(tx, pos))
				}
				return fmt.Errorf("refused")
			}})
			w.send()
			if fails(t.Context()) == nil {
				t.Fatal("the operation must fail")
			}
			w.settle()
			w.compare()
		}
	})
}

func TestMuteChangesWhatCounts(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := &world{t: t, s: newService(t, db, nil), db: db, rng: rand.New(rand.NewPCG(5, 6)),
			rooms: []RoomKey{{"!a:x", 7}}, reads: map[string]int64{}, users: []string{"@alice:x", "@bob:x"}}
		w.join()
		message := func(content string) {
			o := w.event()
			o.Sender, o.Members = "@zed:remote", 3
			o.JSON = []byte(`{"type":"m.room.message","sender":"@zed:remote","content":` + content + `}`)
			must(t, db.Do(t.Context(), &sqldb.Op{Name: "test", Positions: 1, Write: w.s.Prepare(t.Context(), o)}))
		}
		expect := func(want Count) {
			t.Helper()
			pos, err := db.Position(t.Context())
			must(t, err)
			must(t, db.Read(t.Context(), func(tx *sqldb.Tx) error {
				got, err := w.s.Unread(tx, "@alice:x", w.rooms, pos)
				if got["!a:x"].All() != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
				return err
			}))
		}
		message(`{"body":"one"}`)
		message(`{"body":"two","m.mentions":{"user_ids":["@alice:x"]}}`)
		expect(Count{2, 1})
		put(t, w.s, "@alice:x", Room, "!a:x", `{"actions":[]}`)
		expect(Count{1, 1})
		message(`{"body":"three"}`)
		message(`{"body":"four","m.mentions":{"user_ids":["@alice:x"]}}`)
		expect(Count{2, 2})
		must(t, w.s.Delete(t.Context(), "@alice:x", Room, "!a:x"))
		expect(Count{4, 2})
	})
}

func TestThread(t *testing.T) {
	relations := map[string][2]string{
		"$reply": {"m.thread", "$root"}, "$edit": {"m.replace", "$reply"}, "$far": {"m.reference", "$edit"},
		"$farther": {"m.reference", "$far"}, "$loop": {"m.reference", "$loop"},
	}
	look := func(id string) (string, string) { return relations[id][0], relations[id][1] }
	for _, c := range []struct{ rel, parent, want string }{
		{"", "", Main}, {"m.thread", "$root", "$root"}, {"m.annotation", "$reply", "$root"},
		{"m.reference", "$edit", "$root"}, {"m.reference", "$far", Main}, {"m.reference", "$loop", Main},
		{"m.annotation", "$unknown", Main}, {"m.thread", "*", Main}, {"m.thread", "$" + strings.Repeat("x", 300), Main},
	} {
		if got := Thread(c.rel, c.parent, look); got != c.want {
			t.Errorf("%s of %s: %q, want %q", c.rel, c.parent, got, c.want)
		}
	}
}

// BenchmarkRoomOf2000 is a message in a room of 2,000 local members, of whom 500 have keywords, 100 rules that nothing
// indexes, and 20 are mentioned: what it does to unread counts, and whose devices are told when all have one.
func BenchmarkRoomOf2000(b *testing.B) {
	s := New(Options{Log: logrus.NewEntry(logrus.New())})
	members := map[string]bool{}
	list := make([]string, 2000)
	for i := range list {
		u := fmt.Sprintf("@user%d:x", i)
		list[i], members[u] = u, true
		st := &stored{}
		switch {
		case i < 500:
			word := fmt.Sprintf("word%d", i%50)
			st.Custom[Content] = []customRule{{ID: "k", Actions: json.RawMessage(`["notify"]`), Pattern: &word}}
		case i < 600:
			st.Custom[Override] = []customRule{{ID: "o", Actions: json.RawMessage(`["notify"]`),
				Conditions: json.RawMessage(`[{"kind":"event_match","key":"content.body","pattern":"some*thing"}]`)}}
		}
		rs := unchanged
		if i < 600 {
			rs = compile(st)
		}
		s.index.set(u, rs.keys)
		s.cache.put(u, rs, 0)
	}
	mentions, _ := json.Marshal(list[1000:1020])
	o := occurrence(`{"type":"m.room.message","sender":"@bob:x","content":{"msgtype":"m.text","body":"` +
		strings.Repeat("a perfectly ordinary sentence with word7 in it ", 10) + `","m.mentions":{"user_ids":` + string(mentions) + `}}}`)
	o.Members, o.LocalMembers = 2000, func() []string { return list }
	o.IsMember = func(u string) bool { return members[u] }
	b.Run("counts", func(b *testing.B) {
		defer cpu.Meter(b)()
		b.ReportAllocs()
		for b.Loop() {
			s.Prepare(context.Background(), o)
		}
	})
	b.Run("devices", func(b *testing.B) {
		defer cpu.Meter(b)()
		b.ReportAllocs()
		for b.Loop() {
			told := 0
			if err := s.Outcomes(context.Background(), o, list, func(string, *Outcome) { told++ }); err != nil || told != 2000 {
				b.Fatal(told, err)
			}
		}
	})
}

func BenchmarkPreparePlain(b *testing.B) {
	s := New(Options{Log: logrus.NewEntry(logrus.New())})
	o := occurrence(`{"type":"m.room.message","sender":"@bob:x","content":{"msgtype":"m.text","body":"hello there"}}`)
	b.ReportAllocs()
	for b.Loop() {
		s.Prepare(context.Background(), o)
	}
}
