package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"github.com/tidwall/gjson"

	"knock/roomserver/event"
)

// An m.room.third_party_invite holds one or two keys and its redemption one signature. The product of both is checked,
// so both are bounded.
const (
	maxInviteKeys       = 16
	maxInviteSignatures = 16
)

// thirdPartyInvite is the rule for an invite that redeems an m.room.third_party_invite.
func (c *check) thirdPartyInvite(target string, invite gjson.Result) error {
	if c.membership(target) == Ban {
		return refuse("the user is banned")
	}
	signed := field(invite, "signed")
	mxid, token := field(signed, "mxid"), field(signed, "token")
	if mxid.Type != gjson.String || token.Type != gjson.String {
		return refuse("the third-party invite is not signed for a user and token")
	}
	if mxid.Str != target {
		return refuse("the third-party invite is signed for another user")
	}
	issued := c.s.Lookup(typeThirdPartyInvite, token.Str)
	if issued == nil {
		return refuse("the room issued no third-party invite with this token")
	}
	if issued.Sender() != c.e.Sender() {
		return refuse("the third-party invite was issued by somebody else")
	}
	if _, ok := signedByOne(signed, inviteKeys(issued)); !ok {
		return refuse("no key of the third-party invite signed its redemption")
	}
	return nil
}

// InviteKey is a public key of an m.room.third_party_invite, as it is written there, and the URL at which to ask whether
// it may still sign; "" when it always may.
type InviteKey struct {
	Public, ValidityURL string
	key                 ed25519.PublicKey
}

// InviteSigner returns the key of an m.room.third_party_invite that signed the identity server's word about who has the
// address.
func InviteSigner(issued *event.Event, signed []byte) (InviteKey, bool) {
	return signedByOne(gjson.ParseBytes(signed), inviteKeys(issued))
}

// field looks a key up in an object; other values have no fields.
func field(object gjson.Result, key string) gjson.Result {
	if !object.IsObject() {
		return gjson.Result{}
	}
	return object.Get(key)
}

// inviteKeys reads the public keys of an m.room.third_party_invite.
func inviteKeys(issued *event.Event) []InviteKey {
	var keys []InviteKey
	add := func(entry gjson.Result) {
		public := field(entry, "public_key").Str
		if key, ok := DecodeKey(public); ok && len(keys) < maxInviteKeys {
			keys = append(keys, InviteKey{Public: public, ValidityURL: field(entry, "key_validity_url").Str, key: key})
		}
	}
	content := gjson.ParseBytes(issued.ContentJSON())
	add(content)
	for _, entry := range content.Get("public_keys").Array() {
		add(entry)
	}
	return keys
}

// DecodeKey reads an ed25519 public key from base64, padded or not, of both alphabets: identity and policy servers
// publish all of them.
func DecodeKey(s string) (ed25519.PublicKey, bool) {
	s = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(s, "="))
	key, err := base64.RawStdEncoding.DecodeString(s)
	return key, err == nil && len(key) == ed25519.PublicKeySize
}

// signedByOne finds a key that made a signature of the object.
func signedByOne(signed gjson.Result, keys []InviteKey) (by InviteKey, found bool) {
	tried := 0
	field(signed, "signatures").ForEach(func(server, byKey gjson.Result) bool {
		if !byKey.IsObject() {
			return true
		}
		byKey.ForEach(func(keyID, _ gjson.Result) bool {
			if !strings.HasPrefix(keyID.String(), "ed25519:") {
				return true
			}
			for _, k := range keys {
				if event.VerifyJSON([]byte(signed.Raw), server.String(), keyID.String(), k.key) == nil {
					by, found = k, true
					return false
				}
			}
			tried++
			return !found && tried < maxInviteSignatures
		})
		return !found && tried < maxInviteSignatures
	})
	return by, found
}
