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
		`{"b":[1,-0,1.50,1e10,{"\u0061":"\/\ud83d\ude00"}],"a":null}`, `{"a\"b":1,"c\\d":2}`, `{"a":-0.5}`, ` [ ] `, `"\u0000"`, `{"a":1,"a":2}`, `{"b":{"x":1,"x":[{"c":1,"c":2}]},"a":[{"x":1,"x":2}],"b":3,"a":{"z":0,"y":[1,{"d":1,"d":{}}]}}`, `[[[[1e400]]]]`, "{\"\xff\":1}",
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
			checkLoose(t, raw)
			return
		}
		if loose, err := CanonicalLoose(nil, raw); err != nil || !bytes.Equal(loose, out) {
			t.Fatalf("loose %q, %v, else %q", loose, err, out)
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

// checkLoose: what CanonicalLoose makes of what is not canonical is, and means the same.
func checkLoose(t *testing.T, raw []byte) {
	loose, err := CanonicalLoose(nil, raw)
	if err != nil {
		return
	}
	if again, err := Canonical(nil, loose); err != nil || !bytes.Equal(again, loose) {
		t.Fatalf("%q became %q, %v", raw, loose, err)
	}
	var a, b any
	if json.Unmarshal(raw, &a) == nil && json.Unmarshal(loose, &b) == nil {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if !bytes.Equal(bytes.ReplaceAll(x, []byte("-0"), []byte("0")), bytes.ReplaceAll(y, []byte("-0"), []byte("0"))) {
			t.Fatalf("%q means %s, %q means %s", raw, x, loose, y)
		}
	}
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
