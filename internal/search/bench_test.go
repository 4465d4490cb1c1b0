package search

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

var (
	benchTexts = flag.Int("texts", 20_000, "messages that BenchmarkSearch searches")
	benchDump  = flag.String("dump", "", "a file to which BenchmarkSearch writes the terms of each message, a line each, and ends")
)

// speaker makes texts, half of them English-like, half Chinese, in which words are as unevenly used as in speech.
type speaker struct {
	r              *rand.Rand
	words, phrases []string
	word, phrase   *rand.Zipf
}

func newSpeaker() *speaker {
	r := rand.New(rand.NewPCG(7, 7))
	s := &speaker{r: r, word: rand.NewZipf(r, 1.1, 4, 49_999), phrase: rand.NewZipf(r, 1.1, 4, 39_999)}
	for range 50_000 {
		var w strings.Builder
		for range 1 + r.IntN(4) {
			w.WriteString([]string{"b", "d", "k", "l", "m", "n", "r", "s", "t", "st"}[r.IntN(10)] + []string{"a", "e", "i", "o", "u", "ea"}[r.IntN(6)])
		}
		s.words = append(s.words, w.String())
	}
	character := rand.NewZipf(r, 1.05, 20, 3499)
	for range 40_000 {
		var p []rune
		for range 1 + r.IntN(3) {
			p = append(p, rune(0x4e00+character.Uint64()*5))
		}
		s.phrases = append(s.phrases, string(p))
	}
	return s
}

func (s *speaker) text() string {
	var out []string
	n := 2 + int(s.r.ExpFloat64()*7)
	if s.r.IntN(2) == 0 {
		for range n {
			out = append(out, s.words[s.word.Uint64()])
		}
		return strings.Join(out, " ")
	}
	for range n {
		out = append(out, s.phrases[s.phrase.Uint64()])
	}
	return strings.Join(out, "")
}

// fill puts messages into the history of 100 rooms, of which alice is in all and bob in one, without sending them.
func (w *world) fill(n int) {
	w.t.Helper()
	type place struct{ room, state, sender, typ int64 }
	var rooms []place
	var version *event.Version
	for i := range 100 {
		members := []string{}
		if i == 50 {
			members = append(members, bob)
		}
		id := w.create("public_chat", members...)
		last, err := w.s.Store.LoadOne(context.Background(), w.nid(w.say(id, alice, "hello")))
		w.must(err)
		rooms = append(rooms, place{last.Room, last.State, last.Sender, last.Type})
		version, _ = event.GetVersion(string(last.Event.Version()))
	}
	s := newSpeaker()
	nid := int64(1) << 40
	for n > 0 {
		batch := min(n, 1000)
		n -= batch
		w.must(w.db.Do(context.Background(), &sqldb.Op{Name: "bench", Write: func(tx *sqldb.Tx, _ int64) error {
			for range batch {
				nid++
				p := rooms[s.r.IntN(len(rooms))]
				body, err := json.Marshal(s.text())
				if err != nil {
					return err
				}
				id := fmt.Sprintf("$%042dA", nid)
				ts := 1_600_000_000_000 + nid%(1<<30)*1000
				e, err := event.FromStored(version, id, fmt.Appendf(nil, `{"auth_events":[],"content":{"body":%s,"msgtype":"m.text"},"depth":9,"hashes":{"sha256":""},"origin_server_ts":%d,"prev_events":[],"room_id":"!r:hs","sender":"@alice:hs","signatures":{},"type":"m.room.message"}`, body, ts))
				if err != nil {
					return err
				}
				w.s.Store.Insert(tx, &store.Row{NID: nid, Room: p.room, Type: p.typ, Sender: p.sender, ID: id, Depth: 9, TS: ts,
					Ord: nid, HasOrd: true, State: p.state, Flags: store.Backfilled}, w.s.Store.Pack(e, store.Note{}))
			}
			return nil
		}}))
	}
}

func (w *world) nid(id string) (nid int64) {
	w.must(w.db.Read(context.Background(), func(tx *sqldb.Tx) (err error) {
		nid, err = w.s.Store.EventNID(tx, id)
		return err
	}))
	return nid
}

// dump writes the terms of n texts, for comparisons with other indexes.
func dump(path string, n int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	s := newSpeaker()
	for range n {
		if _, err := fmt.Fprintln(f, strings.Join(parse(s.text()).terms(), " ")); err != nil {
			return err
		}
	}
	return f.Close()
}

// BenchmarkSearch builds an index and searches it: how long and how large the index is, and for each kind of search the
// time of an operation, its median and its 99th percentile.
func BenchmarkSearch(b *testing.B) {
	if *benchDump != "" {
		if err := dump(*benchDump, *benchTexts); err != nil {
			b.Fatal(err)
		}
		return
	}
	for _, dialect := range []sqldb.Dialect{sqldb.SQLite, sqldb.Postgres} {
		b.Run(dialect.String(), func(b *testing.B) {
			w := newWorld(b, sqldbtest.Open(b, dialect))
			w.fill(*benchTexts)
			began := time.Now()
			w.must(w.x.CatchUp(b.Context()))
			b.Logf("%d texts: indexed in %.1f s, %.0f bytes a text, %d segments", *benchTexts, time.Since(began).Seconds(), float64(w.size())/float64(*benchTexts), len(w.segments()))
			w.benchAll(b)
		})
	}
}

var (
	blockSize = sqldb.Register("test.blockSize", `SELECT COALESCE(sum(octet_length(data) + octet_length(term)), $1) FROM search_blocks`)
	docSize   = sqldb.Register("test.docSize", `SELECT COALESCE(sum(octet_length(data)), $1) FROM search_docs`)
)

// size is how many bytes the index holds.
func (w *world) size() (n int64) {
	w.must(w.db.Read(context.Background(), func(tx *sqldb.Tx) error {
		for _, s := range []*sqldb.Stmt{blockSize, docSize} {
			var part int64
			if err := tx.QueryRow(s, 0).Scan(&part); err != nil {
				return err
			}
			n += part
		}
		return nil
	}))
	return n
}

func (w *world) benchAll(b *testing.B) {
	s := newSpeaker()
	rare := func(words []string) func() string {
		return func() string { return words[len(words)/3+s.r.IntN(len(words)/2)] }
	}
	for name, c := range map[string]struct {
		user   string
		recent bool
		term   func() string
	}{
		"rare word":         {alice, true, rare(s.words)},
		"rare phrase":       {alice, true, rare(s.phrases)},
		"two words":         {alice, true, func() string { return s.words[s.word.Uint64()] + " " + s.words[s.word.Uint64()] }},
		"phrase as spoken":  {alice, true, func() string { return s.phrases[s.phrase.Uint64()] }},
		"commonest, recent": {alice, true, func() string { return s.words[0] }},
		"commonest, ranked": {alice, false, func() string { return s.words[0] }},
		"in one room":       {bob, true, func() string { return s.words[s.word.Uint64()] }},
	} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := w.x.Search(b.Context(), Query{Viewer: roomserver.Viewer{User: c.user}, Term: c.term(), Recent: c.recent, Limit: 10}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}
