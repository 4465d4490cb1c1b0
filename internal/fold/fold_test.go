package fold

import (
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"José  ÀÉ": "jose ae", "ＡＢＣ": "abc", "Straße": "strasse", "ﬁne": "fine", "か\u3099": "が", "ｶﾞ": "ガ", "김철수": "김철수", "  ": "", "Ёлка": "елка", "名前": "名前", "a\tb": "a b",
		" Plain  TEXT\n": "plain text", "臺灣": "臺灣",
	} {
		if got := Text(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Folded text is valid and stays as it is when folded again.
func FuzzText(f *testing.F) {
	f.Add("ＡＢＣ ﬁne ǅ")
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		once := Text(text)
		if !utf8.ValidString(once) {
			t.Errorf("%q becomes %q", text, once)
		}
	})
}
