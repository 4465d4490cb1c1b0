package relations

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/tidwall/gjson"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
	"knock/roomserver/store"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Relation
		ok   bool
	}{
		{`{"rel_type":"m.thread","event_id":"$a","is_falling_back":true,"m.in_reply_to":{"event_id":"$b"}}`, Relation{Type: "m.thread", Parent: "$a"}, true},
		{`{"rel_type":"m.annotation","event_id":"$a","key":"👍"}`, Relation{Type: "m.annotation", Parent: "$a", Key: "👍"}, true},
		{`{"rel_type":"m.annotation","event_id":"$a","key":7}`, Relation{Type: "m.annotation", Parent: "$a"}, true},
		{`{"m.in_reply_to":{"event_id":"$b"}}`, Relation{}, false},
		{`{"rel_type":"m.thread"}`, Relation{Type: "m.thread"}, false},
		{`{"rel_type":"m.thread","event_id":"a"}`, Relation{Type: "m.thread", Parent: "a"}, false},
		{`{"rel_type":"","event_id":"$a"}`, Relation{Parent: "$a"}, false},
		{`{"rel_type":["m.thread"],"event_id":"$a"}`, Relation{Parent: "$a"}, false},
		{`["rel_type"]`, Relation{}, false},
		{`null`, Relation{}, false},
		{``, Relation{}, false},
	} {
		if got, ok := parse([]byte(c.in)); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v", c.in, got, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"rel_type":"m.thread","event_id":"$a"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if r, ok := parse(in); ok && (r.Type == "" || r.Parent == "") {
			t.Errorf("%q: %+v", in, r)
		}
	})
}

func (w *world) bundle(user string, id string) string {
	w.t.Helper()
	var out json.RawMessage
	w.read(func(tx *sqldb.Tx) error {
		e, err := w.s.Store.EventByID(tx, id)
		if err != nil {
			return err
		}
		all, err := w.r.Bundle(tx, roomserver.Viewer{User: user}, []*store.Stored{e})
		out = all[e.NID]
		return err
	})
	return string(out)
}

func TestCheck(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		room := w.create("12", "@bob:hs")
		target := w.send(room, "@alice:hs", "m.room.message", `{}`, 0)
		thumb := func(user, typ, key, device, txn string) roomserver.SendRequest {
			return roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, Device: device, TxnID: txn, Path: "send",
				Content: json.RawMessage(relates2(Annotation, target, key))}
		}
		first := thumb("@bob:hs", "m.reaction", "👍", "D", "1")
		if err := w.x.Check(context.Background(), first); err != nil {
			t.Fatal(err)
		}
		id, err := w.s.Send(context.Background(), first)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			q      roomserver.SendRequest
			refuse bool
		}{
			{first, false}, // the same request again
			{thumb("@bob:hs", "m.reaction", "👍", "D", "2"), true},
			{thumb("@bob:hs", "m.reaction", "👍", "E", "1"), true},
			{thumb("@bob:hs", "m.reaction", "👍", "", ""), true},
			{thumb("@bob:hs", "m.reaction", "👎", "D", "2"), false},
			{thumb("@bob:hs", "x.other", "👍", "D", "2"), false},
			{thumb("@alice:hs", "m.reaction", "👍", "D", "2"), false},
		} {
			err := w.x.Check(context.Background(), c.q)
			var m *matrixerr.Error
			if refused := errors.As(err, &m) && m.Code == "M_DUPLICATE_ANNOTATION"; refused != c.refuse || !refused && err != nil {
				t.Errorf("%+v: %v", c.q, err)
			}
		}
		w.redact(room, "@bob:hs", id)
		if err := w.x.Check(context.Background(), thumb("@bob:hs", "m.reaction", "👍", "D", "3")); err != nil {
			t.Errorf("after the redaction: %v", err)
		}

		reply := w.send(room, "@bob:hs", "m.room.message", relates(Thread, target, ""), 0)
		rich := w.send(room, "@bob:hs", "m.room.message", `{"m.relates_to":{"m.in_reply_to":{"event_id":"`+target+`"}}}`, 0)
		for parent, want := range map[string]bool{target: true, rich: true, "$nothing": true, reply: false} {
			err := w.x.Check(context.Background(), roomserver.SendRequest{RoomID: room, Sender: "@bob:hs", Type: "m.room.message",
				Content: json.RawMessage(relates(Thread, parent, ""))})
			if (err == nil) != want {
				t.Errorf("a thread on %s: %v", parent, err)
			}
		}
	})
}

