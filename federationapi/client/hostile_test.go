package client

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestAKeyTwice encodes what a client wrote with a key twice.
func TestAKeyTwice(t *testing.T) {
	got, err := encode(&Transaction{Origin: "a.test", EDUs: []EDU{{Type: "m.direct_to_device", Content: json.RawMessage(`{"b":1,"a":1,"b":2}`)}}})
	if err != nil || !strings.Contains(string(got), `{"a":1,"b":2}`) {
		t.Errorf("%s, %v", got, err)
	}
}

// TestUnsendable tells what cannot be sent from a server that is down.
func TestUnsendable(t *testing.T) {
	c := New(Options{ServerName: "a.test", Lookup: Names{}})
	defer c.Close()
	var e *Error
	_, err := c.SendTransaction(t.Context(), "b.test", "1", &Transaction{EDUs: []EDU{{Content: json.RawMessage(`"\ud800"`)}}})
	if !errors.As(err, &e) || e.Kind != KindUnsent {
		t.Error(err)
	}
}

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
