package state

import (
	"cmp"
	"slices"
)

func byTuple(a, b Entry) int { return cmp.Compare(a.Tuple, b.Tuple) }

// sortedLast returns a copy of the entries, ascending by tuple; of entries with one tuple the last one stays.
func sortedLast(entries []Entry) []Entry {
	sorted := slices.Clone(entries)
	slices.SortStableFunc(sorted, byTuple)
	kept := sorted[:0]
	for i, e := range sorted {
		if i+1 == len(sorted) || sorted[i+1].Tuple != e.Tuple {
			kept = append(kept, e)
		}
	}
	return kept
}

// FromEntries builds a set at once. Of entries with one tuple the last one counts; entries with event 0 are left out.
func FromEntries(entries []Entry) *Set {
	live := slices.DeleteFunc(sortedLast(entries), func(e Entry) bool { return e.Event == 0 })
	return build(live, 0)
}

// build makes the subtree at the depth from entries that are ascending by tuple and free of duplicates. It copies them.
func build(entries []Entry, depth int) *Set {
	if len(entries) == 0 {
		return nil
	}
	if len(entries) <= leafLimit {
		return &Set{count: len(entries), entries: slices.Clone(entries)}
	}
	var sizes, next [fanout]int
	for _, e := range entries {
		sizes[slot(e.Tuple, depth)]++
	}
	for i := 1; i < fanout; i++ {
		next[i] = next[i-1] + sizes[i-1]
	}
	parts, start := make([]Entry, len(entries)), next
	for _, e := range entries {
		i := slot(e.Tuple, depth)
		parts[next[i]] = e
		next[i]++
	}
	kids := new([fanout]*Set)
	for i := range kids {
		kids[i] = build(parts[start[i]:next[i]], depth+1)
	}
	return &Set{count: len(entries), kids: kids}
}

func slot(tuple int64, depth int) int { return int(mix(tuple) >> (fanBits * depth) % fanout) }