func relates2(rel, parent, key string) string {
	return fmt.Sprintf(`{"m.relates_to":{"rel_type":%q,"event_id":%q,"key":%q}}`, rel, parent, key)
}

func TestThreadIsRendered(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		room := w.create("12", "@bob:hs")
		root := w.send(room, "@alice:hs", "m.room.message", `{"body":"root"}`, 0)
		reply := w.send(room, "@alice:hs", "m.room.message", relates(Thread, root, `,"body":"reply"`), 0)
		w.send(room, "@alice:hs", "m.room.message", relates(Replace, reply, `,"m.new_content":{"body":"better"}`), 0)
		got := gjson.Parse(w.bundle("@bob:hs", root)).Get(`m\.thread`)
		for path, want := range map[string]string{
			"count": "1", "current_user_participated": "false", "latest_event.content.body": "reply", "latest_event.room_id": room,
			`latest_event.unsigned.m\.relations.m\.replace.content.m\.new_content.body`: "better", "latest_event.unsigned.membership": "join",
		} {
			if v := got.Get(path).String(); v != want {
				t.Errorf("%s is %q, want %q in %s", path, v, want, got)
			}
		}
		if !gjson.Get(w.bundle("@alice:hs", root), `m\.thread.current_user_participated`).Bool() {
			t.Error("who began the thread takes part in it")
		}
	})
}

// Somebody who left must not get to see what came afterwards through what relates to an event that they can see.
func TestWhatIsHiddenIsNotBundled(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		room := w.create("12", "@bob:hs", "@carol:hs")
		root := w.send(room, "@alice:hs", "m.room.message", `{"body":"root"}`, 1)
		seen := w.send(room, "@alice:hs", "m.room.message", relates(Thread, root, ""), 2)
		edit := w.send(room, "@alice:hs", "m.room.message", relates(Replace, root, `,"m.new_content":{}`), 3)
		ref := w.send(room, "@alice:hs", "m.room.message", relates(Reference, root, ""), 3)
		w.member(room, "@bob:hs", "leave")
		lone := w.send(room, "@alice:hs", "m.room.message", `{}`, 3)
		for i := range 2 * candidates {
			w.send(room, "@alice:hs", "m.room.message", relates(Thread, root, ""), int64(10+i))
			w.send(room, "@alice:hs", "m.room.message", relates(Thread, lone, ""), int64(10+i))
		}
		w.send(room, "@alice:hs", "m.room.message", relates(Replace, root, `,"m.new_content":{}`), 4)
		w.send(room, "@alice:hs", "m.room.message", relates(Reference, root, ""), 4)
		bob, carol := gjson.Parse(w.bundle("@bob:hs", root)), gjson.Parse(w.bundle("@carol:hs", root))
		for path, want := range map[string]string{`m\.thread.latest_event.event_id`: seen, `m\.replace.event_id`: edit, `m\.reference.chunk.#.event_id`: `["` + ref + `"]`} {
			if v := bob.Get(path).String(); v != want {
				t.Errorf("%s is %s for who left, want %s", path, v, want)
			}
			if v := carol.Get(path).String(); v == want || v == "" {
				t.Errorf("%s is %s for who stayed", path, v)
			}
		}
		if got := w.bundle("@bob:hs", lone); got != "" {
			t.Errorf("a thread of which nothing can be seen: %s", got)
		}
	})
}

// A server that fetched history calls PrepareHistory for it.
func TestHistoryIsIndexed(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		w := newWorld(t, db)
		w.s.Participants = nil
		room := w.create("12")
		root := w.send(room, "@alice:hs", "m.room.message", `{}`, 0)
		reply := w.send(room, "@alice:hs", "m.room.message", relates(Thread, root, ""), 0)
		if got := w.bundle("@alice:hs", root); got != "" {
			t.Fatalf("nobody indexed %s", got)
		}
		for _, e := range w.history(room) {
			write := w.x.PrepareHistory(&roomserver.Accepted{RoomID: room, RoomNID: e.Room, EventNID: e.NID, Event: e.Event})
			if write == nil {
				continue
			}
			for range 2 { // again does no harm
				if err := db.Do(t.Context(), &sqldb.Op{Name: "test", Write: func(tx *sqldb.Tx, pos int64) error { return write(tx, pos) }}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := gjson.Parse(w.bundle("@alice:hs", root)); got.Get(`m\.thread.latest_event.event_id`).Str != reply || got.Get(`m\.thread.count`).Int() != 1 {
			t.Fatalf("%s", got)
		}
	})
}
