package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// The seed, server and key of the specification's test vectors.
func specSigner(t testing.TB) Signer {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return Signer{"domain", "ed25519:1", ed25519.NewKeyFromSeed(seed)}
}

func public(s Signer) ed25519.PublicKey { return s.Key.Public().(ed25519.PublicKey) }

func version(t testing.TB, id string) *Version {
	t.Helper()
	v, ok := GetVersion(id)
	if !ok {
		t.Fatalf("no room version %s", id)
	}
	return v
}

func ptr(s string) *string { return &s }

// ref is a well-formed event id of the version.
func ref(v *Version, fill byte) string {
	if !v.HashIDs() {
		return "$" + strings.Repeat(string(rune('a'+fill%26)), 8) + ":domain"
	}
	var h [32]byte
	for i := range h {
		h[i] = fill
	}
	return IDOf(v, h)
}

func roomOf(v *Version) string {
	if v.DomainlessRoomIDs {
		return "!" + ref(v, 7)[1:]
	}
	return "!room:domain"
}

func build(t testing.TB, v *Version, typ string, key *string, content string) *Event {
	t.Helper()
	b := Builder{
		Version: v, Type: typ, Sender: "@alice:domain", RoomID: roomOf(v), StateKey: key,
		Content: json.RawMessage(content), PrevEvents: []string{ref(v, 1)},
		AuthEvents: []string{ref(v, 2), ref(v, 3)}, Depth: 5, TS: 1700000000000,
	}
	if v.DomainlessRoomIDs && typ == "m.room.create" {
		b.RoomID = ""
	}
	e, err := b.Build(specSigner(t))
	if err != nil {
		t.Fatalf("version %s: %v", v.ID, err)
	}
	return e
}
