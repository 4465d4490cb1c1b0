package accounts

import (
	"net/http"
	"testing"

	"knock/cmd/knock/demo/lab"
)

func (w *world) set(boss *lab.Client, what, member, user string, on bool) {
	w.t.Helper()
	w.call(boss, http.MethodPut, v1("/admin/"+what+"/"+esc(user)), map[string]bool{member: on})
}

// TestLockedSync locks an account that waits in a sync.
func TestLockedSync(t *testing.T) {
	each(t, nil, func(w *world) {
		boss, alice := w.admin("boss"), w.n.MustRegister("alice")
		since := w.call(alice, http.MethodGet, lab.V3("sync"), nil).Get("next_batch").Str
		ended := make(chan error, 1)
		go func() {
			ended <- alice.Call(w.ctx, http.MethodGet, lab.V3("sync")+"?timeout=60000&since="+since, nil, nil)
		}()
		w.set(boss, "lock", "locked", alice.UserID, true)
		if !w.refusal(401, "M_USER_LOCKED", <-ended).Get("soft_logout").Bool() {
			t.Error("not a soft logout")
		}
		w.set(boss, "lock", "locked", alice.UserID, false)
		w.call(alice, http.MethodGet, lab.V3("sync"), nil)
		if !w.call(boss, http.MethodGet, lab.V3("capabilities"), nil).Get(`capabilities.m\.account_moderation.lock`).Bool() ||
			w.call(alice, http.MethodGet, lab.V3("capabilities"), nil).Get(`capabilities.m\.account_moderation`).Exists() {
			t.Error("the capability is not that of administrators")
		}
	})
}

// TestSuspended goes through what a suspended user may and may not do.
func TestSuspended(t *testing.T) {
	each(t, nil, func(w *world) {
		boss, alice, bob := w.admin("boss"), w.n.MustRegister("alice"), w.n.MustRegister("bob")
		public := map[string]any{"preset": "public_chat"}
		room, err := bob.CreateRoom(w.ctx, public)
		w.must(err)
		other, err := bob.CreateRoom(w.ctx, public)
		w.must(err)
		_, err = alice.Join(w.ctx, room)
		w.must(err)
		own, err := alice.Say(w.ctx, room, "mine")
		w.must(err)
		theirs, err := bob.Say(w.ctx, room, "his")
		w.must(err)
		_, err = bob.SetState(w.ctx, room, "m.room.power_levels", "", map[string]any{"users": map[string]int{alice.UserID: 99}})
		w.must(err)

		w.set(boss, "suspend", "suspended", alice.UserID, true)
		in := func(path ...string) string { return lab.V3(append([]string{"rooms", room}, path...)...) }
		message := map[string]string{"msgtype": "m.text", "body": "x"}
		member := func(membership string) map[string]string { return map[string]string{"membership": membership} }
		for _, c := range []struct {
			method, path string
			body         any
		}{
			{http.MethodPut, in("send", "m.room.message", "1"), message},
			{http.MethodPut, in("state", "m.room.topic", ""), map[string]string{"topic": "x"}},
			{http.MethodPut, in("state", "m.room.member", "@carol:a.test"), member("invite")},
			{http.MethodPut, in("state", "m.room.member", alice.UserID), member("join")},
			{http.MethodPut, in("redact", theirs, "2"), map[string]string{}},
			{http.MethodPut, in("send", "m.room.redaction", "3"), map[string]string{"redacts": theirs}},
			{http.MethodPost, in("invite"), map[string]string{"user_id": "@carol:a.test"}},
			{http.MethodPost, in("kick"), map[string]string{"user_id": bob.UserID}},
			{http.MethodPost, in("ban"), map[string]string{"user_id": "@carol:a.test"}},
			{http.MethodPost, lab.V3("join", other), map[string]string{}},
			{http.MethodPost, lab.V3("rooms", other, "join"), map[string]string{}},
			{http.MethodPost, lab.V3("knock", other), map[string]string{}},
			{http.MethodPost, lab.V3("createRoom"), public},
			{http.MethodPut, lab.V3("profile", alice.UserID, "displayname"), map[string]string{"displayname": "x"}},
			{http.MethodDelete, lab.V3("profile", alice.UserID, "avatar_url"), nil},
		} {
			w.refused(403, "M_USER_SUSPENDED", alice, c.method, c.path, c.body)
		}
		if w.call(alice, http.MethodGet, in("messages")+"?dir=b", nil).Get("chunk.#").Int() == 0 {
			t.Error("no messages")
		}
		w.call(alice, http.MethodPut, in("redact", own, "4"), map[string]string{})
		w.call(alice, http.MethodPost, in("leave"), map[string]string{})
		w.must(w.n.Client().Login(w.ctx, "alice", alice.Password))

		w.set(boss, "suspend", "suspended", alice.UserID, false)
		_, err = alice.Join(w.ctx, room)
		w.must(err)
		_, err = alice.Say(w.ctx, room, "back")
		w.must(err)
	})
}
