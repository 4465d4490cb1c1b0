package account

import (
	"fmt"
	"testing"
	"time"

	"knock/internal/account"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

func TestLoginToken(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		alice := n.register("alice")
		const path = v1 + "/login/get_token"
		n.expect(401, "M_MISSING_TOKEN", "", "POST", path, "")
		get := func() string {
			ask := n.expect(401, "", alice, "POST", path, "") // again for each token
			made := n.expect(200, "", alice, "POST", path, fmt.Sprintf(`{"auth":{"session":%q,"type":"m.login.password",
				"identifier":{"type":"m.id.user","user":"alice"},"password":"pass of alice"}}`, ask["session"]))
			if made["expires_in_ms"] != 120000.0 {
				t.Error(made)
			}
			return fmt.Sprintf(`{"type":"m.login.token","token":%q,"device_id":"NEW"}`, made["login_token"])
		}
		one, two := get(), get()
		if l := n.expect(200, "", "", "POST", v3+"/login", one); l["user_id"] != "@alice:hs" || l["device_id"] != "NEW" {
			t.Error(l)
		}
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", one)
		if err := n.accounts.SetLocked(t.Context(), "@alice:hs", true); err != nil {
			t.Fatal(err)
		}
		n.expect(401, "M_USER_LOCKED", "", "POST", v3+"/login", two)
	})
}

func TestLoginTokensExpire(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		now := time.UnixMilli(1_700_000_000_000)
		s := account.New(account.Options{DB: db, Hub: stream.New(0), ServerName: "hs", Now: func() time.Time { return now }})
		if _, err := s.CreateUser(t.Context(), account.NewUser{Username: "alice"}); err != nil {
			t.Fatal(err)
		}
		token, err := s.LoginToken(t.Context(), "@alice:hs")
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(account.LoginTokenLifetime)
		if _, err := s.LoginByToken(t.Context(), token, account.NewDevice{}); err == nil {
			t.Error("an old token is good")
		}
	})
}
