package account

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"knock/internal/account"
	"knock/internal/limits"
	"knock/internal/sqldb"
)

// TestOneCaptchaOneAccount sends many requests at once with the same session.
func TestOneCaptchaOneAccount(t *testing.T) {
	o := Options{Registration: Registration{Enabled: true, Captcha: captcha(t)}}
	each(t, o, func(t *testing.T, n *node) {
		const path = v3 + "/register"
		session := n.expect(401, "", "", "POST", path, `{}`)["session"]
		if status, shown := n.page(v3+"/auth/m.login.recaptcha/fallback/web", url.Values{"session": {session.(string)}, "g-recaptcha-response": {"right"}}); status != 200 {
			t.Fatal(shown)
		}
		var made atomic.Int32
		var all sync.WaitGroup
		for i := range 6 {
			all.Go(func() {
				req := httptest.NewRequest("POST", path, strings.NewReader(fmt.Sprintf(`{"username":"alice%d","password":"long enough","auth":{"session":%q}}`, i, session)))
				rec := httptest.NewRecorder()
				n.router.ServeHTTP(rec, req)
				if rec.Code == 200 {
					made.Add(1)
				}
			})
		}
		all.Wait()
		if made.Load() != 1 {
			t.Errorf("one puzzle made %d accounts", made.Load())
		}
	})
}

// limited is a door with the limits of a node.
func limited(o Options, classes map[string]limits.Class) func(*testing.T, *sqldb.DB) Options {
	return func(*testing.T, *sqldb.DB) Options {
		o.Limit = limits.New(limits.Options{Classes: classes, Clock: func() time.Time { return time.UnixMilli(1) }}).Allow
		return o
	}
}

// TestGuessing bounds how often a password may be guessed, from however many addresses and in whatever way.
func TestGuessing(t *testing.T) {
	o := limited(open, map[string]limits.Class{"password": {PerSecond: 0.1, Burst: 3}})
	eachMade(t, o, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		login := func(user, password string) string {
			return fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":%q}`, user, password)
		}
		ask := n.expect(401, "", alice, "DELETE", v3+"/devices/X", `{}`)
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", login("alice", "wrong"))
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", login("@ALICE:hs", "wrong"))
		n.expect(401, "M_FORBIDDEN", alice, "DELETE", v3+"/devices/X", fmt.Sprintf(`{"auth":{"type":"m.login.password","session":%q,"password":"wrong"}}`, ask["session"]))
		n.expect(429, "M_LIMIT_EXCEEDED", alice, "DELETE", v3+"/devices/X", fmt.Sprintf(`{"auth":{"type":"m.login.password","session":%q,"password":"pass of alice"}}`, ask["session"]))
		n.expect(429, "M_LIMIT_EXCEEDED", "", "POST", v3+"/login", login("Alice", "pass of alice"))
		if status, shown := n.page(v3+"/auth/m.login.password/fallback/web", url.Values{"session": {ask["session"].(string)}, "password": {"pass of alice"}}); status != 429 {
			t.Error(status, shown)
		}
		n.expect(200, "", "", "POST", v3+"/login", login("bob", "pass of bob"))
		for range 3 {
			n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", login("nobody", "wrong"))
		}
		n.expect(429, "M_LIMIT_EXCEEDED", "", "POST", v3+"/login", login("nobody", "wrong")) // as if there were such a user
		n.expect(200, "", bob, "GET", v3+"/account/whoami", "")
	})
}

// TestGuessingTellsNothing: who tries too much hears the same of addresses and names that somebody has and that nobody has.
func TestGuessingTellsNothing(t *testing.T) {
	o := limited(open, map[string]limits.Class{"password": {PerSecond: 0.1, Burst: 2}})
	eachMade(t, o, func(t *testing.T, n *node) {
		withEmail(n, "alice", "alice@example.com")
		try := func(status int, identifier string) {
			t.Helper()
			n.expect(status, map[int]string{403: "M_FORBIDDEN", 429: "M_LIMIT_EXCEEDED"}[status], "", "POST", v3+"/login",
				fmt.Sprintf(`{"type":"m.login.password","identifier":%s,"password":"wrong"}`, identifier))
		}
		email := func(address string) string {
			return fmt.Sprintf(`{"type":"m.id.thirdparty","medium":"email","address":%q}`, address)
		}
		for _, address := range []string{"alice@example.com", "nobody@example.com", "somebody@example.com"} {
			try(403, email(address))
			try(403, email(strings.ToUpper(address)))
			try(429, email(address))
		}
		for _, name := range []string{"alice", "nobody"} { // the name of an address that was tried too much, and another
			try(403, fmt.Sprintf(`{"type":"m.id.user","user":%q}`, name))
		}
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", `{"type":"m.login.password","medium":"email","address":"old@example.com","password":"wrong"}`)
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", `{"type":"m.login.password","user":"old","password":"wrong"}`)
	})
}

