package appservice

import (
	"regexp"
	"regexp/syntax"
	"unicode"
)

// maxOverlapPairs bounds the search of overlap; beyond it two patterns are taken to be apart.
const maxOverlapPairs = 200_000

// overlap says whether one text can match both patterns at its start. It walks both programs side by side.
func overlap(a, b *regexp.Regexp) bool {
	pa, errA := program(a)
	pb, errB := program(b)
	if errA != nil || errB != nil {
		return false // they compiled before
	}
	start := pair{thread{uint32(pa.Start), false}, thread{uint32(pb.Start), false}}
	seen := map[pair]bool{start: true}
	for queue := []pair{start}; len(queue) > 0 && len(seen) < maxOverlapPairs; {
		p := queue[0]
		queue = queue[1:]
		if pa.Inst[p.a.pc].Op == syntax.InstMatch && pb.Inst[p.b.pc].Op == syntax.InstMatch {
			return true
		}
		for _, next := range step(pa, pb, p) {
			if !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	return false
}

func program(re *regexp.Regexp) (*syntax.Prog, error) {
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil {
		return nil, err
	}
	return syntax.Compile(tree.Simplify())
}

// thread is a place in a program; ended says that it wants no more text.
type thread struct {
	pc    uint32
	ended bool
}

type pair struct{ a, b thread }

// step is where a pair can go: one of the two without text, or both over the same character.
func step(pa, pb *syntax.Prog, p pair) (out []pair) {
	if free, ok := freely(pa, p.a); ok {
		for _, t := range free {
			out = append(out, pair{t, p.b})
		}
		return out
	}
	if free, ok := freely(pb, p.b); ok {
		for _, t := range free {
			out = append(out, pair{p.a, t})
		}
		return out
	}
	if p.a.ended || p.b.ended {
		return nil
	}
	ia, ib := &pa.Inst[p.a.pc], &pb.Inst[p.b.pc]
	for _, c := range append(candidates(ia), candidates(ib)...) {
		if takes(ia, c) && takes(ib, c) {
			return []pair{{over(ia, p.a), over(ib, p.b)}}
		}
	}
	return nil
}

// freely are the moves of a thread that take no text; false when it waits for some.
func freely(p *syntax.Prog, t thread) ([]thread, bool) {
	i := &p.Inst[t.pc]
	switch i.Op {
	case syntax.InstAlt, syntax.InstAltMatch:
		return []thread{{i.Out, t.ended}, {i.Arg, t.ended}}, true
	case syntax.InstCapture, syntax.InstNop:
		return []thread{{i.Out, t.ended}}, true
	case syntax.InstEmptyWidth:
		end := syntax.EmptyOp(i.Arg)&(syntax.EmptyEndText|syntax.EmptyEndLine) != 0
		return []thread{{i.Out, t.ended || end}}, true
	case syntax.InstFail:
		return nil, true
	}
	return nil, false
}

// candidates are characters of which an instruction takes one if two instructions take any together.
func candidates(i *syntax.Inst) []rune {
	switch i.Op {
	case syntax.InstMatch, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
		return []rune{'a'}
	}
	var out []rune
	for n := 0; n < len(i.Rune); n += 2 {
		out = append(out, i.Rune[n])
	}
	if len(i.Rune) == 1 {
		for c := unicode.SimpleFold(i.Rune[0]); c != i.Rune[0]; c = unicode.SimpleFold(c) {
			out = append(out, c)
		}
	}
	return out
}

// takes says whether an instruction goes over a character: a match does over all, for only the start of a text counts.
func takes(i *syntax.Inst, c rune) bool {
	switch i.Op {
	case syntax.InstMatch, syntax.InstRuneAny:
		return true
	case syntax.InstRuneAnyNotNL:
		return c != '\n'
	}
	return i.MatchRune(c)
}

func over(i *syntax.Inst, t thread) thread {
	if i.Op == syntax.InstMatch {
		return t
	}
	return thread{i.Out, t.ended}
}
