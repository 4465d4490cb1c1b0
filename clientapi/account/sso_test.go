package account

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"knock/internal/account"
	"knock/internal/sqldb"
	"knock/internal/sso"
	"knock/internal/sso/ssotest"
)

const (
	ssoBase = "https://hs.example"
	client  = "https://client.example/app?x=y"
)

// signOn is a door with an identity provider.
type signOn struct {
	*node
	idp *ssotest.Provider
	sso *sso.Service
	now time.Time
}

// eachSSO runs fn with one provider, which edit may change, and one trusted client.
func eachSSO(t *testing.T, o Options, edit func(*sso.Provider), fn func(t *testing.T, n *signOn)) {
	t.Helper()
	var n *signOn
	eachMade(t, func(t *testing.T, db *sqldb.DB) Options {
		n = &signOn{idp: ssotest.Serve(t), now: time.Now()}
		p := sso.Provider{ID: "idp", Name: "The <IdP>", Brand: "brand", Issuer: n.idp.URL, ClientID: ssotest.ClientID, ClientSecret: ssotest.ClientSecret,
			Claims: sso.ClaimNames{Localpart: "preferred_username", DisplayName: "name", Email: "email"}}
		if edit != nil {
			edit(&p)
		}
		other := p
		other.ID, other.Issuer, other.Name = "other", n.idp.URL+"/other", "Other"
		web := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		t.Cleanup(web.CloseIdleConnections)
		var err error
		n.sso, err = sso.New(sso.Options{DB: db, HTTP: web, BaseURL: ssoBase, Providers: []sso.Provider{p, other},
			Trusted: []string{"https://trusted.example/"}, Now: func() time.Time { return n.now }})
		if err != nil {
			t.Fatal(err)
		}
		n.idp.Set(func(p *ssotest.Provider) {
			p.Person, p.Now = ssotest.Person("alice"), func() time.Time { return n.now }
		})
		o.SSO, o.BaseURL = n.sso, ssoBase
		return o
	}, func(t *testing.T, inner *node) {
		n.node = inner
		fn(t, n)
	})
}

// browser follows redirects between the server and the provider.
type browser struct {
	n       *signOn
	cookies map[string]string
}

func (n *signOn) browser() *browser { return &browser{n, map[string]string{}} }

// open opens an address, or sends a form to it. at is where the browser ends: a page with its status, or an address of
// somebody else.
func (b *browser) open(address string, form url.Values) (at *url.URL, status int, page string) {
	b.n.t.Helper()
	for range 10 {
		u, err := url.Parse(address)
		if err != nil {
			b.n.t.Fatal(err)
		}
		var resp *http.Response
		switch base := u.Scheme + "://" + u.Host; base {
		case ssoBase:
			resp = b.here(u, form)
		case b.n.idp.URL:
			if resp, err = b.there(address); err != nil {
				b.n.t.Fatal(err)
			}
		default:
			return u, 0, ""
		}
		form = nil
		if resp.StatusCode != http.StatusFound {
			var text strings.Builder
			_ = resp.Write(&text)
			resp.Body.Close()
			return u, resp.StatusCode, text.String()
		}
		resp.Body.Close()
		address = resp.Header.Get("Location")
	}
	b.n.t.Fatal("a browser goes round in circles")
	return nil, 0, ""
}

func (b *browser) there(address string) (*http.Response, error) {
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return web.Get(address)
}

