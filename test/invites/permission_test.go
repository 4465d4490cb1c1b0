package invites

import (
	"net/http"
	"testing"

	"knock/cmd/knock/demo/lab"
)

// TestBlockedInvites goes through the five endpoints that must answer M_INVITE_BLOCKED (Client-Server API, "Invite
// permission"); the two of federation answer those of another server's users.
func TestBlockedInvites(t *testing.T) {
	each(t, func(w *world) {
		carol := w.a.MustRegister("carol")
		before := w.create(w.alice, object{"invite": []string{carol.UserID, w.bob.UserID}})
		room := w.create(w.alice, object{})
		for _, invitee := range []*lab.Client{carol, w.bob} {
			classic, sliding := w.invited(invitee, before)
			w.expect("invited before", classic && sliding, true)
			w.say(invitee, "m.invite_permission_config", object{"default_action": "block"})
			if classic, sliding := w.invited(invitee, before); classic || sliding {
				t.Errorf("a stored invite of %s is told of: %v %v", invitee.UserID, classic, sliding)
			}
			_, code := w.try(w.alice, http.MethodPost, lab.V3("rooms", room, "invite"), object{"user_id": invitee.UserID})
			w.expect("invite", code, "M_INVITE_BLOCKED")
			_, code = w.try(w.alice, http.MethodPut, lab.V3("rooms", room, "state", "m.room.member", invitee.UserID), object{"membership": "invite"})
			w.expect("state", code, "M_INVITE_BLOCKED")
		}
		_, code := w.try(w.alice, http.MethodPost, lab.V3("createRoom"), object{"invite": []string{carol.UserID}})
		w.expect("createRoom", code, "M_INVITE_BLOCKED")
		w.create(w.alice, object{"invite": []string{w.bob.UserID}}) // the room stands when his server refuses

		w.must(w.a.Stop())
		w.must(w.a.Start())
		_, code = w.try(w.alice, http.MethodPost, lab.V3("rooms", room, "invite"), object{"user_id": carol.UserID})
		w.expect("after a restart", code, "M_INVITE_BLOCKED")

		w.say(carol, "m.invite_permission_config", object{})
		w.must(w.alice.Act(w.ctx, room, "invite", object{"user_id": carol.UserID}))
		classic, sliding := w.invited(carol, before)
		w.expect("told of again", classic && sliding, true)
	})
}

func TestFilteredInvites(t *testing.T) {
	each(t, func(w *world) {
		mallory := w.a.MustRegister("mallory")
		w.say(w.bob, "org.matrix.msc4155.invite_permission_config", object{
			"allowed_users": []any{w.alice.UserID, 7, nil}, "ignored_users": []string{"@mal*:a.test"}, "blocked_servers": []string{"?.test"}, "allowed_servers": nil})
		eve := w.a.MustRegister("eve")
		invite := func(c *lab.Client) (room, code string) {
			room = w.create(c, object{})
			_, code = w.try(c, http.MethodPost, lab.V3("rooms", room, "invite"), object{"user_id": w.bob.UserID})
			return room, code
		}
		_, code := invite(eve)
		w.expect("of a blocked server", code, "M_INVITE_BLOCKED")
		room, code := invite(w.alice)
		w.expect("allowed", code, "")
		classic, sliding := w.invited(w.bob, room)
		w.expect("allowed and seen", classic && sliding, true)
		for _, ignore := range []func(){func() {}, func() {
			w.say(w.bob, "org.matrix.msc4155.invite_permission_config", object{})
			w.say(w.bob, "m.ignored_user_list", object{"ignored_users": object{mallory.UserID: object{}}})
		}} {
			ignore()
			room, code = invite(mallory)
			w.expect("ignored", code, "")
			if classic, sliding := w.invited(w.bob, room); classic || sliding {
				t.Errorf("an ignored invite is told of: %v %v", classic, sliding)
			}
			pushed := w.call(w.bob, http.MethodGet, lab.V3("notifications"), nil).Get("notifications.#(room_id==\"" + room + "\")")
			w.expect("notified", pushed.Exists(), false)
		}
	})
}
