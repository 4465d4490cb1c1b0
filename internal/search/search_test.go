package search

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

const alice, bob, carol = "@alice:hs", "@bob:hs", "@carol:hs"

func TestScripts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		room := w.create("public_chat")
		chinese := w.say(room, alice, "明天下午三点开会，请带上报告。")
		japanese := w.say(room, alice, "東京タワーへ行きました")
		half := w.say(room, alice, "ﾃｽﾄの結果")
		korean := w.say(room, alice, "내일 회의는 세 시에 시작합니다")
		english := w.say(room, alice, "The Meeting starts at three; café included")
		mixed := w.say(room, alice, "iPhone手机很贵")
		emoji := w.say(room, alice, "well done 👍🏽 everyone")
		thai := w.say(room, alice, "ฉันรักเมืองไทย")
		for term, want := range map[string][]string{
			"开会": {chinese}, "会": {chinese}, "三点开会": {chinese}, "会开": {}, "报告 开会": {chinese},
			"東京": {japanese}, "タワー": {japanese}, "行きました": {japanese}, "テスト": {half},
			"회의": {korean}, "회의는": {korean}, "내일 시작": {korean}, "의회": {},
			"meeting": {english}, "CAFE": {english}, "three meeting": {english}, "meet": {english}, "me": {}, "meeting five": {}, "starts a": {}, "meetings": {},
			"iphone": {mixed}, "手机": {mixed}, "iphone手机": {mixed}, "👍": {emoji}, "done": {emoji}, "เมือง": {thai},
			"  ": {}, "!?": {},
		} {
			w.want(alice, term, want...)
		}
	})
}

func TestWhatIsSearched(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		room := w.create("public_chat", bob)
		empty := ""
		name := w.send(room, alice, typeName, `{"name":"Harbour talk"}`, &empty)
		topic := w.send(room, alice, typeTopic, `{"topic":"ships","m.topic":{"m.text":[{"body":"<b>harbour</b>","mimetype":"text/html"},{"body":"harbour news"}]}}`, &empty)
		body := w.say(room, bob, "In the harbour")
		w.send(room, bob, "org.example.note", `{"body":"harbour","name":"harbour","topic":"harbour"}`, nil)
		w.send(room, bob, typeMessage, `{"msgtype":"m.text","body":["harbour"]}`, nil)
		w.want(alice, "harbour", body, topic, name)
		for kinds, want := range map[Kinds][]string{Body: {body}, Name: {name}, Topic: {topic}, Name | Topic: {topic, name}} {
			if got := ids(w.search(Query{Term: "harbour", Kinds: kinds, Recent: true})); !slices.Equal(got, want) {
				t.Errorf("kinds %b: %v, want %v", kinds, got, want)
			}
		}
		byBob := func(e *store.Stored) bool { return e.Event.Sender() == bob }
		if got := ids(w.search(Query{Term: "harbour", Keep: byBob})); !slices.Equal(got, []string{body}) {
			t.Error("of bob alone:", got)
		}
		w.ignored[alice+" "+bob] = true
		w.want(alice, "harbour", topic, name)
		w.want(bob, "harbour", body, topic, name)
		delete(w.ignored, alice+" "+bob)
		if p := w.search(Query{Term: "HARBOUR  the", Recent: true}); !slices.Equal(p.Highlights, []string{"the", "harbour"}) {
			t.Errorf("highlights: %q", p.Highlights)
		}
		w.redact(room, bob, body)
		w.want(alice, "harbour", topic, name)
		w.send(room, alice, typeEncryption, `{"algorithm":"m.megolm.v1.aes-sha2"}`, &empty)
		w.say(room, bob, "harbour in the clear")
		w.want(alice, "harbour", topic, name)
	})
}

func TestEditsAreFoundByTheirNewestText(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		room := w.create("public_chat", bob)
		id := w.say(room, alice, "the old wording")
		w.want(bob, "wording", id)
		first := w.edit(room, alice, id, "a fresh phrase 新的说法")
		w.want(bob, "wording")
		w.want(bob, "fresh", id)
		w.want(bob, "说法", id)
		second := w.edit(room, alice, id, "***")
		w.want(bob, "fresh")
		w.edit(room, bob, id, "forged wording") // not by its author
		w.want(alice, "forged")
		w.redact(room, alice, second)
		w.want(bob, "fresh", id)
		w.redact(room, alice, first)
		w.want(bob, "fresh")
		w.want(bob, "wording", id)
		w.must(w.x.CatchUp(context.Background()))
		w.now = w.now.Add(2 * cleanEvery)
		w.redact(room, alice, id)
		w.want(bob, "wording")
		w.must(w.x.CatchUp(context.Background()))
		for _, m := range w.segments() {
			t.Errorf("what was redacted is still in segment %+v", m)
		}
		if n := w.strays(); n != 0 {
			t.Error(n, "segments left rows behind")
		}
	})
}

