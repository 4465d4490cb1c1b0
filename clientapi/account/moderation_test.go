package account

import (
	"context"
	"net/http/httptest"
	"testing"

	"knock/internal/account"
	"knock/internal/httpx"
)

func (n *node) admin(name string) (token string) {
	n.t.Helper()
	l, err := n.accounts.CreateUser(n.t.Context(), account.NewUser{Username: name, Password: "pass of " + name, Admin: true, Device: &account.NewDevice{}})
	if err != nil {
		n.t.Fatal(err)
	}
	return l.AccessToken
}

func TestLock(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		boss, alice := n.admin("boss"), n.register("alice")
		n.admin("other")
		const lock = v1 + "/admin/lock/"
		for _, c := range []struct {
			token, user, body string
			status            int
			code              string
		}{
			{alice, "@alice:hs", `{"locked":true}`, 403, "M_FORBIDDEN"}, {alice, "@nobody:hs", `{"locked":true}`, 403, "M_FORBIDDEN"},
			{boss, "@alice:elsewhere", `{"locked":true}`, 400, "M_INVALID_PARAM"}, {boss, "@nobody:hs", `{"locked":true}`, 404, "M_NOT_FOUND"},
			{boss, "@boss:hs", `{"locked":true}`, 403, "M_FORBIDDEN"}, {boss, "@other:hs", `{"locked":true}`, 403, "M_FORBIDDEN"},
			{boss, "@alice:hs", `{}`, 400, "M_MISSING_PARAM"}, {boss, "@alice:hs", `{"locked":1}`, 400, "M_INVALID_PARAM"},
		} {
			n.expect(c.status, c.code, c.token, "PUT", lock+c.user, c.body)
		}
		if out := n.expect(200, "", boss, "GET", lock+"@alice:hs", ""); out["locked"] != false {
			t.Error(out)
		}
		refresh := n.expect(200, "", "", "POST", v3+"/login", `{"type":"m.login.password","refresh_token":true,
			"identifier":{"type":"m.id.user","user":"alice"},"password":"pass of alice"}`)["refresh_token"].(string)
		if out := n.expect(200, "", boss, "PUT", lock+"@alice:hs", `{"locked":true}`); out["locked"] != true {
			t.Error(out)
		}
		if out := n.expect(401, "M_USER_LOCKED", alice, "GET", v3+"/account/whoami", ""); out["soft_logout"] != true {
			t.Error(out)
		}
		n.expect(401, "M_USER_LOCKED", "", "POST", v3+"/login", password("alice", "pass of alice"))
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", password("alice", "wrong"))
		n.expect(401, "M_USER_LOCKED", "", "POST", v3+"/refresh", `{"refresh_token":"`+refresh+`"}`)
		n.expect(200, "", boss, "PUT", v1+"/admin/suspend/@alice:hs", `{"suspended":true}`)
		n.expect(200, "", boss, "PUT", lock+"@alice:hs", `{"locked":false}`)
		n.expect(200, "", alice, "GET", v3+"/account/whoami", "")
		n.expect(200, "", "", "POST", v3+"/refresh", `{"refresh_token":"`+refresh+`"}`)
		n.expect(403, "M_USER_SUSPENDED", alice, "PUT", v3+"/profile/@alice:hs/displayname", `{"displayname":"x"}`)
		if out := n.expect(200, "", boss, "GET", v1+"/admin/suspend/@alice:hs", ""); out["suspended"] != true {
			t.Error(out)
		}
		n.expect(200, "", boss, "PUT", lock+"@alice:hs", `{"locked":true}`)

		if id, err := n.accounts.UseDevice(t.Context(), "@alice:hs", "", ""); err != nil || !id.Caller().Locked {
			t.Errorf("an application service acts as a locked user: %+v %v", id, err)
		}

		// Another start of the node.
		again := account.New(account.Options{DB: n.db, Hub: n.hub, ServerName: "hs"})
		if err := again.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := again.Standing("@alice:hs"); !st.Locked || !st.Suspended || again.Standing("@boss:hs") != (account.Standing{}) {
			t.Errorf("after a start: %+v", st)
		}
		n.expect(200, "", alice, "POST", v3+"/logout", "{}")
		n.expect(401, "M_UNKNOWN_TOKEN", alice, "GET", v3+"/account/whoami", "")
		if err := n.accounts.Deactivate(t.Context(), "@alice:hs", false); err != nil {
			t.Fatal(err)
		}
		n.expect(404, "M_NOT_FOUND", boss, "GET", lock+"@alice:hs", "")
	})
}

func TestLongPollsEndWithTheirSession(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		n.register("alice")
		entered := make(chan struct{})
		rt := httpx.NewRouter([]httpx.Route{{Method: "GET", Path: "/wait", Waits: true, Auth: httpx.AuthUser,
			Handler: func(ctx context.Context, _ *httpx.Request) (any, error) {
				entered <- struct{}{}
				<-ctx.Done()
				return nil, nil
			}}}, httpx.Hooks{Authenticate: n.accounts.Caller, Watch: n.accounts.Watch})
		poll := func(token string) chan *httptest.ResponseRecorder {
			done := make(chan *httptest.ResponseRecorder, 1)
			go func() {
				req := httptest.NewRequest("GET", "/wait", nil)
				req.Header.Set("Authorization", "Bearer "+token)
				w := httptest.NewRecorder()
				rt.ServeHTTP(w, req)
				done <- w
			}()
			<-entered
			return done
		}
		first, second := n.device("FIRST"), n.device("SECOND")
		one, two := poll(first), poll(second)
		n.expect(200, "", first, "POST", v3+"/logout", "{}")
		if w := <-one; w.Code != 401 {
			t.Errorf("after the logout: %d %s", w.Code, w.Body)
		}
		select {
		case w := <-two:
			t.Errorf("another device's poll ended: %d", w.Code)
		default:
		}
		if err := n.accounts.SetLocked(t.Context(), "@alice:hs", true); err != nil {
			t.Fatal(err)
		}
		if w := <-two; w.Code != 401 || w.Body.String() != `{"errcode":"M_USER_LOCKED","error":"This account has been locked; ask the server's administrator","soft_logout":true}` {
			t.Errorf("after the lock: %d %s", w.Code, w.Body)
		}
		// A poll that was let in the moment before.
		ctx, done := n.accounts.Watch(t.Context(), httpx.Caller{UserID: "@alice:hs"})
		defer done()
		if ctx.Err() == nil {
			t.Error("a poll of a locked account waits")
		}
	})
}

func TestWhois(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		boss, alice, bob := n.admin("boss"), n.register("alice"), n.register("bob")
		const path = v3 + "/admin/whois/"
		for _, token := range []string{boss, alice} {
			out := n.expect(200, "", token, "GET", path+"@alice:hs", "")
			sessions := out["devices"].(object)["D"].(object)["sessions"].([]any)
			seen := sessions[0].(object)["connections"].([]any)[0].(object)
			if out["user_id"] != "@alice:hs" || seen["ip"] != "192.0.2.1" || seen["last_seen"].(float64) == 0 {
				t.Error(out)
			}
		}
		n.expect(403, "M_FORBIDDEN", bob, "GET", path+"@alice:hs", "")
		n.expect(403, "M_FORBIDDEN", bob, "GET", path+"@nobody:hs", "")
		n.expect(404, "M_NOT_FOUND", boss, "GET", path+"@nobody:hs", "")
		n.expect(400, "M_INVALID_PARAM", boss, "GET", path+"@alice:elsewhere", "")
	})
}