func (b *browser) here(u *url.URL, form url.Values) *http.Response {
	req := httptest.NewRequest(http.MethodGet, u.RequestURI(), nil)
	if form != nil {
		req = httptest.NewRequest(http.MethodPost, u.RequestURI(), strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range b.cookies {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	rec := httptest.NewRecorder()
	b.n.router.ServeHTTP(rec, req)
	resp := rec.Result()
	for _, c := range resp.Cookies() {
		if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			b.n.t.Errorf("cookie %v", c)
		}
		b.cookies[c.Name] = c.Value
	}
	if resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Referrer-Policy") != "no-referrer" {
		b.n.t.Errorf("%s: %v", u, resp.Header)
	}
	return resp
}

func ssoStart(client string) string {
	return ssoBase + v3 + "/login/sso/redirect/idp?" + url.Values{"redirectUrl": {client}}.Encode()
}

var (
	nextLink = regexp.MustCompile(`href="([^"]*ticket=[^"]*)"`)
	formIn   = regexp.MustCompile(`action="([^"]*)">\s*<input type="hidden" name="ticket" value="([^"]*)">`)
)

// shows opens an address that must end at a page of ours.
func (b *browser) shows(status int, says, address string, form url.Values) string {
	b.n.t.Helper()
	at, got, page := b.open(address, form)
	if got != status || !strings.Contains(page, says) || strings.Contains(page, "loginToken") || at.Query().Has("loginToken") {
		b.n.t.Fatalf("%s: %s %d %s, want %d %q", address, at, got, page, status, says)
	}
	return page
}

// next is the link of a page that asks.
func (b *browser) next(page string) string {
	b.n.t.Helper()
	found := nextLink.FindStringSubmatch(page)
	if found == nil {
		b.n.t.Fatal(page)
	}
	return html.UnescapeString(found[1])
}

// press sends the form of a page.
func (b *browser) press(page string, more url.Values) (address string, form url.Values) {
	b.n.t.Helper()
	found := formIn.FindStringSubmatch(page)
	if found == nil {
		b.n.t.Fatal(page)
	}
	form = url.Values{"ticket": {found[2]}}
	for name, values := range more {
		form[name] = values
	}
	return html.UnescapeString(found[1]), form
}

// token is the login token with which the browser came to a client.
func (b *browser) token(address, client string) string {
	b.n.t.Helper()
	at, _, page := b.open(address, nil)
	if !strings.HasPrefix(at.String(), client) || at.Query().Get("loginToken") == "" {
		b.n.t.Fatal(at, page)
	}
	return at.Query().Get("loginToken")
}

// login goes all the way to a client that is not trusted and logs in there.
func (b *browser) login() (userID, access string) {
	b.n.t.Helper()
	page := b.shows(200, "client.example", ssoStart(client), nil)
	return b.n.useToken(b.token(b.next(page), "https://client.example/app?x=y&"))
}

func (n *signOn) useToken(token string) (userID, access string) {
	n.t.Helper()
	l := n.expect(200, "", "", "POST", v3+"/login", fmt.Sprintf(`{"type":"m.login.token","token":%q}`, token))
	return l["user_id"].(string), l["access_token"].(string)
}

func TestSSOLogin(t *testing.T) {
	eachSSO(t, Options{}, nil, func(t *testing.T, n *signOn) {
		flows := n.expect(200, "", "", "GET", v3+"/login", "")["flows"]
		want := "map[identity_providers:[map[brand:brand id:idp name:The <IdP>] map[brand:brand id:other name:Other]] type:m.login.sso]"
		if got := fmt.Sprint(flows); !strings.Contains(got, want) || !strings.Contains(got, "m.login.token") {
			t.Error(got)
		}
		b := n.browser()
		user, access := b.login()
		if user != "@alice:hs" {
			t.Fatal(user)
		}
		if got := n.expect(200, "", "", "GET", v3+"/profile/@alice:hs", ""); got["displayname"] != "ALICE" {
			t.Error(got)
		}
		if got := n.expect(200, "", access, "GET", v3+"/account/3pid", ""); !strings.Contains(fmt.Sprint(got), "alice@example.com") {
			t.Error(got)
		}
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":""}`)

		n.idp.Set(func(p *ssotest.Provider) { // the same person by another name
			p.Person = map[string]any{"sub": "sub of alice", "preferred_username": "alina"}
		})
		if user, _ := n.browser().login(); user != "@alice:hs" {
			t.Error("the second time it is", user)
		}
		if at, _, page := b.open(ssoStart("https://trusted.example/?a"), nil); at.Query().Get("loginToken") == "" || !at.Query().Has("a") {
			t.Error(at, page)
		}
		_, access = n.useToken(b.token(strings.Replace(ssoStart("https://trusted.example/"), "/v3/", "/r0/", 1), "https://trusted.example/"))
		if got := n.expect(200, "", access, "GET", v3+"/account/whoami", ""); got["user_id"] != "@alice:hs" {
			t.Error(got)
		}
	})
}

// TestSSOChoice lets people choose a provider.
func TestSSOChoice(t *testing.T) {
	eachSSO(t, Options{}, nil, func(t *testing.T, n *signOn) {
		b := n.browser()
		const path = ssoBase + v3 + "/login/sso/redirect"
		page := b.shows(200, "The &lt;IdP&gt;", path+"?action=register&redirectUrl="+url.QueryEscape(client), nil)
		found := regexp.MustCompile(`href="([^"]*redirect/idp[^"]*)"`).FindStringSubmatch(page)
		if found == nil {
			t.Fatal(page)
		}
		b.shows(200, "client.example", html.UnescapeString(found[1]), nil)
		b.shows(400, "redirectUrl", path, nil)
		b.shows(400, "redirectUrl", path+"/idp", nil)
		b.shows(400, "redirectUrl", path+"/idp?redirectUrl=javascript:alert(1)", nil)
		b.shows(404, "choose another", path+"/nobody?redirectUrl=https://x.example", nil)
		b.shows(502, "cannot be reached", path+"/other?redirectUrl=https://x.example", nil)
		b.shows(404, "choose another", ssoBase+sso.CallbackPath+"nobody?state=x", nil)
	})
	each(t, Options{}, func(t *testing.T, n *node) {
		for _, path := range []string{v3 + "/login/sso/redirect?redirectUrl=https://x.example", v3 + "/login/sso/redirect/idp?redirectUrl=https://x.example",
			sso.CallbackPath + "idp?state=x", "/_matrix/client/unstable/sso/continue?ticket=x"} {
			if status, page := n.page(path, nil); status != 404 || !strings.Contains(page, "no single sign-on") {
				t.Error(path, status, page)
			}
		}
		if got := fmt.Sprint(n.expect(200, "", "", "GET", v3+"/login", "")); strings.Contains(got, "sso") {
			t.Error(got)
		}
	})
}

// TestSSOAttacks is about what others can do with parts of a sign-in.
func TestSSOAttacks(t *testing.T) {
	eachSSO(t, Options{}, nil, func(t *testing.T, n *signOn) {
		victim, attacker := n.browser(), n.browser()
		// The attacker signs in and has the victim's browser open the end of it.
		resp := attacker.here(must(url.Parse(ssoStart("https://trusted.example/"))), nil)
		back, err := attacker.there(resp.Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		back.Body.Close()
		callback := back.Header.Get("Location")
		victim.shows(400, "another browser", callback, nil)
		attacker.token(callback, "https://trusted.example/") // it was the cookie
		attacker.shows(400, "opened before", callback, nil)  // and is used up

		page := attacker.shows(200, "client.example", ssoStart(client), nil)
		next := attacker.next(page)
		victim.shows(400, "another browser", next, nil)
		attacker.token(next, client)
		attacker.shows(400, "opened before", next, nil)

		old := attacker.next(attacker.shows(200, "client.example", ssoStart(client), nil))
		n.now = n.now.Add(sso.Lifetime)
		attacker.shows(400, "too old", old, nil)

		n.idp.Set(func(p *ssotest.Provider) { p.Person = nil })
		attacker.shows(403, "The &lt;IdP&gt; does not let you in", ssoStart(client), nil)
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestSSONames(t *testing.T) {
	eachSSO(t, open, nil, func(t *testing.T, n *signOn) {
		n.register("alice")
		if user, _ := n.browser().login(); user != "@alice2:hs" {
			t.Error("whose name is taken is", user)
		}
		n.idp.Set(func(p *ssotest.Provider) { p.Person["sub"], p.Person["email"] = "another", "alice@example.com" })
		user, access := n.browser().login()
		if user != "@alice3:hs" {
			t.Error(user)
		}
		if got := n.expect(200, "", access, "GET", v3+"/account/3pid", ""); fmt.Sprint(got) != "map[threepids:[]]" {
			t.Error("an address that is another's:", got)
		}
		n.idp.Set(func(p *ssotest.Provider) { p.Person = map[string]any{"sub": "x", "preferred_username": "Ä B"} })
		if user, _ := n.browser().login(); user != "@=c3=84=20b:hs" {
			t.Error(user)
		}
		n.idp.Set(func(p *ssotest.Provider) { p.Person = map[string]any{"sub": "nameless"} })
		n.browser().shows(403, "does not tell this server a user name", ssoStart(client), nil)
		n.idp.Set(func(p *ssotest.Provider) {
			p.Person = map[string]any{"sub": "y", "preferred_username": strings.Repeat("x", 300)}
		})
		if user, _ := n.browser().login(); len(user) != 204 {
			t.Error(user)
		}
	})
}

func TestSSOAdoptLocalpart(t *testing.T) {
	eachSSO(t, open, func(p *sso.Provider) { p.Adopt = sso.AdoptLocalpart }, func(t *testing.T, n *signOn) {
		n.register("alice")
		if user, _ := n.browser().login(); user != "@alice:hs" {
			t.Error(user)
		}
		n.idp.Set(func(p *ssotest.Provider) { p.Person["sub"] = "somebody else who is called alice now" })
		n.browser().shows(403, "another person", ssoStart(client), nil)
		n.idp.Set(func(p *ssotest.Provider) { p.Person = ssotest.Person("bob") })
		if user, _ := n.browser().login(); user != "@bob:hs" {
			t.Error(user)
		}
	})
}

func TestSSOAdoptEmail(t *testing.T) {
	eachSSO(t, Options{}, func(p *sso.Provider) { p.Adopt, p.ExistingOnly = sso.AdoptEmail, true }, func(t *testing.T, n *signOn) {
		n.browser().shows(403, "no account on hs yet", ssoStart(client), nil)
		withEmail(n.node, "ali", "alice@example.com")
		n.idp.Set(func(p *ssotest.Provider) { p.Person["email_verified"] = false })
		n.browser().shows(403, "no account on hs yet", ssoStart(client), nil)
		n.idp.Set(func(p *ssotest.Provider) { p.Person["email_verified"], p.Person["email"] = true, "Alice@Example.com" })
		if user, _ := n.browser().login(); user != "@ali:hs" {
			t.Error(user)
		}
	})
}

// withEmail makes a user with a confirmed address.
func withEmail(n *node, name, address string) {
	n.t.Helper()
	c := confirmed(n, account.ToRegister, address)
	if _, err := n.accounts.CreateUser(n.t.Context(), account.NewUser{Username: name, Email: &c}); err != nil {
		n.t.Fatal(err)
	}
}

func TestSSOEndedAccounts(t *testing.T) {
	eachSSO(t, Options{}, nil, func(t *testing.T, n *signOn) {
		b := n.browser()
		b.login()
		next := b.next(b.shows(200, "client.example", ssoStart(client), nil))
		if err := n.accounts.SetLocked(t.Context(), "@alice:hs", true); err != nil {
			t.Fatal(err)
		}
		b.shows(401, "locked", next, nil)
		b.shows(401, "locked", ssoStart(client), nil)
		b.shows(401, "locked", ssoStart("https://trusted.example/"), nil)
		if err := n.accounts.SetLocked(t.Context(), "@alice:hs", false); err != nil {
			t.Fatal(err)
		}
		if err := n.accounts.Deactivate(t.Context(), "@alice:hs", true); err != nil {
			t.Fatal(err)
		}
		b.shows(403, "deactivated", ssoStart("https://trusted.example/"), nil)
	})
}

func TestSSOTerms(t *testing.T) {
	eachSSO(t, Options{Registration: Registration{Terms: terms}}, nil, func(t *testing.T, n *signOn) {
		b := n.browser()
		page := b.shows(200, "https://hs.example/privacy", ssoStart("https://trusted.example/"), nil)
		if !strings.Contains(page, "@alice:hs") {
			t.Error(page)
		}
		address, form := b.press(page, nil)
		b.shows(403, "say that you accept", address, form)
		form.Set("accept", "yes")
		n.browser().shows(400, "another browser", address, form)
		if there, err := n.accounts.Exists(t.Context(), "@alice:hs"); there || err != nil {
			t.Fatal(there, err)
		}
		page = b.shows(200, "trusted.example", address, form)
		if got := n.accepted("alice"); got != "privacy 1.2" {
			t.Error(got)
		}
		if user, _ := n.useToken(b.token(b.next(page), "https://trusted.example/")); user != "@alice:hs" {
			t.Error(user)
		}
		b.shows(400, "opened before", address, form)
		if at, _, page := b.open(ssoStart("https://trusted.example/"), nil); !at.Query().Has("loginToken") {
			t.Error("terms again", page)
		}
	})
}

// TestSSOTwice has a person begin twice before there is an account.
func TestSSOTwice(t *testing.T) {
	eachSSO(t, Options{Registration: Registration{Terms: terms}}, nil, func(t *testing.T, n *signOn) {
		b := n.browser()
		accept := url.Values{"accept": {"yes"}}
		one, formOne := b.press(b.shows(200, "privacy", ssoStart(client), nil), accept)
		two, formTwo := b.press(b.shows(200, "privacy", ssoStart(client), nil), accept)
		b.shows(200, "@alice:hs", one, formOne)
		b.shows(200, "@alice:hs", two, formTwo)
		if there, err := n.accounts.Exists(t.Context(), "@alice2:hs"); there || err != nil {
			t.Error(there, err)
		}
	})
}

// TestSSOStage confirms an operation by signing in again.
func TestSSOStage(t *testing.T) {
	eachSSO(t, open, nil, func(t *testing.T, n *signOn) {
		b := n.browser()
		_, access := b.login()
		other, err := n.accounts.LoginTrusted(t.Context(), "alice", account.NewDevice{ID: "OTHER"})
		if err != nil {
			t.Fatal(err)
		}
		const path = v3 + "/devices/OTHER"
		ask := n.expect(401, "", access, "DELETE", path, "")
		if got := fmt.Sprint(ask["flows"]); got != "[map[stages:[m.login.sso]]]" {
			t.Fatal(got)
		}
		session := ask["session"].(string)
		again := fmt.Sprintf(`{"auth":{"session":%q}}`, session)
		page := ssoBase + v3 + "/auth/m.login.sso/fallback/web?session=" + url.QueryEscape(session)

		n.expect(401, "M_UNKNOWN", access, "DELETE", path, fmt.Sprintf(`{"auth":{"session":%q,"type":"m.login.sso"}}`, session))
		n.expect(401, "M_UNKNOWN", access, "DELETE", path, fmt.Sprintf(`{"auth":{"session":%q,"type":"m.login.password"}}`, session))
		if status, _ := n.page(v3+"/auth/m.login.sso/fallback/web", url.Values{"session": {session}}); status != 404 {
			t.Error("a form completes the stage:", status)
		}

		n.idp.Set(func(p *ssotest.Provider) { p.Person = ssotest.Person("mallory") })
		b.shows(403, "you are not @alice:hs", page, nil) // not known here
		n.browser().login()
		b.shows(403, "you are not @alice:hs", page, nil) // another user
		n.expect(401, "", access, "DELETE", path, again)

		n.idp.Set(func(p *ssotest.Provider) { p.Person = ssotest.Person("alice") })
		shown := b.shows(200, "delete devices", page, nil)
		if n.idp.Asked().Get("prompt") != "login" || !strings.Contains(shown, "OTHER") {
			t.Error(n.idp.Asked(), shown)
		}
		n.expect(401, "", access, "DELETE", path, again) // not confirmed yet
		address, form := b.press(shown, nil)
		n.browser().shows(400, "another browser", address, form)
		b.shows(200, "window.onAuthDone()", address, form)
		b.shows(400, "opened before", address, form)
		b.shows(200, "window.onAuthDone()", page, nil)
		n.expect(401, "M_UNKNOWN", access, "DELETE", v3+"/devices/ANOTHER", again) // good for one operation
		n.expect(200, "", access, "DELETE", path, again)
		n.expect(401, "M_UNKNOWN_TOKEN", other.AccessToken, "GET", v3+"/account/whoami", "")
		b.shows(404, "has ended", page, nil)

		ask = n.expect(401, "", access, "POST", v1+"/login/get_token", "")
		if got := fmt.Sprint(ask["flows"]); got != "[map[stages:[m.login.sso]]]" {
			t.Fatal(got)
		}
	})
}

// TestSSOStageAndPassword lets users with a password choose.
func TestSSOStageAndPassword(t *testing.T) {
	eachSSO(t, open, func(p *sso.Provider) { p.Adopt = sso.AdoptLocalpart }, func(t *testing.T, n *signOn) {
		token := n.register("alice")
		bob := n.register("bob")
		flows := func(token string) string {
			return fmt.Sprint(n.expect(401, "", token, "DELETE", v3+"/devices/X", "")["flows"])
		}
		if got := flows(token); got != "[map[stages:[m.login.password]]]" {
			t.Error(got)
		}
		n.browser().login()
		if got := flows(token); got != "[map[stages:[m.login.password]] map[stages:[m.login.sso]]]" {
			t.Error(got)
		}
		if got := flows(bob); got != "[map[stages:[m.login.password]]]" {
			t.Error(got)
		}
		ask := n.expect(401, "", bob, "DELETE", v3+"/devices/X", "")
		n.browser().shows(404, "has no single sign-on", ssoBase+v3+"/auth/m.login.sso/fallback/web?session="+ask["session"].(string), nil)
		reg := n.expect(401, "", "", "POST", v3+"/register", "{}")
		n.browser().shows(404, "no page for this step", ssoBase+v3+"/auth/m.login.sso/fallback/web?session="+reg["session"].(string), nil)
		ask = n.expect(401, "", token, "DELETE", v3+"/devices/X", "")
		n.expect(200, "", token, "DELETE", v3+"/devices/X", fmt.Sprintf(`{"auth":{"session":%q,"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"pass of alice"}}`, ask["session"]))
	})
}

// TestSSOLogout ends devices when the provider says so.
func TestSSOLogout(t *testing.T) {
	eachSSO(t, open, func(p *sso.Provider) { p.Adopt, p.Backchannel = sso.AdoptLocalpart, true }, func(t *testing.T, n *signOn) {
		byPassword := n.register("alice")
		in := func(session string) string {
			n.idp.Set(func(p *ssotest.Provider) {
				p.Person = ssotest.Person("alice")
				if session != "" {
					p.Person["sid"] = session
				}
			})
			_, access := n.browser().login()
			return access
		}
		one, two, three, nameless := in("one"), in("two"), in("three"), in("")
		waiting := n.browser().token(ssoStart("https://trusted.example/"), "https://trusted.example/") // of nameless's kind
		n.idp.Set(func(p *ssotest.Provider) { p.Person["sid"] = "two" })
		unused := n.browser().token(ssoStart("https://trusted.example/"), "https://trusted.example/")
		logout := func(status int, code string, claims map[string]any) {
			t.Helper()
			form := url.Values{"logout_token": {n.idp.LogoutToken(claims)}}
			req := httptest.NewRequest("POST", sso.LogoutPath+"idp", strings.NewReader(form.Encode()))
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			rec := httptest.NewRecorder()
			n.router.ServeHTTP(rec, req)
			if rec.Code != status || rec.Code == 200 && rec.Header().Get("Cache-Control") != "no-store" || !strings.Contains(rec.Body.String(), code) {
				t.Fatal(rec.Code, rec.Header(), rec.Body)
			}
		}
		alive := func(want string) {
			t.Helper()
			got := ""
			for name, token := range map[string]string{"p": byPassword, "1": one, "2": two, "3": three, "n": nameless} {
				if status, _ := n.call(token, "GET", v3+"/account/whoami", ""); status == 200 {
					got += name
				}
			}
			if len(got) != len(want) || strings.Trim(got, want) != "" {
				t.Fatalf("alive are %q, want %q", got, want)
			}
		}
		alive("p123n")
		logout(400, "M_INVALID_PARAM", map[string]any{"sid": "two", "aud": "another"})
		logout(200, "{}", map[string]any{"sid": "unheard of", "sub": "sub of alice"})
		alive("p123n")
		logout(200, "{}", map[string]any{"sid": "two", "sub": "sub of alice"})
		alive("p13n")
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", fmt.Sprintf(`{"type":"m.login.token","token":%q}`, unused))

		// Who logs in by password with the same device does not need the session any more.
		who := n.expect(200, "", three, "GET", v3+"/account/whoami", "")
		again := n.expect(200, "", "", "POST", v3+"/login", fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"pass of alice","device_id":%q}`, who["device_id"]))
		three = again["access_token"].(string)
		logout(200, "{}", map[string]any{"sid": "three"})
		alive("p13n")
		logout(200, "{}", map[string]any{"sub": "sub of nobody"})
		alive("p13n")
		logout(200, "{}", map[string]any{"sub": "sub of alice"})
		alive("p3")
		n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", fmt.Sprintf(`{"type":"m.login.token","token":%q}`, waiting))
		var rows int64
		if err := n.db.Read(t.Context(), func(tx *sqldb.Tx) error { return tx.QueryRow(testSessions).Scan(&rows) }); err != nil || rows != 0 {
			t.Error(rows, "rows of sessions are left", err)
		}
	})
	eachSSO(t, Options{}, nil, func(t *testing.T, n *signOn) { // not turned on
		n.idp.Set(func(p *ssotest.Provider) { p.Person["sid"] = "one" })
		n.browser().login()
		var rows int64
		if err := n.db.Read(t.Context(), func(tx *sqldb.Tx) error { return tx.QueryRow(testSessions).Scan(&rows) }); err != nil || rows != 0 {
			t.Error(rows, err)
		}
	})
}

var testSessions = sqldb.Register("account_test.sessions", `SELECT count(*) FROM external_sessions`)

// TestSSONoPasswords: where a provider is the only way in, a password that somebody has or sets is none.
func TestSSONoPasswords(t *testing.T) {
	eachSSO(t, open, func(p *sso.Provider) { p.Adopt, p.NoPasswords = sso.AdoptLocalpart, true }, func(t *testing.T, n *signOn) {
		token := n.register("alice")
		bob := n.register("bob")
		login := func(user string) string {
			return fmt.Sprintf(`{"type":"m.login.password","identifier":{"type":"m.id.user","user":%q},"password":"pass of %s"}`, user, user)
		}
		n.expect(200, "", "", "POST", v3+"/login", login("alice")) // not connected yet
		ask := n.expect(401, "", token, "DELETE", v3+"/devices/X", "")
		n.browser().login()
		if out := n.expect(403, "M_FORBIDDEN", "", "POST", v3+"/login", login("alice")); !strings.Contains(out["error"].(string), "single sign-on") {
			t.Error(out)
		}
		n.expect(200, "", "", "POST", v3+"/login", login("bob"))
		auth := fmt.Sprintf(`{"auth":{"session":%q,"type":"m.login.password","password":"pass of alice"}}`, ask["session"])
		n.expect(401, "M_UNKNOWN", token, "DELETE", v3+"/devices/X", auth)
		if got := fmt.Sprint(n.expect(401, "", token, "DELETE", v3+"/devices/X", "")["flows"]); got != "[map[stages:[m.login.sso]]]" {
			t.Error(got)
		}
		n.expect(403, "M_FORBIDDEN", token, "POST", v3+"/account/password", `{"new_password":"another password"}`)
		n.expect(401, "", bob, "POST", v3+"/account/password", `{"new_password":"another password"}`)

		c := confirmed(n.node, account.ToReset, "alice@example.com")
		if err := n.accounts.ResetPassword(t.Context(), c.SID, c.ClientSecret, "a third password", false); err == nil {
			t.Error("an address that nobody has is good for a reset")
		}
		add := confirmed(n.node, account.ToAdd, "alice@example.com")
		if err := n.accounts.AddEmail(t.Context(), "@alice:hs", add.SID, add.ClientSecret); err != nil {
			t.Fatal(err)
		}
		c = confirmed(n.node, account.ToReset, "alice@example.com")
		if err := n.accounts.ResetPassword(t.Context(), c.SID, c.ClientSecret, "a third password", false); err == nil || !strings.Contains(err.Error(), "single sign-on") {
			t.Error(err)
		}
	})
}

// confirmed is a confirmed validation of an address.
func confirmed(n *node, purpose, address string) account.Credentials {
	n.t.Helper()
	c := account.Credentials{ClientSecret: "secret"}
	var token string
	var err error
	if c.SID, token, err = n.accounts.BeginValidation(n.t.Context(), account.ValidationRequest{Purpose: purpose, Address: address, ClientSecret: c.ClientSecret, Attempt: 1}); err == nil {
		_, err = n.accounts.ConfirmValidation(n.t.Context(), c.SID, token)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}
