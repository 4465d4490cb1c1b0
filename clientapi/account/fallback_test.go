package account

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"knock/internal/account"
	"knock/internal/mail"
	"knock/internal/sqldb"
)

// page fetches a page, or sends its form.
func (n *node) page(path string, form url.Values) (int, string) {
	n.t.Helper()
	req := httptest.NewRequest("GET", path, nil)
	if form != nil {
		req = httptest.NewRequest("POST", path, strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	rec := httptest.NewRecorder()
	n.router.ServeHTTP(rec, req)
	if rec.Header().Get("Content-Type") != "text/html; charset=utf-8" || rec.Header().Get("X-Frame-Options") != "DENY" {
		n.t.Errorf("%s: %v", path, rec.Header())
	}
	return rec.Code, rec.Body.String()
}

// captcha is a service that takes the answer "right".
func captcha(t *testing.T) *Captcha {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"success":%v}`, r.FormValue("secret") == "hush" && r.FormValue("response") == "right")
	}))
	t.Cleanup(s.Close)
	return &Captcha{SiteKey: "site", Secret: "hush", VerifyURL: s.URL, ScriptURL: "https://captcha.example/api.js", HTTP: s.Client()}
}

var terms = []Policy{{"privacy", "1.2", "en", "Privacy policy", "https://hs.example/privacy"}, {"privacy", "1.2", "fr", "Confidentialité", "https://hs.example/fr"}}

func TestTermsAndCaptcha(t *testing.T) {
	o := Options{Registration: Registration{Enabled: true, Terms: terms, Captcha: captcha(t)}}
	each(t, o, func(t *testing.T, n *node) {
		const path = v3 + "/register"
		ask := n.expect(401, "", "", "POST", path, `{}`)
		if got := fmt.Sprint(ask["flows"]); got != "[map[stages:[m.login.recaptcha m.login.terms]]]" {
			t.Error(got)
		}
		if got := fmt.Sprint(ask["params"]); got != "map[m.login.recaptcha:map[public_key:site] m.login.terms:map[policies:map[privacy:map[en:map[name:Privacy policy url:https://hs.example/privacy] fr:map[name:Confidentialité url:https://hs.example/fr] version:1.2]]]]" {
			t.Error(got)
		}
		body := func(auth string) string {
			return fmt.Sprintf(`{"username":"alice","password":"long enough","auth":{"session":%q,%s}}`, ask["session"], auth)
		}
		n.expect(401, "M_UNKNOWN", "", "POST", path, body(`"type":"m.login.terms"`)) // not its turn
		n.expect(401, "M_CAPTCHA_NEEDED", "", "POST", path, body(`"type":"m.login.recaptcha"`))
		n.expect(401, "M_CAPTCHA_INVALID", "", "POST", path, body(`"type":"m.login.recaptcha","response":"wrong"`))
		next := n.expect(401, "", "", "POST", path, body(`"type":"m.login.recaptcha","response":"right"`))
		if fmt.Sprint(next["completed"]) != "[m.login.recaptcha]" {
			t.Error(next)
		}
		n.expect(200, "", "", "POST", path, body(`"type":"m.login.terms"`))
		if got := n.accepted("alice"); got != "privacy 1.2" {
			t.Errorf("accepted: %q", got)
		}
	})
}

// accepted are the terms that the database has for a user.
func (n *node) accepted(local string) (all string) {
	n.t.Helper()
	err := n.db.Read(n.t.Context(), func(tx *sqldb.Tx) error {
		list, err := sqldb.Collect(tx, testTerms, func(r *sqldb.Rows) (string, error) {
			var policy, version []byte
			err := r.Scan(&policy, &version)
			return string(policy) + " " + string(version), err
		}, local)
		all = strings.Join(list, ",")
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

var testTerms = sqldb.Register("account_test.terms", `SELECT policy, version FROM accepted_terms WHERE localpart = $1`)

// letters keeps e-mails.
type letters struct{ all []mail.Message }

func (l *letters) Send(_ context.Context, m mail.Message) error {
	l.all = append(l.all, m)
	return nil
}

var hidden = regexp.MustCompile(`name="(sid|client_secret)" value="([^"]*)"`)

