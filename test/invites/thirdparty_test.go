package invites

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"knock/cmd/knock/demo/lab"
	"knock/test/hstest"
	"knock/test/idserver"
)

const local = "identity_servers.allow_networks=[127.0.0.0/8]"

// withIdentity is each with an identity server that the nodes believe.
func withIdentity(t *testing.T, fn func(w *world, id *idserver.Server)) {
	hstest.Each(t, func(t *testing.T, s *hstest.Site) {
		ctx, cancel := s.Context()
		defer cancel()
		id := idserver.New(t)
		s.Trust(id.Certificate())
		w := &world{t: t, ctx: ctx, a: s.Start("a.test", local), b: s.Start("b.test", local)}
		w.alice, w.bob = w.a.MustRegister("alice"), w.b.MustRegister("bob")
		fn(w, id)
	})
}

func by(id *idserver.Server, address string) object {
	return object{"id_server": id.Name, "id_access_token": idserver.Token, "medium": "email", "address": address}
}

// becomes waits for a user's membership.
func (w *world) becomes(c *lab.Client, room, membership string) {
	w.t.Helper()
	w.must(c.Until(w.ctx, func(v *lab.View) error {
		if got := v.Room(room).Membership; got != membership {
			return errors.New(c.UserID + " is " + got + ", not " + membership)
		}
		return nil
	}))
}

func TestInviteOfKnownAddress(t *testing.T) {
	withIdentity(t, func(w *world, id *idserver.Server) {
		id.Know("bob@example.com", w.bob.UserID)
		room := w.create(w.alice, object{})
		w.must(w.alice.Act(w.ctx, room, "invite", by(id, "Bob@Example.com")))
		w.becomes(w.bob, room, "invite")
		for _, path := range id.Asked() {
			if path == "store-invite" {
				t.Error("an address that is known was written to")
			}
		}
		_, err := w.bob.Join(w.ctx, room, "a.test")
		w.must(err)
		_, code := w.try(w.alice, http.MethodPost, lab.V3("rooms", room, "invite"), by(id, "bob@example.com"))
		w.expect("who is in", code, "M_FORBIDDEN")
		w.say(w.bob, "m.invite_permission_config", object{"default_action": "block"})
		_, code = w.try(w.alice, http.MethodPost, lab.V3("rooms", w.create(w.alice, object{}), "invite"), by(id, "bob@example.com"))
		w.expect("blocked", code, "M_INVITE_BLOCKED")
	})
}

// TestInviteOfUnknownAddress goes the whole way: a stored invite, the binding, the exchange between the servers, the
// join.
func TestInviteOfUnknownAddress(t *testing.T) {
	withIdentity(t, func(w *world, id *idserver.Server) {
		rooms := map[string]string{}
		for _, version := range []string{"1", "6", "9", "10", "11", "12"} {
			rooms[version] = w.create(w.alice, object{"room_version": version, "name": "Tea", "room_alias_name": "tea" + version, "invite_3pid": []object{by(id, "bob@example.com")}})
		}
		stored := id.Invites("bob@example.com")
		w.expect("stored invites", len(stored), len(rooms))
		for field, want := range map[string]any{"sender": w.alice.UserID, "room_name": "Tea", "sender_display_name": "alice", "room_join_rules": "invite", "medium": "email"} {
			w.expect(field, stored[0].Body[field], want)
		}
		issued := w.call(w.alice, http.MethodGet, lab.V3("rooms", stored[0].Body["room_id"].(string), "state", "m.room.third_party_invite", stored[0].Token), nil)
		w.expect("the name in the room", issued.Get("display_name").Str, "b...@t...")
		w.expect("keys in the room", issued.Get("public_keys.#").Int(), int64(2))
		w.expect("the address in the room", strings.Contains(issued.Raw, "example.com"), false)

		w.must(w.a.Stop()) // the binding must not be lost while the inviter's server is away
		w.must(id.Bind(w.ctx, "bob@example.com", w.bob.UserID, w.b.URL()))
		w.must(w.b.Stop())
		w.must(w.a.Start())
		w.must(w.b.Start())
		w.must(id.Bind(w.ctx, "bob@example.com", w.bob.UserID, w.b.URL())) // again: it has its turn at once
		for _, room := range rooms {
			w.becomes(w.bob, room, "invite")
			w.must(w.alice.Until(w.ctx, func(v *lab.View) error { // the invite is in the room after it was signed for bob
				if v.Room(room).Member(w.bob.UserID) != "invite" {
					return errors.New("the room does not know of the invite")
				}
				return nil
			}))
			_, err := w.bob.Join(w.ctx, room, "a.test")
			w.must(err)
			w.becomes(w.bob, room, "join")
			member := w.call(w.alice, http.MethodGet, lab.V3("rooms", room, "state", "m.room.member", w.bob.UserID)+"?format=event", nil)
			w.expect("he is in", member.Get("content.membership").Str, "join")
		}
	})
}

