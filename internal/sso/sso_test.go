package sso

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/sqldb/sqldbtest"
	"knock/internal/sso/ssotest"
)

// desk is a Service with one provider.
type desk struct {
	t   *testing.T
	s   *Service
	idp *ssotest.Provider
	now time.Time
}

func each(t *testing.T, fn func(d *desk)) { eachWith(t, nil, fn) }

func eachWith(t *testing.T, edit func(*Provider), fn func(d *desk)) {
	sqldbtest.Each(t, func(t *testing.T, db *sqldb.DB) {
		d := &desk{t: t, idp: ssotest.Serve(t), now: time.Now()}
		p := Provider{ID: "idp", Name: "The IdP", Issuer: d.idp.URL, ClientID: ssotest.ClientID, ClientSecret: ssotest.ClientSecret,
			Scopes: []string{"profile", "email"}, Claims: ClaimNames{Localpart: "preferred_username", DisplayName: "name", Email: "email"}}
		if edit != nil {
			edit(&p)
		}
		other := p
		other.ID = "other"
		web := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		t.Cleanup(web.CloseIdleConnections)
		var err error
		d.s, err = New(Options{DB: db, HTTP: web, BaseURL: "https://hs.example", Providers: []Provider{p, other}, Now: func() time.Time { return d.now }})
		if err != nil {
			t.Fatal(err)
		}
		d.idp.Set(func(p *ssotest.Provider) {
			p.Person, p.Now = ssotest.Person("alice"), func() time.Time { return d.now }
		})
		fn(d)
	})
}

// begin sends a browser to the provider and returns with what it comes back.
func (d *desk) begin(browser string, f Flow) url.Values {
	d.t.Helper()
	location, err := d.s.Begin(d.t.Context(), "idp", browser, f, false)
	if err != nil {
		d.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, location, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, err := d.s.o.HTTP.Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	resp.Body.Close()
	back, err := url.Parse(resp.Header.Get("Location"))
	if err != nil || resp.StatusCode != http.StatusFound || !strings.HasPrefix(back.String(), "https://hs.example"+CallbackPath+"idp?") {
		d.t.Fatal(resp.StatusCode, back, err)
	}
	return back.Query()
}

func (d *desk) finish(browser string, q url.Values) (Flow, *Person, error) {
	return d.s.Finish(d.t.Context(), "idp", browser, q)
}

// refused checks an error, and that it says something.
func (d *desk) refused(err error, status int, says string) {
	d.t.Helper()
	if e := matrixerr.From(err); err == nil || e.HTTP != status || !strings.Contains(e.Error(), says) {
		d.t.Errorf("%v, want %d and %q", err, status, says)
	}
}

func TestSignIn(t *testing.T) {
	for _, alg := range []jose.SignatureAlgorithm{jose.RS256, jose.ES256} {
		t.Run(string(alg), func(t *testing.T) {
			each(t, func(d *desk) {
				d.idp.Set(func(p *ssotest.Provider) { p.Algorithm = alg })
				browser := Browser("")
				f, p, err := d.finish(browser, d.begin(browser, Flow{Client: "https://client.example/"}))
				if err != nil || p.Issuer != d.idp.URL || p.Subject != "sub of alice" || f.Client != "https://client.example/" || f.Provider != "idp" {
					t.Fatal(f, p, err)
				}
				profile, err := p.Profile(t.Context())
				if err != nil || profile != (Profile{"alice", "ALICE", "alice@example.com"}) {
					t.Error(profile, err)
				}
				if n := d.idp.Calls("/.well-known/openid-configuration"); n != 1 {
					t.Error("discovered", n, "times")
				}
			})
		})
	}
}

// TestForged is about ID tokens that are not good.
func TestForged(t *testing.T) {
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	unsigned := func(claims []byte) string {
		return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims) + "."
	}
	set := func(name string, value any) func(*ssotest.Provider) {
		return func(p *ssotest.Provider) { p.Edit = func(claims map[string]any) { claims[name] = value } }
	}
	forged := map[string]func(*ssotest.Provider){
		"wrong nonce":    set("nonce", "another"),
		"no nonce":       set("nonce", ""),
		"wrong audience": set("aud", "somebody else"),
		"wrong issuer":   set("iss", "https://evil.example"),
		"expired":        set("exp", time.Now().Add(-time.Hour).Unix()),
		"not yet":        set("nbf", time.Now().Add(time.Hour).Unix()),
		"other party":    set("azp", "somebody else"),
		"two audiences":  set("aud", []string{"somebody else", ssotest.ClientID}),
		"no subject":     set("sub", ""),
		"long subject":   set("sub", strings.Repeat("x", 256)),
		"number subject": set("sub", 7),
		"wrong key": func(p *ssotest.Provider) {
			p.Sign = func(c []byte) string { return ssotest.Signed(t, jose.RS256, "rsa", stranger, c) }
		},
		"unknown key": func(p *ssotest.Provider) {
			p.Sign = func(c []byte) string { return ssotest.Signed(t, jose.RS256, "new", stranger, c) }
		},
		"client's secret": func(p *ssotest.Provider) {
			p.Sign = func(c []byte) string {
				return ssotest.Signed(t, jose.HS256, "rsa", []byte(strings.Repeat(ssotest.ClientSecret, 2)), c)
			}
		},
		"not signed": func(p *ssotest.Provider) { p.Sign = unsigned },
		"no token":   func(p *ssotest.Provider) { p.Sign = func([]byte) string { return "" } },
	}
	each(t, func(d *desk) {
		for name, edit := range forged {
			browser := Browser("")
			back := d.begin(browser, Flow{})
			d.idp.Set(edit)
			_, p, err := d.finish(browser, back)
			if p != nil {
				d.t.Error(name, "is a person:", p.Subject)
			}
			d.refused(err, http.StatusForbidden, "cannot be used")
			d.idp.Set(func(p *ssotest.Provider) { p.Edit, p.Sign = nil, nil })
		}
	})
}