// TestMailsOfPages: the page of the e-mail stage sends no more e-mails than the endpoints for clients, and none where there is no
// such stage.
func TestMailsOfPages(t *testing.T) {
	box := &letters{}
	o := limited(Options{Mail: box, BaseURL: "https://hs.example", Registration: Registration{Enabled: true}}, map[string]limits.Class{"email": {PerSecond: 0.01, Burst: 2}})
	eachMade(t, o, func(t *testing.T, n *node) {
		box.all = nil
		token := n.register("alice")
		const path = v3 + "/auth/m.login.email.identity/fallback/web"
		ask := n.expect(401, "", token, "DELETE", v3+"/devices/X", `{}`)
		if status, _ := n.page(path, url.Values{"session": {ask["session"].(string)}, "email": {"victim@example.com"}}); status == 200 || len(box.all) != 0 {
			t.Error("an e-mail for a session without that stage:", status, box.all)
		}
		for i := range 4 { // a session for each
			session := n.expect(401, "", "", "POST", v3+"/register", `{}`)["session"].(string)
			n.page(path, url.Values{"session": {session}, "email": {fmt.Sprintf("victim%d@example.com", i)}})
		}
		if len(box.all) != 2 {
			t.Errorf("%d e-mails", len(box.all))
		}
	})
}

// TestResetEndsOthers: a new password ends what somebody else may have prepared.
func TestResetEndsOthers(t *testing.T) {
	each(t, Options{}, func(t *testing.T, n *node) {
		ctx := t.Context()
		validate := func(purpose, secret string) account.Credentials {
			sid, token, err := n.accounts.BeginValidation(ctx, account.ValidationRequest{Purpose: purpose, Address: "a@example.com", ClientSecret: secret, Attempt: 1})
			if err == nil {
				_, err = n.accounts.ConfirmValidation(ctx, sid, token)
			}
			if err != nil {
				t.Fatal(err)
			}
			return account.Credentials{SID: sid, ClientSecret: secret}
		}
		first := validate(account.ToRegister, "r")
		if _, err := n.accounts.CreateUser(ctx, account.NewUser{Username: "alice", Password: "old password", Email: &first}); err != nil {
			t.Fatal(err)
		}
		mine, others := validate(account.ToReset, "mine"), validate(account.ToReset, "others")
		token, err := n.accounts.LoginToken(ctx, "@alice:hs")
		if err != nil {
			t.Fatal(err)
		}
		if err := n.accounts.ResetPassword(ctx, mine.SID, mine.ClientSecret, "new password", true); err != nil {
			t.Fatal(err)
		}
		if err := n.accounts.ResetPassword(ctx, others.SID, others.ClientSecret, "third password", true); err == nil {
			t.Error("another confirmation is good after a reset")
		}
		if _, err := n.accounts.LoginByToken(ctx, token, account.NewDevice{}); err == nil {
			t.Error("a login token is good after a reset")
		}
		if token, err = n.accounts.LoginToken(ctx, "@alice:hs"); err != nil {
			t.Fatal(err)
		}
		if err := n.accounts.DeleteAllDevices(ctx, "@alice:hs", 0); err != nil {
			t.Fatal(err)
		}
		if _, err := n.accounts.LoginByToken(ctx, token, account.NewDevice{}); err == nil {
			t.Error("a login token is good after a log-out everywhere")
		}
	})
}

// TestOpenIDOfLocked: a locked account is nobody's elsewhere.
func TestOpenIDOfLocked(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		n.register("alice")
		token, _, err := n.accounts.OpenIDToken(t.Context(), "@alice:hs")
		if err != nil {
			t.Fatal(err)
		}
		if err := n.accounts.SetLocked(t.Context(), "@alice:hs", true); err != nil {
			t.Fatal(err)
		}
		if user, err := n.accounts.OpenIDUser(t.Context(), token); err == nil {
			t.Error(user)
		}
	})
}

// hugeProfiles is a server whose users have a lot to say.
type hugeProfiles struct{}

func (hugeProfiles) Profile(context.Context, string, string, string) (map[string]json.RawMessage, error) {
	return map[string]json.RawMessage{"displayname": json.RawMessage(`"` + strings.Repeat("x", 60<<10) + `"`)}, nil
}

// TestRemoteProfilesAreBounded: strangers who look up strangers do not fill the memory.
func TestRemoteProfilesAreBounded(t *testing.T) {
	c := newRemoteCache(hugeProfiles{}, time.Now)
	for i := range 1000 {
		if _, err := c.profile(t.Context(), "far.example", fmt.Sprintf("@u%d:far.example", i), ""); err != nil {
			t.Fatal(err)
		}
	}
	size := 0
	for _, p := range c.m {
		for _, v := range p.fields {
			size += len(v)
		}
	}
	if size > maxRemoteBytes || size == 0 {
		t.Errorf("%d bytes are kept", size)
	}
}
