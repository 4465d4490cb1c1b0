package event

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/matrix-org/gomatrixserverlib"
)

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{
		`{"b":[1,-0,1.50,1e10,{"\u0061":"\/\ud83d\ude00"}],"a":null}`, `{"a\"b":1,"c\\d":2}`, `{"a":-0.5}`, ` [ ] `, `"\u0000"`, `{"a":1,"a":2}`, `[[[[1e400]]]]`, "{\"\xff\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		out, err := Canonical(nil, raw)
		strict, strictErr := CanonicalStrict(nil, raw)
		if err != nil {
			if strictErr == nil {
				t.Fatalf("strict accepts what lenient refuses: %q", raw)
			}
			return
		}
		if !json.Valid(raw) || !json.Valid(out) || !utf8.Valid(out) {
			t.Fatalf("%q became %q", raw, out)
		}
		if strictErr == nil && !bytes.Equal(strict, out) {
			t.Fatalf("strict %q, lenient %q", strict, out)
		}
		again, err := Canonical(nil, out)
		if err != nil || !bytes.Equal(again, out) {
			t.Fatalf("%q became %q, %v", out, again, err)
		}
		var a, b any
		if json.Unmarshal(raw, &a) == nil && json.Unmarshal(out, &b) == nil {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			if !bytes.Equal(bytes.ReplaceAll(x, []byte("-0"), []byte("0")), bytes.ReplaceAll(y, []byte("-0"), []byte("0"))) {
				t.Fatalf("%q means %s, %q means %s", raw, x, out, y)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, id := range Versions() {
		v := version(f, id)
		for _, typ := range []string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.redaction"} {
			e := build(f, v, typ, ptr(""), `{"membership":"invite","third_party_invite":{"signed":{}},"users":{"@a:b":1},"redacts":"$a:b"}`)
			f.Add(id, []byte(e.JSON()))
		}
	}
	f.Fuzz(func(t *testing.T, id string, raw []byte) {
		v, ok := GetVersion(id)
		if !ok {
			return
		}
		e, err := Parse(v, raw)
		if err != nil {
			return
		}
		again, err := Parse(v, e.JSON())
		if err != nil || again.EventID() != e.EventID() || again.Room() != e.Room() || !bytes.Equal(again.JSON(), e.JSON()) {
			t.Fatalf("%s: %v: %s", id, err, e.JSON())
		}
		describe(t, e)
		r := e.Redact()
		if r.EventID() != e.EventID() || r.Hash() != e.Hash() || !bytes.Equal(r.Redact().JSON(), r.JSON()) {
			t.Fatalf("%s: %s redacted to %s", id, e.JSON(), r.JSON())
		}
		if !json.Valid(e.AppendClient(nil, ClientOptions{RoomID: true})) || !json.Valid(e.AppendStripped(nil)) || !json.Valid(e.Content()) {
			t.Fatalf("not JSON: %s", e.AppendClient(nil, ClientOptions{}))
		}
		use(e.PDU())
		e.SignatureServers()
		_ = e.VerifySignature("domain", "ed25519:1", make([]byte, 32))
	})
}

// use calls what the library calls.
func use(p gomatrixserverlib.PDU) {
	_, _ = p.JoinRule()
	_, _ = p.HistoryVisibility()
	_, _ = p.PowerLevels()
	_ = p.RoomID().String()
	p.AuthEventIDs()
	p.Redact()
}