// TestForgedAreThose makes sure that TestForged fails for its reasons: the same with good values works.
func TestForgedAreThose(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		back := d.begin(browser, Flow{})
		d.idp.Set(func(p *ssotest.Provider) {
			p.Edit = func(c map[string]any) {
				c["azp"], c["aud"] = ssotest.ClientID, []string{"somebody else", ssotest.ClientID}
			}
			p.Sign = func(c []byte) string { return ssotest.Signed(t, jose.RS256, "rsa", p.Key(), c) }
		})
		if _, _, err := d.finish(browser, back); err != nil {
			t.Error(err)
		}
	})
}

func TestStates(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		back := d.begin(browser, Flow{})
		for name, other := range map[string]string{"another": Browser(""), "none": "", "a short one": "x"} {
			if _, _, err := d.finish(other, back); err == nil {
				t.Error("the state is good for a browser with a cookie that is", name)
			}
		}
		_, _, err := d.s.Finish(t.Context(), "other", browser, back)
		d.refused(err, http.StatusBadRequest, "opened before")
		_, _, err = d.finish(browser, back) // the answer to another provider used it up
		d.refused(err, http.StatusBadRequest, "opened before")

		back = d.begin(browser, Flow{})
		if _, _, err := d.finish(browser, back); err != nil {
			t.Fatal(err)
		}
		_, _, err = d.finish(browser, back)
		d.refused(err, http.StatusBadRequest, "opened before")

		old := d.begin(browser, Flow{})
		d.now = d.now.Add(Lifetime)
		_, _, err = d.finish(browser, old)
		d.refused(err, http.StatusBadRequest, "too old")

		mixed := d.begin(browser, Flow{})
		mixed.Set("iss", "https://evil.example")
		_, _, err = d.finish(browser, mixed)
		d.refused(err, http.StatusBadRequest, "opened before")

		swapped := d.begin(browser, Flow{}) // somebody else's code in one's own flow
		swapped.Set("code", d.begin(Browser(""), Flow{}).Get("code"))
		_, _, err = d.finish(browser, swapped)
		d.refused(err, http.StatusForbidden, "cannot be used")

		_, _, err = d.s.Finish(t.Context(), "nowhere", browser, back)
		d.refused(err, http.StatusNotFound, "does not know")
		_, _, err = d.finish(browser, url.Values{"state": {strings.Repeat("x", 1<<16)}})
		d.refused(err, http.StatusBadRequest, "opened before")

		d.idp.Set(func(p *ssotest.Provider) { p.Person = nil })
		_, _, err = d.finish(browser, d.begin(browser, Flow{}))
		d.refused(err, http.StatusForbidden, "not signed in")
	})
}

