package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

func fieldNames(t reflect.Type) map[string]string {
	names := map[string]string{}
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" {
			names[name] = name
		}
	}
	return names
}

// suggest names the closest of the known names when one is near, and all of them when they are few.
func suggest(name string, known map[string]string) string {
	best, bestDistance := "", len(name)/2+1
	names := slices.Sorted(maps.Keys(known))
	for _, k := range names {
		if d := distance(name, k); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	switch {
	case best != "":
		return "; did you mean " + best + "?"
	case len(names) <= 16:
		return "; there are " + strings.Join(names, ", ")
	}
	return "; knock config example lists them"
}

// distance is the number of single-letter edits between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
