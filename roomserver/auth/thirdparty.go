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
	if !signedByOne(signed, inviteKeys(issued)) {
		return refuse("no key of the third-party invite signed its redemption")
	}
	return nil
}

// field looks a key up in an object; other values have no fields.
func field(object gjson.Result, key string) gjson.Result {
	if !object.IsObject() {
		return gjson.Result{}
	}
	return object.Get(key)
}

// inviteKeys reads the public keys of an m.room.third_party_invite.
func inviteKeys(issued *event.Event) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(value gjson.Result) {
		if key, ok := DecodeKey(value.Str); ok && len(keys) < maxInviteKeys {
			keys = append(keys, key)
		}
	}
	content := gjson.ParseBytes(issued.ContentJSON())
	add(content.Get("public_key"))
	for _, entry := range content.Get("public_keys").Array() {
		add(field(entry, "public_key"))
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

// signedByOne says whether any signature of the object is by any of the keys.
func signedByOne(signed gjson.Result, keys []ed25519.PublicKey) bool {
	found, tried := false, 0
	field(signed, "signatures").ForEach(func(server, byKey gjson.Result) bool {
		if !byKey.IsObject() {
			return true
		}
		byKey.ForEach(func(keyID, _ gjson.Result) bool {
			if !strings.HasPrefix(keyID.String(), "ed25519:") {
				return true
			}
			for _, key := range keys {
				found = found || event.VerifyJSON([]byte(signed.Raw), server.String(), keyID.String(), key) == nil
			}
			tried++
			return !found && tried < maxInviteSignatures
		})
		return !found && tried < maxInviteSignatures
	})
	return found
}
