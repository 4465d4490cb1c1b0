package auth

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"knock/roomserver/event"
)

func TestServerAllowed(t *testing.T) {
	v, _ := event.GetVersion("11")
	key := ""
	b := event.Builder{
		Version: v, Type: "m.room.server_acl", Sender: "@a:x", RoomID: "!r:x", StateKey: &key, Depth: 1,
		Content: json.RawMessage(`{"allow":["*"],"deny":["evil.example","*.evil.example","b?d.example"],"allow_ip_literals":false}`),
	}
	acl, err := b.Build(event.Signer{Server: "x", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32))})
	if err != nil {
		t.Fatal(err)
	}
	for server, want := range map[string]bool{
		"good.example": true, "good.example:8448": true, "evil.example": false, "EVIL.example:1": false, "a.evil.example": false,
		"notevil.example": true, "bad.example": false, "1.2.3.4": false, "1.2.3.4:80": false, "[::1]": false, "[::1]:8448": false,
	} {
		if got := ServerAllowed(acl, server); got != want {
			t.Errorf("%s: %v, want %v", server, got, want)
		}
	}
}