// TestJoinWithSignature redeems an invite in the join itself.
func TestJoinWithSignature(t *testing.T) {
	withIdentity(t, func(w *world, id *idserver.Server) {
		carol := w.a.MustRegister("carol")
		room := w.create(w.alice, object{})
		for _, guest := range []*lab.Client{carol, w.bob} {
			address := guest.UserID[1:6] + "@example.com"
			w.must(w.alice.Act(w.ctx, room, "invite", by(id, address)))
			token := id.Invites(address)[0].Token
			join := func(user, token string) string {
				signed, err := id.Sign(token, user, object{"sender": w.alice.UserID})
				w.must(err)
				_, code := w.try(guest, http.MethodPost, lab.V3("join", room)+"?via=a.test", object{"third_party_signed": signed})
				return code
			}
			w.expect("for another user", join("@eve:a.test", token), "M_FORBIDDEN")
			w.expect("with another token", join(guest.UserID, "none"), "M_FORBIDDEN")
			id.Revoke(true)
			w.expect("with a revoked key", join(guest.UserID, token), "M_FORBIDDEN")
			id.Revoke(false)
			w.expect("with its token", join(guest.UserID, token), "")
			w.becomes(guest, room, "join")
		}
	})
}

func TestRefusedAddresses(t *testing.T) {
	withIdentity(t, func(w *world, id *idserver.Server) {
		room := w.create(w.alice, object{"preset": "public_chat"})
		carol := w.a.MustRegister("carol")
		_, err := carol.Join(w.ctx, room)
		w.must(err)
		id.Asked()
		_, code := w.try(carol, http.MethodPost, lab.V3("rooms", room, "invite"), by(id, "x@example.com"))
		w.expect("who may not invite", code, "M_FORBIDDEN")
		_, code = w.try(w.bob, http.MethodPost, lab.V3("rooms", room, "invite"), by(id, "x@example.com"))
		w.expect("who is not in the room", code, "M_FORBIDDEN")
		w.expect("asked meanwhile", len(id.Asked()), 0)
		for field, c := range map[string]struct {
			value any
			code  string
		}{
			"id_server": {"127.0.0.1/x", "M_INVALID_PARAM"}, "id_access_token": {"", "M_MISSING_PARAM"}, "address": {"", "M_MISSING_PARAM"}, "medium": {"msisdn", "M_THREEPID_DENIED"},
		} {
			body := by(id, "x@example.com")
			body[field] = c.value
			_, code := w.try(w.alice, http.MethodPost, lab.V3("rooms", room, "invite"), body)
			w.expect(field, code, c.code)
		}
		body := by(id, "x@example.com")
		body["id_server"] = "10.0.0.1:1" // private: nothing connects there
		_, code = w.try(w.alice, http.MethodPost, lab.V3("rooms", room, "invite"), body)
		w.expect("a private address", code, "M_UNKNOWN")
	})
}

// TestForgedBindings has strangers tell what no identity server said.
func TestForgedBindings(t *testing.T) {
	withIdentity(t, func(w *world, id *idserver.Server) {
		room := w.create(w.alice, object{})
		w.must(w.alice.Act(w.ctx, room, "invite", by(id, "bob@example.com")))
		token := id.Invites("bob@example.com")[0].Token
		forger := idserver.New(t)
		signed, err := forger.Sign(token, w.bob.UserID, nil)
		w.must(err)
		nobody := w.b.Client()
		bind := func(user string, invites ...any) string {
			_, code := w.try(nobody, http.MethodPut, "/_matrix/federation/v1/3pid/onbind", object{"medium": "email", "address": "x", "mxid": user, "invites": invites})
			return code
		}
		invite := func(user string, signed json.RawMessage) object {
			return object{"mxid": user, "room_id": room, "sender": w.alice.UserID, "signed": signed}
		}
		w.expect("of nobody here", bind("@nobody:b.test"), "M_NOT_FOUND")
		w.expect("of another server's user", bind(w.alice.UserID), "M_NOT_FOUND")
		w.expect("without a signature", bind(w.bob.UserID, invite(w.bob.UserID, nil)), "M_INVALID_PARAM")
		w.expect("for two users", bind(w.bob.UserID, invite("@x:b.test", signed)), "M_INVALID_PARAM")
		w.expect("too many", bind(w.bob.UserID, make([]any, 101)...), "M_TOO_LARGE")
		w.expect("with a forged one", bind(w.bob.UserID, invite(w.bob.UserID, signed)), "") // the inviter's server decides
		good, err := id.Sign(token, w.bob.UserID, nil)
		w.must(err)
		w.expect("with a good one of another room", bind(w.bob.UserID, object{"mxid": w.bob.UserID, "room_id": "!none:a.test", "sender": w.alice.UserID, "signed": good}), "")
		w.must(w.alice.Act(w.ctx, w.create(w.alice, object{}), "invite", by(id, "second@example.com")))
		w.must(id.Bind(w.ctx, "second@example.com", w.bob.UserID, w.b.URL()))
		second := id.Invites("second@example.com")[0].Body["room_id"].(string)
		w.becomes(w.bob, second, "invite")
		classic := w.call(w.bob, http.MethodGet, lab.V3("sync"), nil).Get("rooms.invite." + gjson.Escape(room)).Exists()
		w.expect("invited by a forged word", classic, false)
	})
}
