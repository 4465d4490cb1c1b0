package account

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/stream"
)

func TestExpiredAccount(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		now, box := time.Now(), &letters{}
		accounts := account.New(account.Options{DB: db, Hub: stream.New(0), ServerName: "hs", Now: func() time.Time { return now },
			Validity: account.Validity{Period: time.Hour, Remind: time.Minute}})
		api := New(Options{Accounts: accounts, Mail: box, BaseURL: "https://hs.example", Registration: Registration{Enabled: true}})
		n := &node{t, httpx.NewRouter(api.Routes(), httpx.Hooks{Authenticate: accounts.Caller}), accounts, api, db, nil}
		accounts.OnExpiry(api.Remind)
		alice := n.register("alice")
		sid, token, err := accounts.BeginValidation(t.Context(), account.ValidationRequest{Purpose: account.ToAdd, Address: "a@example.com", ClientSecret: "s", Attempt: 1})
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(err)
		_, err = accounts.ConfirmValidation(t.Context(), sid, token)
		must(err)
		must(accounts.AddEmail(t.Context(), "@alice:hs", sid, "s"))
		now = now.Add(time.Hour)
		must(accounts.RemindUsers(t.Context()))
		n.expect(403, "ORG_MATRIX_EXPIRED_ACCOUNT", alice, "GET", v3+"/account/whoami", "")
		link, err := url.Parse(regexp.MustCompile(`https://\S+`).FindString(box.all[0].Text))
		must(err)
		if box.all[0].To != "a@example.com" || link.Path != renewPath || !strings.Contains(box.all[0].Text, "@alice:hs") {
			t.Fatal(box.all[0])
		}
		if status, shown := n.page(link.RequestURI(), nil); status != 200 || !strings.Contains(shown, "@alice:hs") {
			t.Error(status, shown)
		}
		n.expect(403, "ORG_MATRIX_EXPIRED_ACCOUNT", alice, "GET", v3+"/account/whoami", "")
		if status, shown := n.page(link.Path, link.Query()); status != 200 {
			t.Error(status, shown)
		}
		n.expect(200, "", alice, "GET", v3+"/account/whoami", "")
		for _, form := range []url.Values{nil, link.Query()} {
			if status, _ := n.page(link.RequestURI(), form); status != 404 {
				t.Errorf("the link is good again: %d", status)
			}
		}
		now = now.Add(time.Hour)
		n.expect(200, "", alice, "POST", v3+"/logout", "{}")
	})
}
