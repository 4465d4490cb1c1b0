package client

import (
	"strings"
	"testing"
)

// FuzzDelegation reads what hosts say about their delegation.
func FuzzDelegation(f *testing.F) {
	for _, s := range []string{`{"m.server":"a.test:443"}`, `{"m.server":"[::1]:8448"}`, `{"m.server":7}`, `{"m.server":"a\u0000b"}`, `[`,
		`{"m.server":"` + strings.Repeat("a.", 200) + `"}`, `{"m.server":"a.test:99999"}`, `{"m.server":"a.test/path"}`, `{"m.server":"u@a.test"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		name, err := parseDelegation(body)
		if err != nil {
			return
		}
		if name.host == "" || strings.ContainsAny(name.host, "/@?#\\ \x00") {
			t.Errorf("%q leads to host %q", body, name.host)
		}
	})
}
