package event

import (
	"strings"
	"testing"
)

func TestIDGrammar(t *testing.T) {
	hash := "CD66HAED5npg6074c6pDtLKalHjVfYb2q4Q3LZgrW6o"
	long := strings.Repeat("a", 300)
	for _, c := range []struct {
		what  string
		check func(string) bool
		good  []string
		bad   []string
	}{
		{"server name", ValidServerName,
			[]string{"matrix.org", "matrix.org:8888", "1.2.3.4", "1.2.3.4:1234", "[1234:5678::abcd]", "[1234:5678::abcd]:5678", "localhost", "A-b.C"},
			[]string{"", ":80", "a:", "a:123456", "a:99999", "a:8x", "a b", "a/b", "a_b", "[::1", "[::1]x", "[::1]:", "[fe80::1%eth0]", "[1.2.3.4]", "::1", "é.org", "a:1:2", long}},
		{"user id", ValidUserID,
			[]string{"@a:b", "@:b", "@Ünï côdé\n:b", "@a!#$:b:80", "@a:[::1]:1"},
			[]string{"", "@", "@a", "a:b", "@a:", "@a\x00:b", "@a:b:c", "@\xff:b", "!a:b", "@" + long + ":b"}},
		{"compliant user id", CompliantUserID, []string{"@a:b", "@A!:b"}, []string{"@:b", "@a b:b", "@é:b", "@a\x7f:b", "a"}},
		{"localpart", ValidLocalpart, []string{"a", "a.b_c=d-e/f+9"}, []string{"", "A", "a b", "é", "a:b"}},
		{"room id", ValidRoomID,
			[]string{"!a:b", "!" + hash, "!a b:b"},
			[]string{"", "!", "!x", "!a:!!!", "!:b", "!" + hash + "A", "!" + hash[:42] + "p", "#a:b", "!a\x00:b"}},
		{"alias", ValidAlias, []string{"#a:b", "#é é:b", "#:b"}, []string{"", "#", "#a", "a:b", "#a:b c"}},
		{"event id", ValidEventID, []string{"$a:b", "$" + hash, "$x"}, []string{"", "$", "a", "$\x00", "$" + long}},
	} {
		for _, id := range c.good {
			if !c.check(id) {
				t.Errorf("%s: %q is refused", c.what, id)
			}
		}
		for _, id := range c.bad {
			if c.check(id) {
				t.Errorf("%s: %q is accepted", c.what, id)
			}
		}
	}
}

func TestIDParts(t *testing.T) {
	for id, want := range map[string][2]string{
		"": {"", ""}, "@": {"", ""}, "@a:b:1": {"a", "b:1"}, "!hash": {"hash", ""}, "@:b": {"", "b"},
	} {
		if local, server := LocalpartOf(id), ServerOf(id); local != want[0] || server != want[1] {
			t.Errorf("%q: %q, %q", id, local, server)
		}
	}
}

func TestIDChecksAllocateNothing(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		_ = ValidUserID("@alice:example.org:8448") && ValidRoomID("!a:[::1]:80") && ValidAlias("#x:y") && ServerOf("@a:b") == "b"
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHashIDs(t *testing.T) {
	for _, id := range []string{"3", "4", "12"} {
		v := version(t, id)
		h := [32]byte{0: 0xfb, 1: 0xff, 31: 0xfe}
		if got, ok := HashOf(v, IDOf(v, h)); !ok || got != h {
			t.Errorf("version %s: %x, %v", id, got, ok)
		}
	}
	if _, ok := HashOf(version(t, "4"), IDOf(version(t, "3"), [32]byte{0xff, 0xff})); ok {
		t.Error("the alphabets are mixed up")
	}
	if _, ok := HashOf(version(t, "1"), "$a:b"); ok {
		t.Error("version 1 has hashes as ids")
	}
}