// TestRegisterOnPages completes every stage on its web page.
func TestRegisterOnPages(t *testing.T) {
	box := &letters{}
	o := Options{Mail: box, BaseURL: "https://hs.example", Registration: Registration{Enabled: true, RequireToken: true, RequireEmail: true, Terms: terms, Captcha: captcha(t)}}
	each(t, o, func(t *testing.T, n *node) {
		one := int64(1)
		if _, err := n.accounts.CreateRegistrationToken(t.Context(), account.RegistrationToken{Token: "once", UsesAllowed: &one}); err != nil {
			t.Fatal(err)
		}
		ask := n.expect(401, "", "", "POST", v3+"/register", `{}`)
		session := ask["session"].(string)
		at := func(stage string) string { return v3 + "/auth/" + stage + "/fallback/web" }
		send := func(stage string, status int, want string, form url.Values) string {
			t.Helper()
			form.Set("session", session)
			got, shown := n.page(at(stage), form)
			if got != status || !strings.Contains(shown, want) {
				t.Fatalf("%s %v: %d %s", stage, form, got, shown)
			}
			return shown
		}
		show := func(stage, want string) {
			t.Helper()
			if status, shown := n.page(at(stage)+"?session="+session, nil); status != 200 || !strings.Contains(shown, want) {
				t.Fatalf("%s: %d %s", stage, status, shown)
			}
		}
		const done = "window.onAuthDone()"
		if status, _ := n.page(at(account.StageTerms)+"?session=unknown", nil); status != 404 {
			t.Error(status)
		}
		if status, _ := n.page(at("m.login.dance")+"?session="+session, nil); status != 404 {
			t.Error(status)
		}
		show(account.StageRegistrationToken, `name="token"`)
		send(account.StageRegistrationToken, 401, "not valid", url.Values{"token": {"<script>"}})
		send(account.StageTerms, 401, "not the next", url.Values{"accept": {"yes"}})
		send(account.StageRegistrationToken, 200, done, url.Values{"token": {"once"}})
		show(account.StageCaptcha, `data-sitekey="site"`)
		send(account.StageCaptcha, 401, "wrong", url.Values{"g-recaptcha-response": {"wrong"}})
		send(account.StageCaptcha, 200, done, url.Values{"g-recaptcha-response": {"right"}})
		show(account.StageTerms, "https://hs.example/privacy")
		send(account.StageTerms, 403, "accept", url.Values{})
		send(account.StageTerms, 200, done, url.Values{"accept": {"yes"}})
		show(account.StageTerms, done)
		show(account.StageEmail, `name="email"`)
		send(account.StageEmail, 400, "not an e-mail address", url.Values{"email": {"nonsense"}})
		sent := send(account.StageEmail, 200, "on its way", url.Values{"email": {"Alice@example.com"}})
		form := url.Values{}
		for _, field := range hidden.FindAllStringSubmatch(sent, -1) {
			form.Set(field[1], field[2])
		}
		send(account.StageEmail, 401, "not confirmed", form)
		letter := box.all[len(box.all)-1]
		link, err := url.Parse(regexp.MustCompile(`https://\S+`).FindString(letter.Text))
		if err != nil || letter.To != "alice@example.com" {
			t.Fatal(letter, err)
		}
		if status, shown := n.page(link.Path, link.Query()); status != 200 {
			t.Fatal(shown)
		}
		send(account.StageEmail, 200, done, form)
		l := n.expect(200, "", "", "POST", v3+"/register", fmt.Sprintf(`{"username":"alice","password":"long enough","auth":{"session":%q}}`, session))
		if got := n.expect(200, "", l["access_token"].(string), "GET", v3+"/account/3pid", ""); !strings.Contains(fmt.Sprint(got), "alice@example.com") {
			t.Error(got)
		}
	})
}

// TestPasswordOnPage gives the password again on a web page.
func TestPasswordOnPage(t *testing.T) {
	each(t, open, func(t *testing.T, n *node) {
		token := n.register("alice")
		other := n.device("OTHER")
		ask := n.expect(401, "", token, "DELETE", v3+"/devices/OTHER", `{}`)
		const path = v3 + "/auth/m.login.password/fallback/web"
		form := url.Values{"session": {ask["session"].(string)}, "password": {"wrong"}}
		if status, shown := n.page(path, form); status != 401 || !strings.Contains(shown, "Wrong user name or password") {
			t.Fatal(status, shown)
		}
		n.expect(401, "", token, "DELETE", v3+"/devices/OTHER", fmt.Sprintf(`{"auth":{"session":%q}}`, ask["session"]))
		form.Set("password", "pass of alice")
		if status, shown := n.page(path, form); status != 200 || !strings.Contains(shown, "onAuthDone") {
			t.Fatal(status, shown)
		}
		n.expect(200, "", token, "DELETE", v3+"/devices/OTHER", fmt.Sprintf(`{"auth":{"session":%q}}`, ask["session"]))
		n.expect(401, "M_UNKNOWN_TOKEN", other, "GET", v3+"/account/whoami", "")
		if status, _ := n.page(path, form); status != 404 { // the session is over
			t.Error(status)
		}
	})
}
