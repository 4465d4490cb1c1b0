// Package glob owns the comparison of texts with the patterns of the specification (Appendices, "Glob-style matching").
package glob

// Match reports whether the whole text matches a pattern of literal characters, * (any text) and ? (one character). It
// takes time linear in the product of their lengths, and is case-sensitive.
func Match(pattern, text string) bool {
	p, t := []rune(pattern), []rune(text)
	star, mark, i := -1, 0, 0
	j := 0
	for i < len(t) {
		switch {
		case j < len(p) && p[j] == '*':
			star, mark = j, i
			j++
		case j < len(p) && (p[j] == '?' || p[j] == t[i]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = mark, star+1
		default:
			return false
		}
	}
	for j < len(p) && p[j] == '*' {
		j++
	}
	return j == len(p)
}

// Type reports whether a type matches a pattern of a filter, in which only * is special: it stands for any sequence of
// characters (Client-Server API, "Filtering"). It allocates nothing.
func Type(pattern, typ string) bool {
	p, i, star, back := 0, 0, -1, 0
	for i < len(typ) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, i
			p++
		case p < len(pattern) && pattern[p] == typ[i]:
			p++
			i++
		case star >= 0:
			back++
			p, i = star+1, back
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