// TestTickets holds that a ticket is good once, for one browser and one thing.
func TestTickets(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		ticket, err := d.s.Hold(t.Context(), browser, "one", map[string]string{"a": "b"})
		if err != nil {
			t.Fatal(err)
		}
		var got map[string]string
		d.refused(d.s.Take(t.Context(), browser, "two", ticket, &got), http.StatusBadRequest, "")
		d.refused(d.s.Take(t.Context(), Browser(""), "one", ticket, &got), http.StatusBadRequest, "")
		if err := d.s.Take(t.Context(), browser, "one", ticket, &got); err != nil || got["a"] != "b" {
			t.Error(got, err)
		}
		d.refused(d.s.Take(t.Context(), browser, "one", ticket, &got), http.StatusBadRequest, "")
	})
}

func TestProviderTrouble(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		begin := func() error {
			_, err := d.s.Begin(t.Context(), "idp", browser, Flow{}, false)
			return err
		}
		const discovery = "/.well-known/openid-configuration"
		d.idp.Set(func(p *ssotest.Provider) { p.Break = ssotest.Down })
		d.refused(begin(), http.StatusBadGateway, "The IdP cannot be reached")
		d.refused(begin(), http.StatusBadGateway, "The IdP cannot be reached")
		if n := d.idp.Calls(discovery); n != 1 {
			t.Error("asked", n, "times in a row")
		}
		d.now = d.now.Add(pause)
		d.idp.Set(func(p *ssotest.Provider) { p.Break = ssotest.Endless })
		d.refused(begin(), http.StatusBadGateway, "longer than 1 MiB")
		d.now = d.now.Add(pause)
		d.idp.Set(func(p *ssotest.Provider) { p.Break, p.OtherIssuer = nil, "https://evil.example" })
		d.refused(begin(), http.StatusBadGateway, "did not match")
		d.now = d.now.Add(pause)
		d.idp.Set(func(p *ssotest.Provider) { p.OtherIssuer = "" })
		back := d.begin(browser, Flow{})

		d.now = d.now.Add(fresh / 10) // still within the flow's lifetime
		for path, how := range map[string]func(http.ResponseWriter) bool{"/token": ssotest.Down, "/keys": ssotest.Endless} {
			d.idp.Set(func(p *ssotest.Provider) { p.Break, p.BreakPath = how, path })
			_, p, err := d.finish(browser, back)
			if err == nil || p != nil {
				t.Error(path, "is broken, and nothing is wrong")
			}
			d.idp.Set(func(p *ssotest.Provider) { p.Break = nil })
			back = d.begin(browser, Flow{})
		}
		d.idp.Set(func(p *ssotest.Provider) { p.Break, p.BreakPath = ssotest.Down, discovery })
		d.now = d.now.Add(fresh)
		if err := begin(); err != nil {
			t.Error("what was discovered an hour ago is not good enough:", err)
		}
	})
}

func TestReauthentication(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		confirm := Flow{Session: "session"}
		old := d.now.Add(-time.Hour).Unix()
		d.idp.Set(func(p *ssotest.Provider) { p.Edit = func(c map[string]any) { c["auth_time"] = old } })
		back := d.begin(browser, confirm)
		if d.idp.Asked().Get("prompt") != "login" {
			t.Error("people are not asked to sign in again")
		}
		_, _, err := d.finish(browser, back)
		d.refused(err, http.StatusForbidden, "without asking")
		if _, _, err := d.finish(browser, d.begin(browser, Flow{})); err != nil {
			t.Error("a login needs no new authentication:", err)
		}
		old = d.now.Unix()
		if _, _, err := d.finish(browser, d.begin(browser, confirm)); err != nil {
			t.Error(err)
		}
	})
	eachWith(t, func(p *Provider) { p.SkipReauthenticate = true }, func(d *desk) {
		browser := Browser("")
		if _, _, err := d.finish(browser, d.begin(browser, Flow{Session: "session"})); err != nil || d.idp.Asked().Has("prompt") {
			t.Error(err, d.idp.Asked())
		}
	})
}

// TestRegisterPrompt begins with the making of an account where the provider can do so.
func TestRegisterPrompt(t *testing.T) {
	each(t, func(d *desk) {
		d.idp.Set(func(p *ssotest.Provider) { p.Prompts = []string{"create"} })
		for register, want := range map[bool]string{true: "create", false: ""} {
			location, err := d.s.Begin(t.Context(), "idp", Browser(""), Flow{}, register)
			if u, parseErr := url.Parse(location); err != nil || parseErr != nil || u.Query().Get("prompt") != want {
				t.Error(register, location, err)
			}
		}
	})
}

