package mail

import "testing"

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{"Alice@Example.COM": "alice@example.com", "Strauß@example.com": "strauss@example.com",
		"用户@例子.中国": "用户@例子.中国", "a+b@example.com": "a+b@example.com"} {
		if got, err := Canonical(in); got != want || err != nil {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "a", "a@", "@b", "<a@b>", "A <a@b>", "a@b\r\nBcc: c@d", "a@b,c@d"} {
		if got, err := Canonical(in); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// FuzzCanonical holds that what is stored is found again, and that e-mails can be sent to it.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"Alice@Example.COM", "Strauß@example.com", `"a b"@example.com`, "İ@example.com", "a@[127.0.0.1]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := Canonical(s)
		if err != nil {
			return
		}
		if again, err := Canonical(once); again != once || err != nil {
			t.Errorf("%q becomes %q, which becomes %q, %v", s, once, again, err)
		}
	})
}
