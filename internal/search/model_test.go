package search

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestModel does things at random and compares what is found with what a search through all texts finds.
func TestModel(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := rand.New(rand.NewPCG(1, 2))
		rooms := []string{w.create("public_chat", bob), w.create("public_chat", bob), w.create("public_chat")}
		words := strings.Fields("apple apples app bench cloud clouded 今天 天气 很好 気 한국어 국어")
		text := func() string {
			var out []string
			for range 1 + r.IntN(4) {
				out = append(out, words[r.IntN(len(words))])
			}
			return strings.Join(out, []string{" ", ""}[r.IntN(2)])
		}
		type said struct{ id, room, text, edit string }
		var all []said
		for range 150 {
			switch n := r.IntN(10); {
			case n < 6 || len(all) == 0:
				s := said{room: rooms[r.IntN(3)], text: text()}
				s.id = w.say(s.room, alice, s.text)
				all = append(all, s)
			case n < 7:
				i := r.IntN(len(all))
				s := &all[i]
				s.text = text()
				s.edit = w.edit(s.room, alice, s.id, s.text)
			case n < 8:
				i := r.IntN(len(all))
				w.redact(all[i].room, alice, all[i].id)
				all = slices.Delete(all, i, i+1)
			case n < 9:
				w.must(w.x.CatchUp(context.Background()))
			default:
				w.restart()
			}
			term := words[r.IntN(len(words))] + " " + words[r.IntN(len(words))]
			needle := parseNeedle(term)
			var want []string
			for _, s := range all {
				if needle.matches(parse(s.text)) {
					want = append(want, s.id)
				}
			}
			got := w.found(alice, term)
			slices.Sort(want)
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("%q: %d found, want %d", term, len(got), len(want))
			}
		}
		if n := w.strays(); n != 0 {
			t.Error(n, "segments left rows behind")
		}
	})
}

// TestLongLists merges segments in which lists of places take several rows.
func TestLongLists(t *testing.T) {
	var entries []entry
	for i := range 3 * blockBytes {
		e := entry{doc: doc{room: int64(1 + i%3), ts: int64(i), nid: int64(i + 1), sender: int64(i % 5), size: i % 7, kind: Body, url: i%2 == 0}, terms: []string{"every"}}
		if i%1000 == 0 {
			e.terms = append(e.terms, "few", fmt.Sprint("one", i))
		}
		entries = append(entries, e)
	}
	s, err := build(slices.Clone(entries))
	if err != nil {
		t.Fatal(err)
	}
	parts := 0
	for term, n := range map[string]int{"every": len(entries), "few": 25, "one3000": 1, "none": 0, "a": 0, "zz": 0} {
		var places []uint32
		for _, b := range s.blocks {
			if term == "every" && bytes.Equal(b.term, []byte(term)) {
				parts++
			}
			if places, err = findTerm(places, b.data, []byte(term)); err != nil {
				t.Fatal(err)
			}
		}
		if len(places) != n || !slices.IsSorted(places) {
			t.Errorf("%s: %d places, want %d", term, len(places), n)
		}
	}
	if parts < 2 {
		t.Error("the long list is in", parts, "rows")
	}
	var places []uint32
	for _, b := range s.blocks {
		if places, err = findTerms(places, b.data, []byte("one1")); err != nil {
			t.Fatal(err)
		}
	}
	want := []uint32{}
	for i, e := range s.docs {
		if n := e.nid - 1; n%1000 == 0 && strings.HasPrefix(fmt.Sprint(n), "1") {
			want = append(want, uint32(i))
		}
	}
	if got := sorted(places); !slices.Equal(got, want) {
		t.Errorf("places of a prefix: %v, want %v", got, want)
	}
	for chunk := range slices.Chunk(s.docs, docChunk) {
		back, err := decodeDocs(encodeDocs(chunk))
		if err != nil || !slices.Equal(back, chunk) {
			t.Fatal("docs change when they are stored:", err)
		}
	}
	rooms, err := decodeRooms(encodeRooms(s.rooms))
	if err != nil || !slices.Equal(rooms, s.rooms) || len(rooms) != 3 {
		t.Error(rooms, err)
	}
}

func TestPlan(t *testing.T) {
	of := func(docs ...int64) (list []meta) {
		for _, n := range docs {
			list = append(list, meta{docs: n})
		}
		return list
	}
	for _, c := range []struct {
		docs []int64
		want int
	}{
		{nil, 0}, {[]int64{1}, 0}, {[]int64{1, 1, 1, 1, 1, 1, 1}, 0}, {[]int64{1, 1, 1, 1, 1, 1, 1, 1}, 8}, {[]int64{3, 4, 2}, 3},
		{[]int64{1, 100, 100}, 0}, {[]int64{500, 30, 20, 40}, 4}, {[]int64{30, 20, 40, 600}, 3}, {[]int64{600, 600, 600}, 0}, {[]int64{300, 300, 300}, 3}, {[]int64{7, 2, 5000}, 2},
	} {
		if got := plan(of(c.docs...)); len(got) != c.want {
			t.Errorf("%v: %d are merged, want %d", c.docs, len(got), c.want)
		}
	}
}

func TestSorted(t *testing.T) {
	for _, in := range [][]uint32{{1, 2, 2, 3}, {5, 1, 5, 0}, {4_000_000_000, 7, 7}, {130, 64, 63, 128, 64}} {
		want := slices.Compact(slices.Sorted(slices.Values(in)))
		if got := sorted(slices.Clone(in)); !slices.Equal(got, want) {
			t.Errorf("%v becomes %v", in, got)
		}
	}
}

// FuzzDamage reads damaged rows and tokens.
func FuzzDamage(f *testing.F) {
	f.Add(encodeDocs([]doc{{1, 2, 3, 4, 5, Body, true}, {1, 3, 4, 4, 5, Name, false}}))
	f.Add(encodeRooms([]roomDocs{{1, 2}, {3, 4}}))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = decodeDocs(data)
		_, _ = decodeRooms(data)
		_, _ = decodePlaces(nil, data)
		_, _ = findTerm(nil, data, []byte("a"))
		_, _ = findTerms(nil, data, []byte("a"))
		_, _ = ParseCursor(string(data))
	})
}

// FuzzTerms holds that a text has each part of itself.
func FuzzTerms(f *testing.F) {
	f.Add("今天天气很好 and 東京タワー 👍🏽!", 3, 9)
	f.Fuzz(func(t *testing.T, text string, from, to int) {
		c := parse(text)
		terms := map[string]bool{}
		for _, term := range c.terms() {
			terms[term] = true
		}
		n := parseNeedle(text)
		if len(text) <= maxNeedle && len(n.words)+len(n.runs) < maxUnits && !n.matches(c) {
			t.Errorf("%q does not match itself", text)
		}
		for _, run := range n.runs {
			r := []rune(run)
			if from >= 0 && from < to && to <= len(r) {
				if part := parseNeedle(string(r[from:to])); !part.matches(c) {
					t.Errorf("%q does not match its part %q", text, string(r[from:to]))
				}
			}
		}
		if n.matches(c) {
			for _, l := range n.lookups() {
				if !terms[l.term] {
					t.Errorf("%q is not a term of %q", l.term, text)
				}
			}
		}
	})
}