func TestSecretInForm(t *testing.T) {
	each(t, func(d *desk) {
		d.idp.Set(func(p *ssotest.Provider) { p.Methods = []string{"client_secret_post"} })
		browser := Browser("")
		if _, _, err := d.finish(browser, d.begin(browser, Flow{})); err != nil {
			t.Error(err)
		}
	})
}

func TestUserInfo(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		d.idp.Set(func(p *ssotest.Provider) {
			p.Person = map[string]any{"sub": "sub of alice", "name": "From the token"}
			p.UserInfo = map[string]any{"name": "From UserInfo", "preferred_username": "alice", "email": "a@example.com", "email_verified": "true"}
		})
		_, p, err := d.finish(browser, d.begin(browser, Flow{}))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Profile(t.Context()); err != nil || got != (Profile{"alice", "From the token", "a@example.com"}) {
			t.Error(got, err)
		}
		d.idp.Set(func(p *ssotest.Provider) { p.UserInfo["sub"] = "sub of bob" })
		_, p, err = d.finish(browser, d.begin(browser, Flow{}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Profile(t.Context())
		d.refused(err, http.StatusForbidden, "another person")
	})
}

// TestUnverifiedEmail leaves out addresses that the provider has not confirmed.
func TestUnverifiedEmail(t *testing.T) {
	each(t, func(d *desk) {
		browser := Browser("")
		d.idp.Set(func(p *ssotest.Provider) { p.Person["email_verified"] = false })
		_, p, err := d.finish(browser, d.begin(browser, Flow{}))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Profile(t.Context()); err != nil || got.Email != "" {
			t.Error(got, err)
		}
	})
}

// TestManyFlows bounds what is under way, at the cost of the oldest.
func TestManyFlows(t *testing.T) {
	each(t, func(d *desk) {
		d.s.o.MaxFlows = 3
		browser := Browser("")
		hold := func() string {
			ticket, err := d.s.Hold(t.Context(), browser, "x", 1)
			if err != nil {
				t.Fatal(err)
			}
			d.now = d.now.Add(time.Second)
			return ticket
		}
		tickets := []string{hold(), hold(), hold(), hold(), hold()}
		for i, ticket := range tickets {
			var v int
			if err := d.s.Take(t.Context(), browser, "x", ticket, &v); (err == nil) != (i >= 2) {
				t.Error(i, err)
			}
		}
		rows := func(want int64) {
			t.Helper()
			var n int64
			if err := d.s.o.DB.Read(t.Context(), func(tx *sqldb.Tx) error { return tx.QueryRow(flowCount).Scan(&n) }); err != nil || n != want {
				t.Error(n, "rows", err)
			}
		}
		hold()
		d.now = d.now.Add(Lifetime)
		hold()
		rows(1)
		d.now = d.now.Add(Lifetime)
		if err := d.s.prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows(0)
	})
}

