package userdir

import "strings"

// Ranks of a match: the lower, the better.
const (
	exact = iota
	prefix
	wordStarts
	inside
	elsewhere // in the server's name
)

// rank tells how well folded words match a folded user id and name.
func rank(id, name string, words []string) int {
	term := strings.Join(words, " ")
	local, _, _ := strings.Cut(strings.TrimPrefix(id, "@"), ":")
	best := elsewhere
	for _, text := range []string{name, local, id} {
		best = min(best, rankIn(text, term, words))
	}
	if best == inside && !containsAll(name, words) && !containsAll(local, words) {
		best = elsewhere
	}
	return best
}

func rankIn(text, term string, words []string) int {
	switch {
	case text == term:
		return exact
	case strings.HasPrefix(text, term):
		return prefix
	case startWords(text, words):
		return wordStarts
	case containsAll(text, words):
		return inside
	}
	return elsewhere
}

func startWords(text string, words []string) bool {
	for _, w := range words {
		if !strings.HasPrefix(text, w) && !strings.Contains(text, " "+w) {
			return false
		}
	}
	return true
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}
