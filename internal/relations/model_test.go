package relations

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

type world struct {
	t      testing.TB
	db     *sqldb.DB
	s      *roomserver.Server
	x      *Index
	r      *Reader
	ignore map[string]map[string]struct{}
}

func newWorld(t testing.TB, db *sqldb.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, ignore: map[string]map[string]struct{}{}}
	st := store.New(store.Options{DB: db})
	w.x = NewIndex(st)
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	w.s = roomserver.New(roomserver.Options{ServerName: "hs", Store: st, Hub: hub, Participants: []roomserver.Participant{w.x},
		Signer: event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}})
	w.r = NewReader(Options{Rooms: w.s, Ignored: func(_ *sqldb.Tx, user string) (map[string]struct{}, error) { return w.ignore[user], nil }})
	return w
}

func (w *world) create(version string, members ...string) string {
	w.t.Helper()
	room, err := w.s.Create(context.Background(), roomserver.CreateRequest{Creator: "@alice:hs", Version: version, Preset: "public_chat"})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, user := range members {
		w.member(room, user, "join")
	}
	return room
}

func (w *world) member(room, user, membership string) {
	w.t.Helper()
	if _, err := w.s.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: user, Target: user, Membership: membership}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) send(room, user, typ, content string, ts int64) string {
	w.t.Helper()
	id, err := w.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, Content: json.RawMessage(content), TS: ts})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

func (w *world) redact(room, user, id string) {
	w.t.Helper()
	_, err := w.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: "m.room.redaction", Redacts: id,
		Content: json.RawMessage(fmt.Sprintf(`{"redacts":%q}`, id))})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) read(fn func(tx *sqldb.Tx) error) {
	w.t.Helper()
	if err := w.db.Read(context.Background(), fn); err != nil {
		w.t.Fatal(err)
	}
}

