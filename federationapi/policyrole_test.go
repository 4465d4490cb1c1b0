package federationapi_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/roomserver"
	"knock/roomserver/event"
)

// TestSigningAsPolicyServer shows events to a policy server that other servers made, honest and not.
func TestSigningAsPolicyServer(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a, b := w.add("a.test"), w.add("b.test")
		if status, answer := b.call(a, "POST", "/_matrix/policy/v1/sign", `{}`); status != 404 || gjson.Get(answer, "errcode").Str != "M_UNRECOGNIZED" {
			t.Errorf("where the role is not served: %d %s", status, answer)
		}
		key := ed25519.NewKeyFromSeed([]byte(strings.Repeat("p", 32)))
		a.rooms.PolicyRole = roomserver.NewPolicyRole(a.name, key, func(_ context.Context, e *event.Event) (string, error) {
			if strings.Contains(e.ContentString("body"), "spam") {
				return "spam", nil
			}
			return "", nil
		})
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		must(t, b.join(room, b.user("bob"), a))
		sign := func(e string) (string, error) {
			return a.rooms.SignAsPolicyServer(t.Context(), b.name, []byte(e))
		}
		good := b.forge(room, b.user("bob"), "m.room.message", `{"body":"hello"}`, b.signer)
		signature, err := sign(string(good.JSON()))
		must(t, err)
		signed, err := good.WithSignature(a.name, "ed25519:policy_server", signature)
		must(t, err)
		must(t, signed.VerifySignature(a.name, "ed25519:policy_server", key.Public().(ed25519.PublicKey)))

		bad := b.forge(room, b.user("bob"), "m.room.message", `{"body":"spam"}`, b.signer)
		var word *roomserver.PolicyRefusal
		if _, err := sign(string(bad.JSON())); !errors.As(err, &word) || word.Answer.Code != "M_FORBIDDEN" || word.Answer.HTTP != 400 {
			t.Errorf("spam: %v", err)
		}
		for name, e := range map[string]string{
			// It would be signed by the hash of what it does not show.
			"another content than its hash is of": strings.Replace(string(bad.JSON()), `"spam"`, `"ham"`, 1),
			"m.room.policy":                       string(b.forgeState(room, b.user("bob"), "m.room.policy", `{}`).JSON()),
			"no event":                            fmt.Sprintf(`{"room_id":%q,"type":"m.room.message"}`, room),
		} {
			if _, err := sign(e); !errors.Is(err, roomserver.ErrBadRequest) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, e := range map[string]string{"no room": `{}`, "an unknown room": `{"room_id":"!none:a.test"}`} {
			if _, err := sign(e); !errors.Is(err, roomserver.ErrUnknownRoom) {
				t.Errorf("%s: %v", name, err)
			}
		}
		a.setState(room, a.user("alice"), "m.room.server_acl", `{"allow":["*"],"deny":["b.test"]}`)
		var refused *roomserver.NotAllowed
		if _, err := sign(string(good.JSON())); !errors.As(err, &refused) {
			t.Errorf("a server that the ACL denies: %v", err)
		}
	})
}

func TestRoomThatNamesItsOwnServer(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		a := w.add("a.test")
		room := a.create(roomserver.CreateRequest{Preset: "public_chat"})
		name := func(key ed25519.PrivateKey) {
			a.setState(room, a.user("alice"), "m.room.policy", fmt.Sprintf(`{"via":"a.test","public_keys":{"ed25519":%q}}`,
				base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey))))
		}
		key, other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("p", 32))), ed25519.NewKeyFromSeed([]byte(strings.Repeat("q", 32)))
		name(key)
		a.say(room, a.user("alice"), "nobody serves the role")
		a.rooms.PolicyRole = roomserver.NewPolicyRole(a.name, key, func(_ context.Context, e *event.Event) (string, error) {
			return e.ContentString("body"), nil
		})
		name(other)
		a.say(room, a.user("alice"), "another key")
		name(key)
		if _, err := a.trySay(room, a.user("alice"), "refused", "t1"); err == nil {
			t.Error("what is not recommended was sent")
		}
		id := a.say(room, a.user("alice"), "")
		e, err := a.rooms.CurrentState(t.Context(), room, "m.room.policy", "")
		must(t, err)
		if e == nil || !a.has(room, id) {
			t.Error("what is recommended was not sent")
		}
	})
}
