package e2ee

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"knock/internal/matrixerr"
)

// Bounds of signed objects.
const (
	maxObject     = 64 << 10 // bytes
	maxSignatures = 256      // on one object
)

// signatures is user id → key id → signature.
type signatures map[string]map[string]string

// signed is a JSON object with signatures: device keys, one-time keys and cross-signing keys have this form. Unsigned
// data is left out.
type signed struct {
	fields     map[string]json.RawMessage
	signatures signatures
}

// parseSigned reads an object and checks the shape of its signatures. what names it in errors (M_BAD_JSON).
func parseSigned(raw []byte, what string) (o signed, err error) {
	if len(raw) > maxObject {
		return o, matrixerr.BadJSON(what + " may have at most 65536 bytes")
	}
	if !utf8.Valid(raw) || json.Unmarshal(raw, &o.fields) != nil || o.fields == nil {
		return o, matrixerr.BadJSON(what + " must be a JSON object")
	}
	if sigs, ok := o.fields["signatures"]; ok && json.Unmarshal(sigs, &o.signatures) != nil {
		return o, matrixerr.BadJSON(what + " has signatures of the wrong shape")
	}
	n := 0
	for _, byKey := range o.signatures {
		n += len(byKey)
	}
	if n > maxSignatures {
		return o, matrixerr.BadJSON(what + " has more than 256 signatures")
	}
	delete(o.fields, "signatures")
	delete(o.fields, "unsigned")
	return o, nil
}

// encode writes the object with its signatures.
func (o signed) encode() json.RawMessage {
	fields := o.fields
	if len(o.signatures) > 0 {
		fields = maps.Clone(fields)
		fields["signatures"] = encode(o.signatures)
	}
	return encode(fields)
}

// encode is json.Marshal without escapes for HTML. The values that are given to it can always be encoded.
func encode(v any) json.RawMessage {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}

// same reports whether two objects differ in nothing but signatures.
func (o signed) same(p signed) bool {
	if len(o.fields) != len(p.fields) {
		return false
	}
	for name, raw := range o.fields {
		other, ok := p.fields[name]
		if !ok || !sameJSON(raw, other) {
			return false
		}
	}
	return true
}

func sameJSON(a, b json.RawMessage) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := decodeNumbers(a)
	y, errY := decodeNumbers(b)
	return errX == nil && errY == nil && reflect.DeepEqual(x, y)
}

func decodeNumbers(raw []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return v, dec.Decode(&v)
}

// sign adds a signature and reports whether it is new.
func (o *signed) sign(userID, keyID, signature string) bool {
	if o.signatures[userID][keyID] == signature {
		return false
	}
	all := signatures{}
	for user, byKey := range o.signatures {
		all[user] = maps.Clone(byKey)
	}
	if all[userID] == nil {
		all[userID] = map[string]string{}
	}
	all[userID][keyID] = signature
	o.signatures = all
	return true
}

// only keeps the signatures of one user.
func (o *signed) only(userID string) {
	if byKey, ok := o.signatures[userID]; ok {
		o.signatures = signatures{userID: byKey}
		return
	}
	o.signatures = nil
}

// text is a member that must be a string.
func (o signed) text(name string) (string, bool) {
	var s *string
	if json.Unmarshal(o.fields[name], &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// publics is the "keys" member: "algorithm:id" → key.
func (o signed) publics() (map[string]string, bool) {
	var keys map[string]string
	if json.Unmarshal(o.fields["keys"], &keys) != nil || keys == nil || len(keys) > 64 {
		return nil, false
	}
	return keys, true
}

// parseDeviceKeys reads the identity keys that a device publishes of itself (Client-Server API, "Device keys").
func parseDeviceKeys(raw []byte, userID, deviceID string) (signed, error) {
	o, err := parseSigned(raw, "device_keys")
	if err != nil {
		return o, err
	}
	if id, ok := o.text("user_id"); !ok || id != userID {
		return o, matrixerr.InvalidParam("user_id in device_keys must be your own user id")
	}
	if id, ok := o.text("device_id"); !ok || id != deviceID {
		return o, matrixerr.InvalidParam("device_id in device_keys must be the id of the device that uploads them")
	}
	var algorithms []string
	if json.Unmarshal(o.fields["algorithms"], &algorithms) != nil || algorithms == nil {
		return o, matrixerr.BadJSON("device_keys needs a list of algorithms")
	}
	keys, ok := o.publics()
	if !ok {
		return o, matrixerr.BadJSON("keys in device_keys must map key ids to keys")
	}
	for id := range keys {
		if _, of, ok := strings.Cut(id, ":"); !ok || of != deviceID {
			return o, matrixerr.InvalidParam("Each key id in device_keys must be an algorithm, a colon and the device id")
		}
	}
	return o, nil
}

// usage is what a cross-signing key is for.
type usage int64

const (
	master usage = 1 + iota
	selfSigning
	userSigning
)

var usageNames = [...]string{master: "master", selfSigning: "self_signing", userSigning: "user_signing"}

func (u usage) String() string { return usageNames[u] }

// crossKey is a cross-signing key; public is the key in unpadded base64.
type crossKey struct {
	signed
	public string
}

// parseCrossKey reads a cross-signing key (Client-Server API, "Cross-signing").
func parseCrossKey(raw []byte, userID string, use usage) (k crossKey, err error) {
	what := "The " + strings.ReplaceAll(use.String(), "_", "-") + " key"
	if k.signed, err = parseSigned(raw, what); err != nil {
		return k, err
	}
	if id, ok := k.text("user_id"); !ok || id != userID {
		return k, matrixerr.InvalidParam(what + " must be of your own user id")
	}
	var uses []string
	if json.Unmarshal(k.fields["usage"], &uses) != nil || !slices.Contains(uses, use.String()) {
		return k, matrixerr.InvalidParam(what + " must have its usage")
	}
	keys, _ := k.publics()
	if len(keys) != 1 {
		return k, matrixerr.InvalidParam(what + " must be exactly one key")
	}
	for id, public := range keys {
		if _, ok := publicKey(public); !ok || id != ed25519ID(public) {
			return k, matrixerr.InvalidParam(what + ` must be an ed25519 key under the id "ed25519:" and the key itself`)
		}
		k.public = public
	}
	return k, nil
}

func ed25519ID(id string) string { return "ed25519:" + id }

func publicKey(text string) ([]byte, bool) {
	key, err := base64.RawStdEncoding.DecodeString(text)
	return key, err == nil && len(key) == 32
}
