package sqldb

import "strings"

type kind uint8

const (
	space  kind = iota // blanks and comments
	word               // identifiers and keywords
	param              // $N
	quoted             // '…', "…", $tag$…$tag$
	other              // one operator character, or "::"
)

type token struct {
	kind kind
	text string
}

// is reports whether the token is this word or operator, whatever its case.
func (t token) is(s string) bool {
	return (t.kind == word || t.kind == other) && strings.EqualFold(t.text, s)
}

// tokenize cuts SQL into tokens whose texts, put together, are the input again.
func tokenize(sql string) []token {
	var out []token
	for len(sql) > 0 {
		k, n := next(sql)
		out = append(out, token{k, sql[:n]})
		sql = sql[n:]
	}
	return out
}

func next(s string) (kind, int) {
	switch c := s[0]; {
	case isBlank(c):
		return space, span(s, isBlank)
	case strings.HasPrefix(s, "--"):
		return space, until(s, "\n", 2) // the line's end belongs to the comment
	case strings.HasPrefix(s, "/*"):
		return space, until(s, "*/", 2)
	case c == '\'' || c == '"':
		return quoted, quotedEnd(s, c)
	case c == '$':
		return dollar(s)
	case isLetter(c):
		return word, span(s, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '$' })
	case isDigit(c):
		return word, span(s, func(c byte) bool { return isLetter(c) || isDigit(c) || c == '.' })
	case strings.HasPrefix(s, "::"):
		return other, 2
	}
	return other, 1
}

func isBlank(c byte) bool  { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' || c >= 0x80 }

func span(s string, in func(byte) bool) int {
	n := 0
	for n < len(s) && in(s[n]) {
		n++
	}
	return n
}

// until is the length of s up to and including the first end at or after from; all of s when there is none.
func until(s, end string, from int) int {
	if i := strings.Index(s[from:], end); i >= 0 {
		return from + i + len(end)
	}
	return len(s)
}

// quotedEnd is the length of the quoted text that s begins with; a doubled quote is part of it.
func quotedEnd(s string, quote byte) int {
	for i := 1; i < len(s); i++ {
		if s[i] != quote {
			continue
		}
		if i+1 < len(s) && s[i+1] == quote {
			i++
			continue
		}
		return i + 1
	}
	return len(s)
}

// dollar reads $1, or a dollar-quoted string, or a lone dollar sign.
func dollar(s string) (kind, int) {
	if n := span(s[1:], isDigit); n > 0 {
		return param, 1 + n
	}
	n := 1 + span(s[1:], func(c byte) bool { return isLetter(c) || isDigit(c) })
	if n < len(s) && s[n] == '$' {
		return quoted, until(s, s[:n+1], n+1)
	}
	return other, 1
}

// returnsRows reports whether a statement answers with rows: a query, or a write with RETURNING.
func returnsRows(sql string) bool {
	first := true
	for _, t := range tokenize(sql) {
		switch {
		case t.kind == space:
			continue
		case first && (t.is("SELECT") || t.is("WITH") || t.is("VALUES") || t.is("PRAGMA")), t.is("RETURNING"):
			return true
		}
		first = false
	}
	return false
}

// Rewrite turns a statement in PostgreSQL dialect into SQLite's; the package comment lists the rules.
func Rewrite(sql string) string {
	r := rewriter{in: tokenize(sql)}
	for r.pos < len(r.in) {
		r.step()
	}
	return strings.TrimRight(r.out.String(), " \t\r\n")
}

type rewriter struct {
	in  []token
	pos int
	out strings.Builder
}

func (r *rewriter) step() {
	t := r.in[r.pos]
	switch {
	case t.is("=") && r.array("ANY", "IN"), t.is("<") && r.array("ALL", "NOT IN"):
	case t.is("FOR") && r.lockClause():
	case t.is("::"):
		r.pos = r.typeEnd(r.pos + 1)
	case t.kind == param:
		r.emit("?" + t.text[1:])
	case t.is("GREATEST") && r.at(r.skip(r.pos+1)).is("("):
		r.emit("MAX")
	case t.is("LEAST") && r.at(r.skip(r.pos+1)).is("("):
		r.emit("MIN")
	default:
		r.emit(t.text)
	}
}

func (r *rewriter) emit(s string) {
	r.out.WriteString(s)
	r.pos++
}

// at is the token at i; the zero token past the end.
func (r *rewriter) at(i int) token {
	if i < len(r.in) {
		return r.in[i]
	}
	return token{}
}

// skip is the index of the first token at or after i that is not space.
func (r *rewriter) skip(i int) int {
	for i < len(r.in) && r.in[i].kind == space {
		i++
	}
	return i
}

// array rewrites "= ANY($n::bigint[])" and "<> ALL($n::bytea[])"; it reports false when the tokens are something else.
func (r *rewriter) array(quantifier, in string) bool {
	i := r.pos + 1
	if quantifier == "ALL" {
		if !r.at(i).is(">") {
			return false
		}
		i++
	}
	if i = r.skip(i); !r.at(i).is(quantifier) {
		return false
	}
	if i = r.skip(i + 1); !r.at(i).is("(") {
		return false
	}
	p := r.skip(i + 1)
	if r.at(p).kind != param || !r.at(r.skip(p+1)).is("::") {
		return false
	}
	elem := r.skip(r.skip(p+1) + 1)
	end := r.skip(r.typeEnd(elem))
	if !r.at(end).is(")") {
		return false
	}
	value := "value"
	if r.at(elem).is("bytea") {
		value = "unhex(value)"
	}
	r.out.WriteString(in + " (SELECT " + value + " FROM json_each(?" + r.at(p).text[1:] + "))")
	r.pos = end + 1
	return true
}

// typeEnd is the index after a type name that begins at i: one word, or DOUBLE PRECISION, then (n) and [].
func (r *rewriter) typeEnd(i int) int {
	i = r.skip(i)
	double := r.at(i).is("DOUBLE")
	i++
	if p := r.skip(i); double && r.at(p).is("PRECISION") {
		i = p + 1
	}
	for _, brackets := range []string{"()", "[]"} {
		if !r.at(i).is(brackets[:1]) {
			continue
		}
		for i < len(r.in) && !r.in[i].is(brackets[1:]) {
			i++
		}
		i++
	}
	return i
}

// lockClause drops "FOR UPDATE", "FOR NO KEY UPDATE" or "FOR SHARE" with what follows it: SQLite has one writer.
func (r *rewriter) lockClause() bool {
	i := r.skip(r.pos + 1)
	for r.at(i).is("NO") || r.at(i).is("KEY") {
		i = r.skip(i + 1)
	}
	if !r.at(i).is("UPDATE") && !r.at(i).is("SHARE") {
		return false
	}
	for i = i + 1; i < len(r.in) && !r.in[i].is(")") && !r.in[i].is(";"); i++ {
	}
	r.pos = i
	return true
}
