package glob

import (
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"a*b", "ab", true}, {"a*b", "axxb", true}, {"a*b", "axxc", false},
		{"*a*a*", "banana", true}, {"?", "é", true}, {"??", "é", false}, {"a.c", "abc", false},
	} {
		if got := Match(c.pattern, c.text); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.text, got)
		}
	}
}

func TestType(t *testing.T) {
	for _, c := range []struct {
		pattern, typ string
		want         bool
	}{
		{"*", "", true}, {"", "", true}, {"", "a", false}, {"m.room.*", "m.room.name", true}, {"m.*.*e", "m.room.name", true},
		{"*name", "m.room.name", true}, {"m.room.nam?", "m.room.name", false}, {"m.room", "m.room.name", false}, {"**", "x", true},
		{"a*a", "a", false}, {"*ab*ab", "abab", true}, {"*ab*ab", "ab", false},
		{"a*b*c", "aXbYc", true}, {"a*b*c", "abbc", true}, {"a*b*c", "acb", false}, {"**a**", "bab", true},
	} {
		if got := Type(c.pattern, c.typ); got != c.want {
			t.Errorf("Type(%q, %q) = %v", c.pattern, c.typ, got)
		}
	}
	if Type(strings.Repeat("a*", 200)+"b", strings.Repeat("a", 255)) {
		t.Error("matched")
	}
}