// history are all events of a room, oldest first.
func (w *world) history(room string) []*store.Stored {
	w.t.Helper()
	h, err := w.s.History(context.Background(), roomserver.HistoryRequest{RoomID: room, User: "@alice:hs", Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	return h.Events
}

func relates(rel, parent, more string) string {
	return fmt.Sprintf(`{"m.relates_to":{"rel_type":%q,"event_id":%q}%s}`, rel, parent, more)
}

// randomEvents fills a room with events of all kinds, right and wrong ones.
func (w *world) randomEvents(rnd *rand.Rand, room, other string, n int) {
	users := []string{"@alice:hs", "@bob:hs", "@carol:hs"}
	all := []string{w.send(room, users[0], "m.room.message", `{"body":"first"}`, 1)}
	for i := range n {
		user, parent := users[rnd.IntN(3)], all[rnd.IntN(len(all))]
		if rnd.IntN(3) == 0 {
			parent = all[rnd.IntN(min(len(all), 3))] // some have many children
		}
		typ, ts := []string{"m.room.message", "m.room.message", "m.room.encrypted"}[rnd.IntN(3)], int64(rnd.IntN(20)+1)
		where := room
		if rnd.IntN(12) == 0 {
			where = other
		}
		body := fmt.Sprintf(`,"body":"%d"`, i)
		var id string
		switch rnd.IntN(9) {
		case 0:
			id = w.send(where, user, typ, `{"body":"plain"}`, ts)
		case 1, 2:
			id = w.send(where, user, typ, relates(Thread, parent, body), ts)
		case 3, 4:
			id = w.send(where, user, typ, relates(Replace, parent, body+`,"m.new_content":{}`), ts)
		case 5:
			id = w.send(where, user, typ, relates(Replace, parent, body), ts)
		case 6:
			id = w.send(where, user, typ, relates(Reference, parent, body), ts)
		case 7:
			id = w.send(where, user, "m.reaction", relates(Annotation, parent, ""), ts)
		case 8:
			w.redact(room, users[0], all[rnd.IntN(len(all))])
		}
		if where == room && id != "" {
			all = append(all, id)
		}
	}
}

// naive computes the bundle of a parent from all events, in plain steps. Events within it are event ids.
func (w *world) naive(events []*store.Stored, p *store.Stored, user string) map[string]any {
	out := map[string]any{}
	own, related := Of(p.Event)
	var edit, latest *store.Stored
	var refs []string
	count, mine := 0, p.Event.Sender() == user
	for _, e := range events {
		r, ok := Of(e.Event)
		if _, ignored := w.ignore[user][e.Event.Sender()]; !ok || r.Parent != p.ID || ignored {
			continue
		}
		switch r.Type {
		case Thread:
			count, latest, mine = count+1, e, mine || e.Event.Sender() == user
		case Reference:
			refs = append(refs, e.ID)
		case Replace:
			valid := e.Event.Sender() == p.Event.Sender() && e.Event.Type() == p.Event.Type() && own.Type != Replace && p.RedactedBy == 0 &&
				(e.Event.Type() == "m.room.encrypted" || gjson.GetBytes(e.Event.ContentJSON(), `m\.new_content`).IsObject())
			if valid && (edit == nil || e.TS > edit.TS || e.TS == edit.TS && e.ID > edit.ID) {
				edit = e
			}
		}
	}
	if latest != nil && !related {
		thread := map[string]any{"count": float64(count), "current_user_participated": mine, "latest_event": latest.ID}
		nested := w.naive(events, latest, user)
		delete(nested, Thread)
		if len(nested) > 0 {
			thread["nested"] = nested
		}
		out[Thread] = thread
	}
	if edit != nil {
		out[Replace] = edit.ID
	}
	if refs != nil {
		out[Reference] = refs
	}
	return out
}

// shape reduces a bundle to what naive computes.
func shape(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	out := map[string]any{}
	bundle := gjson.ParseBytes(raw)
	if v := bundle.Get(`m\.replace`); v.Exists() {
		out[Replace] = v.Get("event_id").Str
	}
	if v := bundle.Get(`m\.reference.chunk`); v.Exists() {
		var refs []string
		for _, e := range v.Array() {
			refs = append(refs, e.Get("event_id").Str)
		}
		out[Reference] = refs
	}
	if v := bundle.Get(`m\.thread`); v.Exists() {
		latest := v.Get("latest_event")
		thread := map[string]any{"count": v.Get("count").Num, "current_user_participated": v.Get("current_user_participated").Bool(),
			"latest_event": latest.Get("event_id").Str}
		if nested := latest.Get(`unsigned.m\.relations`); nested.Exists() {
			thread["nested"] = shape(t, []byte(nested.Raw))
		}
		out[Thread] = thread
	}
	return out
}

func TestBundlesAgainstModel(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		for seed, version := range []string{"1", "3", "10", "12"} {
			rnd := rand.New(rand.NewPCG(uint64(seed), 7))
			room, other := w.create(version, "@bob:hs", "@carol:hs"), w.create(version, "@bob:hs", "@carol:hs")
			w.randomEvents(rnd, room, other, 250)
			for _, user := range []string{"@alice:hs", "@bob:hs"} {
				w.ignore["@bob:hs"] = map[string]struct{}{"@carol:hs": {}}
				events := w.history(room)
				var got map[int64]json.RawMessage
				w.read(func(tx *sqldb.Tx) (err error) {
					got, err = w.r.Bundle(tx, roomserver.Viewer{User: user}, events)
					return err
				})
				some := 0
				for _, e := range events {
					if e.Tuple != 0 {
						continue
					}
					want := w.naive(events, e, user)
					some += len(want)
					if diff := cmp.Diff(want, shape(t, got[e.NID])); diff != "" {
						t.Fatalf("version %s, %s as %s sees it (%s):\n%s", version, e.ID, user, e.Event.ContentJSON(), diff)
					}
				}
				if some < 10 {
					t.Errorf("only %d aggregations", some)
				}
			}
		}
	})
}

