// Package state owns room state in memory and its compact form on disk: immutable sets that map a tuple number (one
// per event type and state key) to an event number. Sets share structure, so a state change costs O(change), and
// comparing two sets costs O(difference). The package knows no Matrix: it sees numbers alone.
package state

import "slices"

const (
	fanout    = 8  // children of a branch: three bits of the mixed tuple number a level
	fanBits   = 3  // log2(fanout)
	leafLimit = 32 // a subtree with this many entries or fewer is a leaf
)

// Entry says that the tuple holds the event. In a list of changes Event 0 means that the tuple is removed.
type Entry struct{ Tuple, Event int64 }

// Set is an immutable map from tuple to event numbers, safe for concurrent use. A nil *Set is the empty set. Event
// numbers are positive; 0 stands for "absent" everywhere.
//
// A Set is a trie over the mixed bits of the tuple number, and each subtree is a Set itself. Its shape follows from its
// entries alone (at most leafLimit entries are a leaf, more are a branch), never from the order of changes, so Diff can
// walk two sets of different history side by side.
type Set struct {
	count   int
	entries []Entry       // of a leaf, ascending by tuple
	kids    *[fanout]*Set // of a branch; nil for a leaf
}

// mix is a bijection on 64 bits (the finaliser of splitmix64). Tuple numbers are consecutive; mixed, they spread evenly.
func mix(tuple int64) uint64 {
	h := uint64(tuple)
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Len returns the number of entries.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.count
}

// Get returns the event that the tuple holds.
func (s *Set) Get(tuple int64) (event int64, ok bool) {
	for h := mix(tuple); s != nil; h >>= fanBits {
		if s.kids == nil {
			i, found := find(s.entries, tuple)
			if !found {
				return 0, false
			}
			return s.entries[i].Event, true
		}
		s = s.kids[h%fanout]
	}
	return 0, false
}

// find is a binary search without callbacks: it is the inner loop of Get.
func find(entries []Entry, tuple int64) (int, bool) {
	lo, hi := 0, len(entries)
	for lo < hi {
		if mid := (lo + hi) / 2; entries[mid].Tuple < tuple {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < len(entries) && entries[lo].Tuple == tuple
}

// With returns the set in which the tuple holds the event; event 0 removes the tuple. s is unchanged, and returned
// itself when it already says so.
func (s *Set) With(tuple, event int64) *Set {
	if event == 0 {
		return s.Without(tuple)
	}
	if old, ok := s.Get(tuple); ok && old == event {
		return s
	}
	return s.with(Entry{tuple, event}, mix(tuple), 0)
}

func (s *Set) with(e Entry, h uint64, depth int) *Set {
	if s == nil {
		return &Set{count: 1, entries: []Entry{e}}
	}
	if s.kids == nil {
		return s.leafWith(e, depth)
	}
	kids := *s.kids
	old := kids[h%fanout]
	kid := old.with(e, h>>fanBits, depth+1)
	kids[h%fanout] = kid
	return &Set{count: s.count + kid.count - old.Len(), kids: &kids}
}

func (s *Set) leafWith(e Entry, depth int) *Set {
	i, found := find(s.entries, e.Tuple)
	n := len(s.entries)
	if !found {
		n++
	}
	entries := make([]Entry, n)
	copy(entries, s.entries[:i])
	entries[i] = e
	if found {
		copy(entries[i+1:], s.entries[i+1:])
	} else {
		copy(entries[i+1:], s.entries[i:])
	}
	if n <= leafLimit {
		return &Set{count: n, entries: entries}
	}
	return build(entries, depth)
}

// Without returns the set that lacks the tuple. s is unchanged, and returned itself when it lacks it already. The empty
// result is nil.
func (s *Set) Without(tuple int64) *Set {
	if _, ok := s.Get(tuple); !ok {
		return s
	}
	return s.without(tuple, mix(tuple))
}

// without removes a tuple that is present.
func (s *Set) without(tuple int64, h uint64) *Set {
	if s.count == 1 {
		return nil
	}
	if s.kids == nil {
		i, _ := find(s.entries, tuple)
		entries := make([]Entry, 0, len(s.entries)-1)
		entries = append(append(entries, s.entries[:i]...), s.entries[i+1:]...)
		return &Set{count: len(entries), entries: entries}
	}
	if s.count == leafLimit+1 {
		return s.collapse(tuple)
	}
	kids := *s.kids
	kids[h%fanout] = kids[h%fanout].without(tuple, h>>fanBits)
	return &Set{count: s.count - 1, kids: &kids}
}

// collapse turns a branch that is about to be small enough into a leaf, as the canonical shape wants.
func (s *Set) collapse(gone int64) *Set {
	entries := make([]Entry, 0, leafLimit)
	s.Each(func(e Entry) bool {
		if e.Tuple != gone {
			entries = append(entries, e)
		}
		return true
	})
	slices.SortFunc(entries, byTuple)
	return &Set{count: len(entries), entries: entries}
}

// Each calls fn for every entry, in an order that depends on the entries alone, until fn returns false. It reports
// whether all were visited.
func (s *Set) Each(fn func(Entry) bool) bool {
	if s == nil {
		return true
	}
	if s.kids != nil {
		for _, kid := range s.kids {
			if !kid.Each(fn) {
				return false
			}
		}
		return true
	}
	for _, e := range s.entries {
		if !fn(e) {
			return false
		}
	}
	return true
}

// Entries returns all entries, ascending by tuple.
func (s *Set) Entries() []Entry {
	entries := make([]Entry, 0, s.Len())
	s.Each(func(e Entry) bool {
		entries = append(entries, e)
		return true
	})
	slices.SortFunc(entries, byTuple)
	return entries
}

// Apply returns the set after the changes, in their order.
func (s *Set) Apply(changes []Entry) *Set {
	if s == nil {
		return FromEntries(changes)
	}
	for _, c := range changes {
		s = s.With(c.Tuple, c.Event)
	}
	return s
}
