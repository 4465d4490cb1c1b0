// Package fold owns the form in which texts are compared when people search: names and messages.
package fold

import (
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Text makes text comparable: compatibility forms (full width, ligatures), letter case and the accents of Latin, Greek
// and Cyrillic letters do not count; white space is one space. Traditional and simplified characters stay different.
func Text(text string) string {
	if plain, ok := ascii(text); ok {
		return plain
	}
	text = norm.NFKD.String(text)
	text = strings.Map(func(r rune) rune {
		if r >= 0x300 && r <= 0x36f { // combining diacritical marks; those of other scripts tell letters apart
			return -1
		}
		return r
	}, text)
	text = norm.NFKC.String(cases.Fold().String(text))
	return strings.Join(strings.Fields(text), " ")
}

// ascii is Text for texts of ASCII alone, which are most names and many messages.
func ascii(text string) (string, bool) {
	for i := range len(text) {
		if text[i] >= 0x80 {
			return "", false
		}
	}
	return strings.Join(strings.Fields(strings.ToLower(text)), " "), true
}