// TestManyAsk shares one discovery between those who ask at once.
func TestManyAsk(t *testing.T) {
	each(t, func(d *desk) {
		enter := make(chan struct{})
		d.idp.Set(func(p *ssotest.Provider) { p.Break = func(http.ResponseWriter) bool { <-enter; return false } })
		const many = 8
		errs := make(chan error, many)
		for range many {
			go func() {
				_, err := d.s.Begin(context.WithoutCancel(t.Context()), "idp", Browser(""), Flow{}, false)
				errs <- err
			}()
		}
		close(enter)
		for range many {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := d.idp.Calls("/.well-known/openid-configuration"); n < 1 || n > many {
			t.Error(n)
		}
	})
}

func TestLocalparts(t *testing.T) {
	for _, c := range []struct {
		in    string
		strip bool
		want  string
	}{
		{"alice", false, "alice"}, {"Alice.B-c_d/e+f", false, "alice.b-c_d/e+f"}, {"alice@corp.example", false, "alice=40corp.example"},
		{"Alice@corp.example", true, "alice"}, {"á=b c", false, "=c3=a1=3db=20c"}, {"", false, ""}, {"@x", true, ""},
		{"名", false, "=e5=90=8d"}, {strings.Repeat("名", 100), false, strings.Repeat("=e5=90=8d", 22)}, {"a\x00:b", false, "a=00=3ab"},
	} {
		if got := localpart(c.in, c.strip); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestClientURLs(t *testing.T) {
	for raw, want := range map[string]string{
		"https://chat.example.org":                       "https://chat.example.org?loginToken=t",
		"https://chat.example.org/?a=b&loginToken=x&c":   "https://chat.example.org/?a=b&c&loginToken=t",
		"https://chat.example.org/?login%54oken=x#/home": "https://chat.example.org/?loginToken=t#/home",
		"HTTP://LocalHost:123/":                          "http://localhost:123/?loginToken=t",
		"element://connect":                              "element://connect?loginToken=t",
		"io.element:/callback":                           "io.element:/callback?loginToken=t",
		"im.app:login?x=%20y":                            "im.app:login?x=%20y&loginToken=t",
		"https://h/?a=1&a=2&b=%zz":                       "https://h/?a=1&a=2&b=%zz&loginToken=t",
	} {
		u, err := ClientURL(raw)
		if err != nil {
			t.Error(raw, err)
			continue
		}
		if got := WithToken(u, "t"); got != want {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
	for _, raw := range []string{"", "/here", "//evil.example", "chat.example.org", "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x",
		"https:evil.example", "https:///x", "https://good.example@evil.example/", "https://evil.example\\@good.example", "https://a b/", "https://h/\r\nX: y",
		"https://h/ü", "file:///etc/passwd", "vbscript:x", "intent://x", "blob:https://h/x", "https://h/" + strings.Repeat("x", maxClientURL), "http://[::1", "https://h/\"><b>"} {
		if u, err := ClientURL(raw); err == nil {
			t.Errorf("%q is taken: %v", raw, u)
		}
	}
}

func TestTrust(t *testing.T) {
	s, err := New(Options{HTTP: &http.Client{}, Trusted: []string{"https://chat.example.org/app/", "https://Other.example", "element://connect", "im.app:login"}})
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]bool{
		"https://chat.example.org/app/?x=y":        true,
		"https://CHAT.example.org/app/deep/er":     true,
		"https://chat.example.org/app":             true,
		"https://chat.example.org/apple":           false,
		"https://chat.example.org/":                false,
		"http://chat.example.org/app/":             false,
		"https://chat.example.org:444/app/":        false,
		"https://chat.example.org.evil.org/app/":   false,
		"https://chat.example.org/app/../evil":     false,
		"https://chat.example.org/app/%2e%2e/evil": false,
		"https://chat.example.org/app/..%2fevil":   false,
		"https://other.example/x?loginToken=y#z":   true,
		"https://other.example":                    true,
		"element://connect?x":                      true,
		"element://connected":                      false,
		"im.app:login":                             true,
		"im.app:loginx":                            false,
		"im.app:/login":                            false,
	} {
		u, err := ClientURL(raw)
		if err != nil {
			t.Error(raw, err)
		} else if got := s.Trusts(u); got != want {
			t.Errorf("%s: %v", raw, got)
		}
	}
}

// FuzzClientURL holds that what is taken is not a way to somewhere else.
func FuzzClientURL(f *testing.F) {
	for _, seed := range []string{"https://a.example/x?loginToken=y#z", "element://connect", "im.app:login", "https://a@b/", "javascript:x", "https://h/%2e%2e/"} {
		f.Add(seed)
	}
	s, err := New(Options{HTTP: &http.Client{}, Trusted: []string{"https://a.example/x/"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := ClientURL(raw)
		if err != nil {
			return
		}
		out := WithToken(u, "the token")
		again, err := url.Parse(out)
		if err != nil || again.Scheme != u.Scheme || !strings.EqualFold(again.Host, u.Host) || strings.ContainsAny(out, "\r\n \"<>") {
			t.Fatalf("%q: %q %v", raw, out, err)
		}
		if tokens := again.Query()["loginToken"]; len(tokens) != 1 || tokens[0] != "the token" {
			t.Fatalf("%q: %q", raw, out)
		}
		if s.Trusts(u) && again.Host != "a.example" {
			t.Fatalf("%q is trusted", raw)
		}
	})
}

// TestAnswersAreBounded reads a long answer to its bound and no further.
func TestAnswersAreBounded(t *testing.T) {
	for size, good := range map[int]bool{maxAnswer: true, maxAnswer + 1: false} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) }))
		web := bounded(srv.Client())
		resp, err := web.Get(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		n, total := 0, 0
		for buf := make([]byte, 4096); err == nil; total += n {
			n, err = resp.Body.Read(buf)
		}
		resp.Body.Close()
		srv.Close()
		if (err.Error() == "EOF") != good || good && total != size {
			t.Error(size, total, err)
		}
	}
}
