package event

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/matrix-org/gomatrixserverlib"
)

// The specification's vectors (appendices, JSON Signing).
func TestSignJSONVectors(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                         `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`,
		`{ "two": "Two", "one": 1 }`: `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`,
	} {
		got, err := SignJSON([]byte(in), specSigner(t))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s", in, err, got)
		}
	}
}

// The specification's vectors (appendices, Event Signing). Its events lack what
// every event must have, so they are put together by hand.
func TestSignEventVectors(t *testing.T) {
	for in, want := range map[string][2]string{
		`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`: {
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos", "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"},
		`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`: {
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g", "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"},
	} {
		v := version(t, "1")
		b := hashed(t, v, []byte(in))
		if got, _ := stringValue(lookup(lookup(b, "hashes"), "sha256")); got != want[0] {
			t.Errorf("hash %s, want %s", got, want[0])
		}
		list, _ := fieldsOf(nil, b)
		typ, _ := stringValue(lookup(b, "type"))
		signed, err := specSigner(t).addTo(b, v.redaction.appendRedacted(nil, b, list, typ, false))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := stringValue(lookup(lookup(lookup(signed, "signatures"), "domain"), "ed25519:1")); got != want[1] {
			t.Errorf("signature %s, want %s", got, want[1])
		}
	}
}

func TestSignAndVerifyJSON(t *testing.T) {
	s := specSigner(t)
	other := Signer{"other", "ed25519:x", ed25519.NewKeyFromSeed(make([]byte, 32))}
	signed, err := SignJSON([]byte(`{"a\"b":1.5,"unsigned":{"x":1},"c":"\u00e9"}`), s)
	if err != nil {
		t.Fatal(err)
	}
	if signed, err = SignJSON(signed, other); err != nil {
		t.Fatal(err)
	}
	if want := `{"a\"b":1.5,"c":"é","signatures":{"domain":{`; !strings.HasPrefix(string(signed), want) {
		t.Errorf("%s", signed)
	}
	changed := setMember(signed, "unsigned", []byte(`2`))
	for what, c := range map[string]struct {
		raw         []byte
		server, key string
		pub         ed25519.PublicKey
		want        error
	}{
		"first":       {signed, "domain", "ed25519:1", public(s), nil},
		"second":      {signed, "other", "ed25519:x", public(other), nil},
		"unsigned":    {changed, "domain", "ed25519:1", public(s), nil},
		"other key":   {signed, "domain", "ed25519:1", public(other), ErrBadSignature},
		"no such key": {signed, "domain", "ed25519:2", public(s), ErrNoSignature},
		"no server":   {signed, "Domain", "ed25519:1", public(s), ErrNoSignature},
		"no key":      {signed, "domain", "ed25519:1", nil, ErrNoSignature},
		"changed":     {setMember(signed, "c", []byte(`1`)), "domain", "ed25519:1", public(s), ErrBadSignature},
		"list":        {[]byte(`[]`), "domain", "ed25519:1", public(s), ErrFormat},
		"twice":       {[]byte(`{"a":1,"a":2}`), "domain", "ed25519:1", public(s), ErrDuplicateKey},
	} {
		if err := VerifyJSON(c.raw, c.server, c.key, c.pub); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := SignatureKeyIDs(signed, "other"); !slices.Equal(got, []string{"ed25519:x"}) {
		t.Errorf("keys %q", got)
	}
}

func TestSignEvent(t *testing.T) {
	other := Signer{"other", "ed25519:x", ed25519.NewKeyFromSeed(make([]byte, 32))}
	for _, id := range Versions() {
		e := build(t, version(t, id), "m.room.member", ptr("@bob:other"), `{"membership":"invite","x":1}`)
		twice, err := e.Sign(other)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.SignatureKeyIDs("other")) != 0 || !slices.Equal(twice.SignatureKeyIDs("other"), []string{"ed25519:x"}) {
			t.Errorf("version %s: %s", id, twice.JSON())
		}
		parsed, err := Parse(e.V(), twice.JSON())
		if err != nil || parsed.Redacted() || parsed.EventID() != e.EventID() {
			t.Fatalf("version %s: %v", id, err)
		}
		for _, s := range []Signer{specSigner(t), other} {
			if err := parsed.VerifySignature(s.Server, s.KeyID, public(s)); err != nil {
				t.Errorf("version %s: %s: %v", id, s.Server, err)
			}
			if err := gomatrixserverlib.VerifyJSON(s.Server, gomatrixserverlib.KeyID(s.KeyID), public(s), parsed.Redact().JSON()); err != nil {
				t.Errorf("version %s: %s, by the library: %v", id, s.Server, err)
			}
		}
	}
}

// sign-1: signing and unsigned leave auth events and room id alone.
func TestSignedPDUKeepsItsRoom(t *testing.T) {
	v := version(t, "12")
	create := build(t, v, "m.room.create", ptr(""), `{"room_version":"12"}`)
	join := build(t, v, "m.room.member", ptr("@alice:domain"), `{"membership":"join"}`)
	for _, e := range []*Event{create, join} {
		s := specSigner(t)
		signed := e.PDU().Sign("other", "ed25519:x", s.Key)
		with, err := signed.SetUnsigned(map[string]int{"age": 1})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []gomatrixserverlib.PDU{signed, with} {
			if !slices.Equal(p.AuthEventIDs(), e.AuthEventIDs()) || p.RoomID() != e.RoomID() || p.EventID() != e.EventID() {
				t.Errorf("%s: %v %v", e.Type(), p.AuthEventIDs(), p.RoomID())
			}
		}
		if !json.Valid(with.JSON()) || string(with.Unsigned()) != `{"age":1}` || e.PDU().Unsigned() != nil {
			t.Errorf("%s", with.JSON())
		}
	}
	if got := create.AuthEventIDs(); len(got) != 2 || create.CreateID() != create.EventID() {
		t.Errorf("auth events of the create event: %v", got)
	}
	if got := join.AuthEventIDs(); len(got) != 3 || got[0] != "$"+join.Room()[1:] {
		t.Errorf("auth events: %v", got)
	}
}

func TestSignatureServers(t *testing.T) {
	for what, c := range map[string]struct {
		version, typ, content string
		want                  []string
	}{
		"message":                    {"11", "m.room.message", `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, []string{"domain"}},
		"restricted join":            {"11", "m.room.member", `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, []string{"domain", "other"}},
		"authorised by its own":      {"11", "m.room.member", `{"membership":"join","join_authorised_via_users_server":"@b:domain"}`, []string{"domain"}},
		"no restricted joins yet":    {"7", "m.room.member", `{"membership":"join","join_authorised_via_users_server":"@b:other"}`, []string{"domain"}},
		"restricted, but no join":    {"11", "m.room.member", `{"membership":"leave","join_authorised_via_users_server":"@b:other"}`, []string{"domain"}},
		"invite":                     {"11", "m.room.member", `{"membership":"invite"}`, []string{"domain"}},
		"third-party invite":         {"11", "m.room.member", `{"membership":"invite","third_party_invite":{}}`, nil},
		"third-party invite, old":    {"2", "m.room.member", `{"membership":"invite","third_party_invite":{}}`, []string{"domain"}},
		"third-party, but no invite": {"11", "m.room.member", `{"membership":"join","third_party_invite":{}}`, []string{"domain"}},
		"nonsense":                   {"11", "m.room.member", `{"membership":1,"join_authorised_via_users_server":[]}`, []string{"domain"}},
	} {
		e := build(t, version(t, c.version), c.typ, ptr("@b:other"), c.content)
		if got := e.SignatureServers(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", what, got)
		}
	}
	v1 := build(t, version(t, "1"), "m.x", nil, `{}`)
	raw := setMember(v1.JSON(), "event_id", []byte(`"$a:third"`))
	e, err := FromStored(v1.V(), "$a:third", raw)
	if err != nil || !slices.Equal(e.SignatureServers(), []string{"domain", "third"}) {
		t.Errorf("%v, %v", e.SignatureServers(), err)
	}
}
