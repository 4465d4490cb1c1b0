package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"

	"knock/roomserver/event"
)

func TestThirdPartyInvite(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	public := base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))
	sign := func(content string, keyID string) string {
		signed, err := event.SignJSON([]byte(content), event.Signer{Server: "id.example", KeyID: keyID, Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return `{"membership":"invite","third_party_invite":{"display_name":"b","signed":` + string(signed) + `}}`
	}
	good := sign(`{"mxid":"`+bob+`","token":"tok"}`, "ed25519:0")
	single, list := `{"public_key":"`+public+`"}`, `{"public_keys":[{},5,{"public_key":"`+public+`"}]}`
	for _, c := range []struct {
		name, issued, issuer, content string
		membership                    string
		allowed                       bool
	}{
		{"public_key", single, alice, good, "", true},
		{"public_keys", list, alice, good, "", true},
		{"padded key", `{"public_key":"` + public + `="}`, alice, good, "", true},
		{"sender need not be joined", single, dave, good, "", true},
		{"banned", single, alice, good, Ban, false},
		{"joined is not looked at", single, alice, good, Join, true},
		{"no signed", single, alice, `{"membership":"invite","third_party_invite":{}}`, "", false},
		{"not an object", single, alice, `{"membership":"invite","third_party_invite":5}`, "", false},
		{"null", single, alice, `{"membership":"invite","third_party_invite":null}`, "", false},
		{"no token", single, alice, sign(`{"mxid":"`+bob+`"}`, "ed25519:0"), "", false},
		{"another user", single, alice, sign(`{"mxid":"`+carol+`","token":"tok"}`, "ed25519:0"), "", false},
		{"another token", single, alice, sign(`{"mxid":"`+bob+`","token":"kot"}`, "ed25519:0"), "", false},
		{"another algorithm", single, alice, strings.Replace(good, "ed25519:0", "rsa:0", 1), "", false},
		{"another key", `{"public_key":"` + strings.Repeat("A", 43) + `"}`, alice, good, "", false},
		{"no key", `{}`, alice, good, "", false},
		{"forged", single, alice, strings.Replace(good, `"token":"tok"`, `"more":1,"token":"tok"`, 1), "", false},
	} {
		for _, v := range []string{"1", "6", "11", "12"} {
			r := newTestRoom(t, v)
			if c.membership != "" {
				r.member(bob, c.membership)
			}
			r.put("m.room.third_party_invite", "tok", c.issuer, c.issued)
			if err := Check(r.build("m.room.member", bob, c.issuer, c.content), r); (err == nil) != c.allowed {
				t.Errorf("v%s %s: %v, want allowed = %v", v, c.name, err, c.allowed)
			}
			if err := Check(r.build("m.room.member", bob, carol, c.content), r); err == nil {
				t.Errorf("v%s %s: redeemed by somebody who did not issue it", v, c.name)
			}
		}
	}
}
