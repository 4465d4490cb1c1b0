package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
)

// ErrNoSignature: the JSON has no signature of that server and key.
var ErrNoSignature = errors.New("event: no signature by this server and key")

// ErrBadSignature: the signature does not fit the JSON and the key.
var ErrBadSignature = errors.New("event: the signature does not match")

// Signer is a server's name and one of its signing keys.
type Signer struct {
	Server string
	KeyID  string // with its algorithm: "ed25519:auto"
	Key    ed25519.PrivateKey
}

// Sign returns a copy of the event with one more signature.
func (e *Event) Sign(s Signer) (*Event, error) {
	var buf [24]field
	list, _ := fieldsOf(buf[:0], e.json)
	b, err := s.addTo(e.json, e.v.redaction.appendRedacted(nil, e.json, list, e.typ, false))
	if err != nil {
		return nil, err
	}
	return e.withJSON(b)
}

// withJSON returns a copy of the event with other signatures.
func (e *Event) withJSON(b []byte) (*Event, error) {
	if len(b) > MaxSize {
		return nil, tooLarge("")
	}
	signed, err := FromStored(e.v, e.id, b)
	if err != nil {
		return nil, err
	}
	signed.redacted = e.redacted
	return signed, nil
}

// WithSignature returns a copy of the event with a signature that was made
// elsewhere, in base64. It is not checked.
func (e *Event) WithSignature(server, keyID, signature string) (*Event, error) {
	sig, err := decodeBase64(make([]byte, 0, 2*ed25519.SignatureSize), signature)
	if err != nil || len(sig) != ed25519.SignatureSize || !strings.HasPrefix(keyID, algorithm) {
		return nil, ErrBadSignature
	}
	return e.withJSON(putSignature(e.json, server, keyID, sig))
}

