package state

import (
	"maps"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func asMap(s *Set) map[int64]int64 {
	m := map[int64]int64{}
	s.Each(func(e Entry) bool { m[e.Tuple] = e.Event; return true })
	return m
}

func fromMap(m map[int64]int64) []Entry {
	var entries []Entry
	for t, e := range m {
		entries = append(entries, Entry{t, e})
	}
	return entries
}

// TestModel drives a set and a map with the same random changes; both must agree at each step, old sets must stay as
// they were, and the shape must be the one that a fresh build gives.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		space := []int64{5, 40, 400, 4000}[seed%4]
		model := map[int64]int64{}
		var set, kept *Set
		var keptModel map[int64]int64
		for step := range 3000 {
			tuple := rnd.Int64N(space) - space/8
			if rnd.IntN(3) == 0 {
				set = set.Without(tuple)
				delete(model, tuple)
			} else {
				event := 1 + rnd.Int64N(50)
				set = set.With(tuple, event)
				model[tuple] = event
			}
			if got, ok := set.Get(tuple); got != model[tuple] || ok != (model[tuple] != 0) || set.Len() != len(model) {
				t.Fatalf("seed %d step %d: Get(%d) = %d, %v; Len %d; want %d, Len %d", seed, step, tuple, got, ok, set.Len(), model[tuple], len(model))
			}
			if step%500 == 0 {
				if kept != nil && !maps.Equal(asMap(kept), keptModel) {
					t.Fatalf("seed %d step %d: an old set changed", seed, step)
				}
				checkAgainst(t, set, model)
				checkDiff(t, kept, set, keptModel, model)
				kept, keptModel = set, maps.Clone(model)
			}
		}
		for tuple := range maps.Clone(model) {
			set = set.Without(tuple)
		}
		if set != nil {
			t.Fatalf("seed %d: emptied set is not nil", seed)
		}
	}
}

func checkAgainst(t *testing.T, set *Set, model map[int64]int64) {
	t.Helper()
	if !maps.Equal(asMap(set), model) {
		t.Fatal("entries differ from the model")
	}
	if fresh := FromEntries(fromMap(model)); !reflect.DeepEqual(fresh, set) {
		t.Fatal("shape depends on history")
	}
	if Diff(set, FromEntries(fromMap(model)), func(_, _, _ int64) bool { return false }) != true {
		t.Fatal("equal sets of different history differ")
	}
	changes, err := DecodeDelta(AppendDelta(nil, set.Entries()))
	if err != nil || !maps.Equal(asMap((*Set)(nil).Apply(changes)), model) {
		t.Fatalf("codec does not round-trip: %v", err)
	}
}

func checkDiff(t *testing.T, a, b *Set, ma, mb map[int64]int64) {
	t.Helper()
	want := map[int64][2]int64{}
	for k := range ma {
		if ma[k] != mb[k] {
			want[k] = [2]int64{ma[k], mb[k]}
		}
	}
	for k := range mb {
		if ma[k] != mb[k] {
			want[k] = [2]int64{ma[k], mb[k]}
		}
	}
	got := map[int64][2]int64{}
	Diff(a, b, func(tuple, x, y int64) bool {
		if _, twice := got[tuple]; twice {
			t.Fatalf("tuple %d reported twice", tuple)
		}
		got[tuple] = [2]int64{x, y}
		return true
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("Diff (-want +got):\n%s", diff)
	}
	if !maps.Equal(asMap(a.Apply(Changes(a, b))), mb) {
		t.Fatal("a with Changes(a, b) is not b")
	}
}

func TestDiffStops(t *testing.T) {
	a, b := FromEntries([]Entry{{1, 1}, {2, 2}}), FromEntries([]Entry{{3, 3}})
	calls := 0
	if Diff(a, b, func(_, _, _ int64) bool { calls++; return false }) || calls != 1 {
		t.Fatalf("Diff went on after false: %d calls", calls)
	}
}

func TestUnchangedSetsAreShared(t *testing.T) {
	s := FromEntries([]Entry{{1, 1}, {2, 2}})
	if s.With(1, 1) != s || s.Without(9) != s || s.With(9, 0) != s {
		t.Fatal("a change that changes nothing made a new set")
	}
}

func TestDecodeDeltaRefuses(t *testing.T) {
	for name, data := range map[string][]byte{
		"empty":              {},
		"count beyond input": {0xff, 0xff, 0x7f, 1, 1},
		"cut":                AppendDelta(nil, []Entry{{7, 300}, {9, 70000}})[:5],
		"trailing":           append(AppendDelta(nil, []Entry{{7, 300}}), 0),
		"same tuple twice":   {2, 1, 3, 0, 3},
		"negative event":     {1, 1, 2},
		"overlong varint":    {1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1},
	} {
		if changes, err := DecodeDelta(data); err == nil {
			t.Errorf("%s: got %v, want an error", name, changes)
		}
	}
}

func FuzzDecodeDelta(f *testing.F) {
	f.Add(AppendDelta(nil, []Entry{{1, 2}, {3, 0}, {1 << 40, 1 << 50}}))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, data []byte) {
		changes, err := DecodeDelta(data)
		if err != nil {
			return
		}
		again, err := DecodeDelta(AppendDelta(nil, changes))
		if err != nil || !slices.Equal(again, changes) {
			t.Fatalf("%v became %v (%v)", changes, again, err)
		}
	})
}

func sequence(n int) []Entry {
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = Entry{int64(i + 1), int64(i + 1000)}
	}
	return entries
}

// TestMemory holds the budget: a set of 10,000 entries stays well under a megabyte.
func TestMemory(t *testing.T) {
	entries := sequence(10_000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var set *Set
	for _, e := range entries {
		set = set.With(e.Tuple, e.Event)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 600_000 {
		t.Errorf("10,000 entries take %d bytes", used)
	} else {
		t.Logf("10,000 entries take %d bytes, %d stored", used, len(AppendDelta(nil, set.Entries())))
	}
	runtime.KeepAlive(entries)
	runtime.KeepAlive(set)
}

func BenchmarkWith10k(b *testing.B) {
	set := FromEntries(sequence(10_000))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		set.With(int64(i%10_000+1), int64(i+50_000))
	}
}

func BenchmarkGet10k(b *testing.B) {
	set := FromEntries(sequence(10_000))
	for i := 0; b.Loop(); i++ {
		set.Get(int64(i%10_000 + 1))
	}
}

func BenchmarkDiff10kOne(b *testing.B) {
	set := FromEntries(sequence(10_000))
	other := set.With(77, 1)
	b.ReportAllocs()
	for b.Loop() {
		Diff(set, other, func(_, _, _ int64) bool { return true })
	}
}

func BenchmarkFromEntries10k(b *testing.B) {
	entries := sequence(10_000)
	for b.Loop() {
		FromEntries(entries)
	}
}

func BenchmarkDelta1(b *testing.B) {
	change := []Entry{{1234567, 12345678}}
	var buf []byte
	for b.Loop() {
		buf = AppendDelta(buf[:0], change)
	}
}
