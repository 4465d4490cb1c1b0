package search

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// world is a room server with its search index.
type world struct {
	t       testing.TB
	db      *sqldb.DB
	s       *roomserver.Server
	related *relations.Reader
	queue   *Queue
	x       *Index
	now     time.Time
	ignored map[string]bool
}

func newWorld(t testing.TB, db *sqldb.DB) *world {
	t.Helper()
	w := &world{t: t, db: db, now: time.UnixMilli(1_700_000_000_000), ignored: map[string]bool{}}
	hub := stream.New(0)
	db.OnPublish(hub.Advance)
	st := store.New(store.Options{DB: db})
	index := relations.NewIndex(st)
	w.queue = NewQueue(st)
	w.s = roomserver.New(roomserver.Options{ServerName: "hs", Store: st, Hub: hub, Participants: []roomserver.Participant{index, w.queue},
		Signer: event.Signer{Server: "hs", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("a", 32)))}})
	w.related = relations.NewReader(relations.Options{Rooms: w.s})
	w.restart()
	return w
}

// restart makes the index anew over what is in the database.
func (w *world) restart() {
	w.x = New(Options{Rooms: w.s, Relations: w.related, Queue: w.queue, Clock: func() time.Time { return w.now },
		Ignores: func(user, sender string) bool { return w.ignored[user+" "+sender] }})
}

func each(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) { fn(t, newWorld(t, db)) })
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(preset string, members ...string) string {
	w.t.Helper()
	room, err := w.s.Create(context.Background(), roomserver.CreateRequest{Creator: "@alice:hs", Preset: preset})
	w.must(err)
	for _, user := range members {
		if preset == "private_chat" {
			w.member(room, "@alice:hs", user, "invite")
		}
		w.member(room, user, user, "join")
	}
	return room
}

func (w *world) member(room, sender, user, membership string) {
	w.t.Helper()
	_, err := w.s.SetMembership(context.Background(), roomserver.MembershipRequest{RoomID: room, Sender: sender, Target: user, Membership: membership})
	w.must(err)
}

func (w *world) send(room, user, typ, content string, key *string) string {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	id, err := w.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, StateKey: key,
		Content: json.RawMessage(content), TS: w.now.UnixMilli()})
	w.must(err)
	return id
}

func (w *world) say(room, user, text string) string {
	w.t.Helper()
	body, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	w.must(err)
	return w.send(room, user, typeMessage, string(body), nil)
}

func (w *world) edit(room, user, id, text string) string {
	w.t.Helper()
	body, err := json.Marshal(map[string]any{"msgtype": "m.text", "body": "* " + text,
		"m.new_content": map[string]string{"msgtype": "m.text", "body": text},
		"m.relates_to":  map[string]string{"rel_type": "m.replace", "event_id": id}})
	w.must(err)
	return w.send(room, user, typeMessage, string(body), nil)
}

func (w *world) redact(room, user, id string) {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	_, err := w.s.Send(context.Background(), roomserver.SendRequest{RoomID: room, Sender: user, Type: typeRedaction, Redacts: id,
		Content: json.RawMessage(fmt.Sprintf(`{"redacts":%q}`, id))})
	w.must(err)
}

func (w *world) search(q Query) Page {
	w.t.Helper()
	if q.Viewer.User == "" {
		q.Viewer.User = "@alice:hs"
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	page, err := w.x.Search(context.Background(), q)
	w.must(err)
	return page
}

// found searches as a user and returns the ids, the newest first.
func (w *world) found(user, term string) []string {
	w.t.Helper()
	return ids(w.search(Query{Viewer: roomserver.Viewer{User: user}, Term: term, Recent: true}))
}

func ids(p Page) []string {
	out := []string{}
	for _, r := range p.Results {
		out = append(out, r.Event.ID)
	}
	return out
}

func (w *world) want(user, term string, want ...string) {
	w.t.Helper()
	if got := w.found(user, term); !slices.Equal(got, want) {
		w.t.Errorf("%s searched %q: %v, want %v", user, term, got, want)
	}
}

func (w *world) segments() (list []meta) {
	w.t.Helper()
	w.must(w.db.Read(context.Background(), func(tx *sqldb.Tx) (err error) {
		list, err = listSegments(tx)
		return err
	}))
	return list
}

// rows counts the rows of the index that belong to no segment.
func (w *world) strays() int {
	w.t.Helper()
	known := map[int64]bool{}
	for _, m := range w.segments() {
		known[m.seg] = true
	}
	stray := 0
	w.must(w.db.Read(context.Background(), func(tx *sqldb.Tx) error {
		for _, after := range []*sqldb.Stmt{blocksAfter, docsAfter} {
			for last := int64(-1); ; {
				next, err := sqldb.Collect(tx, after, scanOne, last)
				if err != nil {
					return err
				}
				if len(next) == 0 {
					break
				}
				if last = next[0]; !known[last] {
					stray++
				}
			}
		}
		return nil
	}))
	return stray
}