func TestChildrenAgainstModel(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		room, other := w.create("12", "@bob:hs", "@carol:hs"), w.create("12", "@bob:hs", "@carol:hs")
		rnd := rand.New(rand.NewPCG(1, 2))
		w.randomEvents(rnd, room, other, 250)
		w.ignore["@bob:hs"] = map[string]struct{}{"@carol:hs": {}}
		events := w.history(room)
		for range 300 {
			q := Query{Parent: events[rnd.IntN(len(events))], Back: rnd.IntN(2) == 0, Limit: 1 + rnd.IntN(5), Depth: 1 + 2*rnd.IntN(2)}
			q.Type = []string{"", Thread, Replace, Annotation, "x.none"}[rnd.IntN(5)]
			q.EventType = []string{"", "m.room.message", "m.reaction"}[rnd.IntN(3)]
			user := []string{"@alice:hs", "@bob:hs"}[rnd.IntN(2)]
			want := w.naiveChildren(events, q, user)
			var got []string
			for {
				var page Children
				w.read(func(tx *sqldb.Tx) (err error) {
					page, err = w.r.Children(tx, roomserver.Viewer{User: user}, q)
					return err
				})
				for _, e := range page.Events {
					got = append(got, e.ID)
				}
				if page.Next == nil {
					break
				}
				q.From = page.Next
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%+v as %s: %v, want %v", q, user, got, want)
			}
		}
	})
}

func (w *world) naiveChildren(events []*store.Stored, q Query, user string) (ids []string) {
	level := map[string]bool{q.Parent.ID: true}
	found := map[string]bool{}
	for range q.Depth {
		next := map[string]bool{}
		for _, e := range events {
			r, ok := Of(e.Event)
			if ok && level[r.Parent] && (q.Type == "" || q.Type == r.Type) && (q.EventType == "" || q.EventType == e.Event.Type()) {
				next[e.ID], found[e.ID] = true, true
			}
		}
		level = next
	}
	for _, e := range events {
		if _, ignored := w.ignore[user][e.Event.Sender()]; found[e.ID] && !ignored {
			ids = append(ids, e.ID)
		}
	}
	if q.Back {
		slices.Reverse(ids)
	}
	return ids
}

func TestThreadsAgainstModel(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		room, other := w.create("12", "@bob:hs", "@carol:hs"), w.create("12", "@bob:hs", "@carol:hs")
		rnd := rand.New(rand.NewPCG(3, 4))
		w.randomEvents(rnd, room, other, 250)
		w.ignore["@bob:hs"] = map[string]struct{}{"@carol:hs": {}}
		key, err := w.s.Room(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		events := w.history(room)
		for _, user := range []string{"@alice:hs", "@bob:hs", "@carol:hs"} {
			for _, participated := range []bool{false, true} {
				want := w.naiveThreads(events, user, participated)
				q := ThreadsQuery{Room: key.NID, Participated: participated, Limit: 3}
				var got []string
				for {
					var page Children
					w.read(func(tx *sqldb.Tx) (err error) {
						page, err = w.r.Threads(tx, roomserver.Viewer{User: user}, q)
						return err
					})
					for _, e := range page.Events {
						got = append(got, e.ID)
					}
					if page.Next == nil {
						break
					}
					q.From = page.Next
				}
				if !slices.Equal(got, want) || len(want) < 2 {
					t.Errorf("threads of %s (participated %v): %v, want %v", user, participated, got, want)
				}
			}
		}
	})
}

func (w *world) naiveThreads(events []*store.Stored, user string, participated bool) []string {
	latest := map[string]int64{}
	for _, p := range events {
		if thread, ok := w.naive(events, p, user)[Thread].(map[string]any); ok && (!participated || thread["current_user_participated"] == true) {
			for _, e := range events {
				if e.ID == thread["latest_event"] {
					latest[p.ID] = e.Ord
				}
			}
		}
	}
	var ids []string
	for id := range latest {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int { return int(latest[b] - latest[a]) })
	return ids
}
