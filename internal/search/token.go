package search

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"knock/internal/fold"
)

// Texts are made of words and of dense runs. A word is a sequence of letters and digits of a script that puts spaces
// between them; it is one term. A dense run is one of a script that does not, such as Chinese, or of symbols, such as
// emoji: its characters and its pairs of neighbours are terms, so that any part of it can be found.

// tokenVersion is raised when texts become other terms than before; an index made with another version is made anew.
const tokenVersion = 1

type class uint8

const (
	separator class = iota
	letter
	dense
	unseen // neither separates nor counts
)

// denseScripts are written without spaces between words, or, as Korean, with endings stuck to them.
var denseScripts = []*unicode.RangeTable{
	unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Bopomofo, unicode.Yi,
	unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar, unicode.Tibetan,
}

const (
	prolonged = 'ー' // belongs to no script
	firstTone = 0x1f3fb
	lastTone  = 0x1f3ff
)

func classOf(r rune) class {
	switch {
	case r < utf8.RuneSelf:
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' {
			return letter
		}
		return separator
	case r == prolonged:
		return dense
	case unicode.In(r, unicode.Cf, unicode.Variation_Selector) || r >= firstTone && r <= lastTone:
		return unseen // joiners, the looks of an emoji and the colour of its skin
	case unicode.In(r, denseScripts...):
		if unicode.In(r, unicode.Letter, unicode.Mark, unicode.Number) {
			return dense
		}
		return separator
	case unicode.In(r, unicode.Letter, unicode.Mark, unicode.Number):
		return letter
	case unicode.In(r, unicode.So):
		return dense
	}
	return separator
}

// maxWord bounds a term, in bytes; of a longer word the rest does not count.
const maxWord = 64

// split calls fn with each word and dense run of a folded text, in order.
func split(folded string, fn func(run string, c class)) {
	var run []byte
	kind := separator
	flush := func() {
		if len(run) > 0 {
			text := string(run)
			if kind == letter {
				text = cut(text, maxWord)
			}
			fn(text, kind)
		}
		run = run[:0]
	}
	for _, r := range folded {
		c := classOf(r)
		if c == unseen {
			continue
		}
		if c != kind {
			flush()
			kind = c
		}
		if c != separator {
			run = utf8.AppendRune(run, r)
		}
	}
	flush()
}

// cut shortens a text to n bytes of whole characters.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}

// eachTerm calls fn with the terms of a dense run: its pairs, and its characters if singles is set or there is but one.
func eachTerm(run string, singles bool, fn func(term string)) {
	last := -1
	for i, r := range run {
		n := utf8.RuneLen(r)
		if last >= 0 {
			fn(run[last : i+n])
		}
		if singles || n == len(run) {
			fn(run[i : i+n])
		}
		last = i
	}
}

// content is a text as it is searched.
type content struct {
	words map[string]struct{}
	dense string // the dense runs, each followed by a zero byte
	size  int    // words and dense characters
}

func parse(text string) *content {
	c := &content{words: map[string]struct{}{}}
	var runs strings.Builder
	split(fold.Text(text), func(run string, kind class) {
		if kind == letter {
			c.words[run] = struct{}{}
			c.size++
			return
		}
		c.size += utf8.RuneCountInString(run)
		runs.WriteString(run)
		runs.WriteByte(0)
	})
	c.dense = runs.String()
	c.size = min(c.size, maxSize)
	return c
}

const maxSize = 1<<16 - 1

// terms are the different terms of a text, in no order.
func (c *content) terms() []string {
	seen := make(map[string]struct{}, len(c.words)+len(c.dense)/2)
	for word := range c.words {
		seen[word] = struct{}{}
	}
	for run := range strings.SplitSeq(c.dense, "\x00") {
		eachTerm(run, true, func(term string) { seen[term] = struct{}{} })
	}
	out := make([]string, 0, len(seen))
	for term := range seen {
		out = append(out, term)
	}
	return out
}

// needle is what is searched for: a text must have all the words, or words that begin with them, and the runs as parts of
// its dense runs.
type needle struct{ words, runs []string }

// minPrefix is how many characters a word has at least that stands for those that begin with it too.
const minPrefix = 3

// isPrefix reports whether a word stands for others.
func isPrefix(word string) bool {
	return len(word) >= minPrefix && len(word) < maxWord && utf8.RuneCountInString(word) >= minPrefix
}

// finds reports whether a word that is searched for finds one of a text.
func finds(word, of string) bool {
	return word == of || isPrefix(word) && strings.HasPrefix(of, word)
}

const (
	maxNeedle = 1024 // bytes of a search term that count
	maxUnits  = 32   // words and runs
	maxTerms  = 24   // looked up in the index; the rest is checked in the texts
)

func parseNeedle(text string) needle {
	var n needle
	seen := map[string]bool{}
	split(fold.Text(strings.ToValidUTF8(cut(text, maxNeedle), " ")), func(run string, kind class) {
		switch {
		case seen[run] || len(seen) == maxUnits:
			return
		case kind == letter:
			n.words = append(n.words, run)
		default:
			n.runs = append(n.runs, run)
		}
		seen[run] = true
	})
	return n
}

func (n needle) empty() bool { return len(n.words)+len(n.runs) == 0 }

// lookup is one term, or all with a prefix, by which the index is asked.
type lookup struct {
	term   string
	prefix bool
}

// lookups are those by which the index is asked, what is likely rarest first.
func (n needle) lookups() []lookup {
	var out []lookup
	seen := map[string]bool{}
	add := func(term string, prefix bool) {
		if !seen[term] && len(out) < maxTerms {
			out = append(out, lookup{term, prefix})
			seen[term] = true
		}
	}
	for _, word := range n.words {
		add(word, isPrefix(word))
	}
	for _, run := range n.runs {
		eachTerm(run, false, func(term string) { add(term, false) })
	}
	slices.SortStableFunc(out, func(a, b lookup) int { return len(b.term) - len(a.term) })
	return out
}

// size is how many words and dense characters are searched for.
func (n needle) size() int {
	size := len(n.words)
	for _, run := range n.runs {
		size += utf8.RuneCountInString(run)
	}
	return size
}

// has reports whether a text has a word that is found.
func (c *content) has(word string) bool {
	if _, ok := c.words[word]; ok || !isPrefix(word) {
		return ok
	}
	for own := range c.words {
		if finds(word, own) {
			return true
		}
	}
	return false
}

func (n needle) matches(c *content) bool {
	for _, word := range n.words {
		if !c.has(word) {
			return false
		}
	}
	for _, run := range n.runs {
		if !strings.Contains(c.dense, run) {
			return false
		}
	}
	return true
}

// highlights calls add with the words and runs of a text that match, as they are written there.
func (n needle) highlights(text string, add func(string)) {
	for _, run := range n.runs {
		if strings.Contains(text, run) {
			add(run)
		}
	}
	start := -1
	for i, r := range text + " " {
		if c := classOf(r); c == letter || c == unseen && start >= 0 {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 && i-start <= 4*maxWord {
			own := fold.Text(text[start:i])
			if slices.ContainsFunc(n.words, func(word string) bool { return finds(word, own) }) {
				add(text[start:i])
			}
		}
		start = -1
	}
}