// WithSignaturesOf returns a copy of the event with the signatures of a server
// that another copy of it has and it lacks.
func (e *Event) WithSignaturesOf(other *Event, server string) (*Event, error) {
	var err error
	var keys [8]field
	own := lookup(lookup(other.json, "signatures"), server)
	ids, _ := fieldsOf(keys[:0], own)
	for _, k := range ids[:min(len(ids), maxSigned)] {
		id := keyText(own[k.name:k.nameTo])
		text, ok := stringValue(lookup(own, id))
		if _, has := stringValue(lookup(lookup(lookup(e.json, "signatures"), server), id)); has || !ok {
			continue
		}
		if e, err = e.WithSignature(server, id, text); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// maxSigned bounds the signatures that are taken from another copy.
const maxSigned = 8

// VerifySignature checks one signature of the event: ErrNoSignature,
// ErrBadSignature or nil. Whether the key may be used is the caller's to know.
func (e *Event) VerifySignature(server, keyID string, key ed25519.PublicKey) error {
	var buf [24]field
	list, _ := fieldsOf(buf[:0], e.json)
	tmp := scratch.Get().(*[]byte)
	defer scratch.Put(tmp)
	*tmp = e.v.redaction.appendRedacted((*tmp)[:0], e.json, list, e.typ, false)
	return verify(*tmp, lookup(e.json, "signatures"), server, keyID, key)
}

// SignatureServers returns the servers that must have signed the event before it
// may be looked at (server-server API, Validating hashes and signatures on
// received events): the sender's, unless it is an invite made from a third-party
// invite; in versions 1 and 2 also that in the event id; and the server that
// authorised a restricted join.
func (e *Event) SignatureServers() []string {
	servers := make([]string, 0, 2)
	add := func(id string) {
		if server := ServerOf(id); !slices.Contains(servers, server) {
			servers = append(servers, server)
		}
	}
	member := e.typ == "m.room.member"
	membership := ""
	if member {
		membership = e.ContentString("membership")
	}
	if membership != "invite" || e.ContentField("third_party_invite") == nil {
		add(e.sender)
	}
	if !e.v.HashIDs() {
		add(e.id)
	}
	if membership == "join" && e.v.Restricted {
		if user, ok := stringValue(e.ContentField("join_authorised_via_users_server")); ok {
			add(user)
		}
	}
	return servers
}

// Signed reports whether there is a signature of each server that must sign the
// event, right or wrong.
func (e *Event) Signed() bool {
	return !slices.ContainsFunc(e.SignatureServers(), func(server string) bool { return len(e.SignatureKeyIDs(server)) == 0 })
}

// SignJSON signs an object (appendices, Signing JSON) and returns its canonical
// form with the signature added to those it has.
func SignJSON(raw []byte, s Signer) ([]byte, error) {
	whole, err := canonicalObject(nil, raw, false, nil)
	if err != nil {
		return nil, err
	}
	return s.addTo(whole, unsignedForm(whole))
}

// VerifyJSON checks a signature of an object: ErrNoSignature, ErrBadSignature,
// nil, or why raw is no JSON object.
func VerifyJSON(raw []byte, server, keyID string, key ed25519.PublicKey) error {
	whole, err := canonicalObject(nil, raw, false, nil)
	if err != nil {
		return err
	}
	return verify(unsignedForm(whole), lookup(whole, "signatures"), server, keyID, key)
}

// SignatureKeyIDs returns the ids of the ed25519 keys with which a server claims
// to have signed the object. It is empty for what is no JSON object.
func SignatureKeyIDs(raw []byte, server string) []string {
	whole, err := canonicalObject(nil, raw, false, nil)
	if err != nil {
		return nil
	}
	return signatureKeyIDs(lookup(whole, "signatures"), server)
}

// unsignedForm is what signatures of a canonical object cover.
func unsignedForm(b []byte) []byte {
	var buf [24]field
	list, _ := fieldsOf(buf[:0], b)
	out := append(make([]byte, 0, len(b)), '{')
	for _, f := range list {
		if key := b[f.name:f.nameTo]; !keyIs(key, "signatures") && !keyIs(key, "unsigned") {
			out = append(append(out, b[f.name-1:f.end]...), ',')
		}
	}
	return closeObject(out)
}

// addTo signs covered and sets the signature in the canonical object whole.
func (s Signer) addTo(whole, covered []byte) ([]byte, error) {
	if len(s.Key) != ed25519.PrivateKeySize || !strings.HasPrefix(s.KeyID, algorithm) {
		return nil, errors.New("event: the signing key is not an ed25519 key")
	}
	return putSignature(whole, s.Server, s.KeyID, ed25519.Sign(s.Key, covered)), nil
}

// putSignature sets one signature in a canonical object.
func putSignature(whole []byte, server, keyID string, sig []byte) []byte {
	val := make([]byte, 0, 88)
	val = append(base64.RawStdEncoding.AppendEncode(append(val, '"'), sig), '"')

	all := lookup(whole, "signatures")
	if len(all) == 0 || all[0] != '{' {
		all = []byte("{}")
	}
	own := lookup(all, server)
	if len(own) == 0 || own[0] != '{' {
		own = []byte("{}")
	}
	return setMember(whole, "signatures", setMember(all, server, setMember(own, keyID, val)))
}

// algorithm is the only one that Matrix knows.
const algorithm = "ed25519:"

func verify(covered, signatures []byte, server, keyID string, key ed25519.PublicKey) error {
	encoded, ok := stringValue(lookup(lookup(signatures, server), keyID))
	if !ok || len(key) != ed25519.PublicKeySize {
		return ErrNoSignature
	}
	sig, err := decodeBase64(make([]byte, 0, 2*ed25519.SignatureSize), encoded)
	if err != nil || !ed25519.Verify(key, covered, sig) {
		return ErrBadSignature
	}
	return nil
}

func signatureKeyIDs(signatures []byte, server string) []string {
	own := lookup(signatures, server)
	var buf [8]field
	list, _ := fieldsOf(buf[:0], own)
	var ids []string
	for _, f := range list {
		if id := keyText(own[f.name:f.nameTo]); strings.HasPrefix(id, algorithm) {
			ids = append(ids, id)
		}
	}
	return ids
}