func TestOnlyWhatMayBeSeen(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		empty := ""
		open := w.create("public_chat", bob)
		private := w.create("private_chat", bob)
		w.send(private, alice, "m.room.history_visibility", `{"history_visibility":"joined"}`, &empty)
		inOpen := w.say(open, alice, "lantern in public")
		secret := w.say(private, alice, "lantern one")
		w.want(carol, "lantern")
		w.member(private, alice, carol, "invite")
		w.want(carol, "lantern")
		w.member(private, carol, carol, "join")
		w.want(carol, "lantern")
		if p := w.search(Query{Viewer: roomserver.Viewer{User: carol}, Term: "lantern"}); p.Count != 0 {
			t.Error("the count tells of what may not be seen:", p.Count)
		}
		during := w.say(private, alice, "lantern two")
		w.want(carol, "lantern", during)
		w.member(private, carol, carol, "leave")
		later := w.say(private, alice, "lantern three")
		w.want(carol, "lantern", during)
		w.want(bob, "lantern", later, during, secret, inOpen)
		w.must(w.s.Forget(context.Background(), private, carol))
		w.want(carol, "lantern")
		if got := ids(w.search(Query{Viewer: roomserver.Viewer{User: bob}, Term: "lantern", Rooms: &[]string{open, "!unknown:hs"}})); !slices.Equal(got, []string{inOpen}) {
			t.Error("in one room:", got)
		}
		if got := ids(w.search(Query{Viewer: roomserver.Viewer{User: bob}, Term: "lantern", NotRooms: []string{private}})); !slices.Equal(got, []string{inOpen}) {
			t.Error("not in one room:", got)
		}
		if got := ids(w.search(Query{Viewer: roomserver.Viewer{User: bob}, Term: "lantern", Rooms: &[]string{}})); len(got) != 0 {
			t.Error("in no room:", got)
		}
	})
}

func TestOrderAndPages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		rooms := []string{w.create("public_chat"), w.create("public_chat"), w.create("public_chat")}
		var all []string
		for i := range 40 {
			all = append(all, w.say(rooms[i%3], alice, "apple"+strings.Repeat(" pie", 1+i*7%5)))
			if i%6 == 0 {
				w.must(w.x.CatchUp(context.Background()))
			}
		}
		slices.Reverse(all)
		for _, recent := range []bool{true, false} {
			var got []string
			q := Query{Term: "apple", Recent: recent, Limit: 7}
			rank := 2.0
			for range 10 {
				p := w.search(q)
				if p.Count != 40 {
					t.Error("count", p.Count)
				}
				for _, r := range p.Results {
					if !recent && r.Rank > rank {
						t.Error("a better match comes later")
					}
					rank = r.Rank
				}
				got = append(got, ids(p)...)
				if p.Next == nil {
					break
				}
				next, ok := ParseCursor(p.Next.String())
				if !ok || *next != *p.Next {
					t.Fatal("the token cannot be read")
				}
				q.After = next
			}
			if recent && !slices.Equal(got, all) {
				t.Error("not the newest first")
			}
			slices.Sort(got)
			if len(slices.Compact(got)) != 40 {
				t.Error(len(slices.Compact(got)), "found")
			}
		}
	})
}

func TestPredecessorsAreSearched(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		old := w.create("public_chat")
		before := w.say(old, alice, "anchor before")
		next, err := w.s.Create(context.Background(), roomserver.CreateRequest{Creator: alice, Preset: "public_chat",
			CreationContent: map[string]json.RawMessage{"predecessor": json.RawMessage(`{"room_id":"` + old + `"}`)}})
		w.must(err)
		after := w.say(next, alice, "anchor after")
		if got := ids(w.search(Query{Term: "anchor", Recent: true, Rooms: &[]string{next}})); !slices.Equal(got, []string{after, before}) {
			t.Error(got)
		}
		if got := ids(w.search(Query{Term: "anchor", Recent: true, Rooms: &[]string{old}})); !slices.Equal(got, []string{before}) {
			t.Error(got)
		}
	})
}

// What a crash leaves, an index of another version, and one thrown away do no harm.
func TestRestarts(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := context.Background()
		room := w.create("public_chat")
		var all []string
		for range 30 {
			all = append([]string{w.say(room, alice, "pebble")}, all...)
		}
		w.restart() // made of what is there
		w.want(alice, "pebble", all...)
		all = append([]string{w.say(room, alice, "pebble")}, all...)
		w.restart() // the last was not indexed yet
		w.want(alice, "pebble", all...)

		w.must(w.db.Do(ctx, &sqldb.Op{Name: "crash", Write: func(tx *sqldb.Tx, _ int64) error {
			if err := writeBlocks(tx, 1<<40, []block{{[]byte("pebble"), 0, []byte{1}}}); err != nil {
				return err
			}
			return writeDocs(tx, 1<<41, 0, []doc{{nid: 1}})
		}}))
		w.restart()
		w.must(w.x.CatchUp(ctx))
		if n := w.strays(); n != 0 {
			t.Error(n, "segments of a crash are still there")
		}
		w.want(alice, "pebble", all...)

		old := w.segments()
		w.must(w.db.Do(ctx, &sqldb.Op{Name: "older", Write: func(tx *sqldb.Tx, _ int64) error {
			_, err := tx.Exec(putState, stateRow, 1<<40, 0, 0, 0, tokenVersion-1, 0, 0)
			return err
		}}))
		w.restart()
		w.want(alice, "pebble", all...)
		if now := w.segments(); now[0].seg == old[0].seg {
			t.Error("an index of another version was kept")
		}

		w.must(w.x.Rebuild(ctx))
		if len(w.segments()) != 0 {
			t.Error("there is still an index")
		}
		w.want(alice, "pebble", all...)

		stop, cancel := context.WithCancel(ctx)
		done := make(chan error)
		go func() { done <- w.x.Remove(stop) }()
		for len(w.segments()) != 0 || w.strays() != 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		w.must(<-done)
	})
}

// Run follows what is sent, and ends.
func TestRun(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- w.x.Run(ctx) }()
		room := w.create("public_chat")
		for range 20 {
			w.say(room, alice, "kettle")
		}
		for docs := int64(0); docs < 20; {
			docs = 0
			for _, m := range w.segments() {
				docs += m.docs
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		w.must(<-done)
	})
}
