package userdir

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func TestRank(t *testing.T) {
	for _, c := range []struct {
		id, name, term string
		want           int
	}{
		{"@bob:hs", "robert", "bob", exact},
		{"@x:hs", "bob", "bob", exact},
		{"@bob:hs", "", "@bob:hs", exact},
		{"@bobby:hs", "", "bob", prefix},
		{"@x:hs", "smith bob", "bob smith", wordStarts},
		{"@x:hs", "jimbob", "bob", inside},
		{"@x:bobs.example", "y", "bob", elsewhere},
	} {
		if got := rank(c.id, c.name, strings.Fields(c.term)); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

type world struct {
	t  *testing.T
	db *sqldb.DB
	s  *roomserver.Server
	d  *Directory
}

func signer(server string) event.Signer {
	return event.Signer{Server: server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}
}

func newWorld(t *testing.T, db *sqldb.DB) *world {
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	w := &world{t: t, db: db}
	w.s = roomserver.New(roomserver.Options{ServerName: "hs", Store: store.New(store.Options{DB: db}), Hub: hub, Signer: signer("hs"),
		Participants: []roomserver.Participant{NewWatcher(hub, "hs")}})
	w.d = New(Options{Rooms: w.s})
	return w
}

func (w *world) create(preset string, members ...string) string {
	w.t.Helper()
	room, err := w.s.Create(context.Background(), roomserver.CreateRequest{Creator: "@alice:hs", Preset: preset})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, user := range members {
		if preset == "private_chat" {
			w.member(room, "@alice:hs", user, "invite", "")
		}
		w.member(room, user, user, "join", "")
	}
	return room
}

func (w *world) member(room, sender, user, membership, name string) {
	w.t.Helper()
	m := roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: user, Membership: membership}
	if name != "" {
		raw, _ := json.Marshal(name)
		m.Content = map[string]json.RawMessage{"displayname": raw}
	}
	if _, err := w.s.SetMembership(context.Background(), m); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) state(room, typ, content string) {
	w.t.Helper()
	key := ""
	if _, err := w.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@alice:hs", Type: typ, StateKey: &key, Content: json.RawMessage(content)}); err != nil {
		w.t.Fatal(err)
	}
}

// joinFrom lets a user of another server join.
func (w *world) joinFrom(room, user, name string) {
	w.t.Helper()
	ctx := context.Background()
	version, template, err := w.s.Template(ctx, "join", room, user, []string{"12"})
	if err != nil {
		w.t.Fatal(err)
	}
	v, _ := event.GetVersion(version)
	b, err := event.ParseTemplate(v, template)
	if err != nil {
		w.t.Fatal(err)
	}
	b.Content, b.TS = json.RawMessage(fmt.Sprintf(`{"membership":"join","displayname":%q,"avatar_url":"mxc://far/x"}`, name)), 1
	e, err := b.Build(signer(event.ServerOf(user)))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.s.AcceptMembership(ctx, "join", event.ServerOf(user), room, e.EventID(), e.JSON(), false); err != nil {
		w.t.Fatal(err)
	}
}

// found are the ids that a search finds.
func (w *world) found(searcher, term string) string {
	w.t.Helper()
	list, _, err := w.d.Search(context.Background(), searcher, term, 10)
	if err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, u := range list {
		ids = append(ids, u.ID)
	}
	return strings.Join(ids, " ")
}

func (w *world) expect(what, searcher, term, want string) {
	w.t.Helper()
	if got := w.found(searcher, term); got != want {
		w.t.Errorf("%s: %q finds %q, want %q", what, term, got, want)
	}
}

func TestWhoIsFound(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		private := w.create("private_chat", "@bob:hs")
		w.expect("a shared room", "@alice:hs", "bob", "@bob:hs")
		w.expect("oneself", "@bob:hs", "bob", "")
		w.expect("a room of others", "@eve:hs", "bob", "")
		w.member(private, "@bob:hs", "@bob:hs", "leave", "")
		w.expect("after leaving", "@alice:hs", "bob", "")

		public := w.create("public_chat", "@carol:hs")
		w.expect("a public room", "@eve:hs", "carol", "@carol:hs")
		w.state(public, "m.room.join_rules", `{"join_rule":"invite"}`)
		w.expect("no longer public", "@eve:hs", "carol", "")
		w.state(public, "m.room.history_visibility", `{"history_visibility":"world_readable"}`)
		w.expect("world readable", "@eve:hs", "carol", "@carol:hs")
		w.state(public, "m.room.join_rules", `{"join_rule":"public"}`)
		w.state(public, "m.room.history_visibility", `{"history_visibility":"shared"}`)
		w.expect("public again", "@eve:hs", "carol", "@carol:hs")

		w.joinFrom(public, "@dan:far", "Daniel")
		w.expect("a user of another server", "@eve:hs", "daniel", "@dan:far")
		w.expect("the server's name", "@eve:hs", "far", "@dan:far")
		for _, user := range []string{"@carol:hs", "@alice:hs"} {
			w.member(public, user, user, "leave", "")
		}
		w.expect("after the server left", "@eve:hs", "dan", "")
	})
}

func TestHowIsSearched(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		room := w.create("public_chat")
		for user, name := range map[string]string{
			"@u1:hs": "山田 太郎", "@u2:hs": "김철수", "@u3:hs": "José Müller", "@u4:hs": "Ann", "@u5:hs": "Joanna Smith", "@u6:hs": "Anna", "@ann:hs": "Zoe", "@u7:hs": `100%_\`,
		} {
			w.member(room, user, user, "join", name)
		}
		for term, want := range map[string]string{
			"田 太": "@u1:hs", "太郎": "@u1:hs", "철수": "@u2:hs", "jose": "@u3:hs", "ＭÜLLER jo": "@u3:hs", "smith joanna": "@u5:hs",
			"ann": "@ann:hs @u4:hs @u6:hs @u5:hs", "@ann:hs": "@ann:hs", "%_": "@u7:hs", `\`: "@u7:hs", "nobody": "", "": "", "  ": "", "\xff": "",
		} {
			w.expect("", "@eve:hs", term, want)
		}
		w.member(room, "@u4:hs", "@u4:hs", "join", "Other")
		w.expect("a new name", "@eve:hs", "other", "@u4:hs")
		list, limited, err := w.d.Search(t.Context(), "@eve:hs", "u", 3)
		if err != nil || len(list) != 3 || !limited {
			t.Errorf("%v, %v, %v", list, limited, err)
		}
	})
}

func TestWholeRoom(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		watcher := w.s.Participants
		w.s.Participants = nil
		room := w.create("public_chat", "@bob:hs")
		for i := range 12 {
			w.joinFrom(room, fmt.Sprintf("@u%d:far", i), "Remote")
		}
		w.expect("nobody looked", "@bob:hs", "remote", "")
		w.s.Participants = watcher
		key, err := w.s.Room(t.Context(), room)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, _ int64) error {
			tx.Append(enqueue, -1, key.NID)
			tx.Append(enqueue, 12345, key.NID) // an event that is no more
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		list, limited, err := w.d.Search(t.Context(), "@eve:hs", "remote", 20)
		if err != nil || len(list) != 12 || limited || list[0].Avatar != "mxc://far/x" {
			t.Errorf("%v, %v, %v", list, limited, err)
		}
	})
}

func TestRunEnds(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := newWorld(t, db).d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
}
