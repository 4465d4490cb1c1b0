package state

// Diff calls fn for each tuple that the two sets hold differently, with the event of each side (0 where it is absent),
// until fn returns false. It reports whether all were visited. Shared subtrees are skipped by identity: the cost is
// O(difference) for sets that come from one another. The order depends on the two sets' entries alone.
func Diff(a, b *Set, fn func(tuple, a, b int64) bool) bool {
	switch {
	case a == b:
		return true
	case a == nil:
		return b.Each(func(e Entry) bool { return fn(e.Tuple, 0, e.Event) })
	case b == nil:
		return a.Each(func(e Entry) bool { return fn(e.Tuple, e.Event, 0) })
	case a.kids != nil && b.kids != nil:
		for i := range a.kids {
			if !Diff(a.kids[i], b.kids[i], fn) {
				return false
			}
		}
		return true
	case a.kids == nil && b.kids == nil:
		return diffLeaves(a.entries, b.entries, fn)
	case a.kids == nil:
		return diffLeaves(a.entries, b.Entries(), fn)
	default:
		return diffLeaves(a.Entries(), b.entries, fn)
	}
}

// diffLeaves merges two lists that are ascending by tuple.
func diffLeaves(a, b []Entry, fn func(tuple, a, b int64) bool) bool {
	for len(a) > 0 || len(b) > 0 {
		var tuple, x, y int64
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Tuple < b[0].Tuple:
			tuple, x, a = a[0].Tuple, a[0].Event, a[1:]
		case len(a) == 0 || b[0].Tuple < a[0].Tuple:
			tuple, y, b = b[0].Tuple, b[0].Event, b[1:]
		default:
			tuple, x, y, a, b = a[0].Tuple, a[0].Event, b[0].Event, a[1:], b[1:]
		}
		if x != y && !fn(tuple, x, y) {
			return false
		}
	}
	return true
}

// Changes returns what turns a into b: an entry a tuple that differs, event 0 where b lacks it.
func Changes(a, b *Set) []Entry {
	var changes []Entry
	Diff(a, b, func(tuple, _, event int64) bool {
		changes = append(changes, Entry{tuple, event})
		return true
	})
	return changes
}
