package accounts

import (
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"knock/internal/sso/ssotest"
)

// surfer is a browser whose cookies are real. It is behind a proxy that ends TLS for the server.
type surfer struct {
	w     *world
	c     *http.Client
	jar   *cookiejar.Jar
	idp   string
	proxy string
}

func (w *world) surfer(idp *ssotest.Provider) *surfer {
	jar, err := cookiejar.New(nil)
	w.must(err)
	s := &surfer{w: w, jar: jar, idp: idp.URL, proxy: "https://matrix.a.test"}
	s.c = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return s
}

// open follows redirects between the server and the provider, and returns where it ended and the page there.
func (s *surfer) open(address string, form url.Values) (at *url.URL, page string) {
	s.w.t.Helper()
	for range 10 {
		u, err := url.Parse(address)
		s.w.must(err)
		real := address
		if rest, ours := strings.CutPrefix(address, s.proxy); ours {
			real = s.w.n.URL() + rest
		} else if !strings.HasPrefix(address, s.idp) {
			return u, ""
		}
		method, content := http.MethodGet, io.Reader(nil)
		if form != nil {
			method, content = http.MethodPost, strings.NewReader(form.Encode())
		}
		req, err := http.NewRequestWithContext(s.w.ctx, method, real, content)
		s.w.must(err)
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		for _, c := range s.jar.Cookies(u) {
			req.AddCookie(c)
		}
		resp, err := s.c.Do(req)
		s.w.must(err)
		s.jar.SetCookies(u, resp.Cookies())
		all, err := io.ReadAll(resp.Body)
		s.w.must(err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusFound {
			return u, string(all)
		}
		address, form = resp.Header.Get("Location"), nil
	}
	s.w.t.Fatal("a browser goes round in circles")
	return nil, ""
}

var (
	ticketLink = regexp.MustCompile(`href="([^"]*ticket=[^"]*)"`)
	ticketForm = regexp.MustCompile(`action="([^"]*)">\s*<input type="hidden" name="ticket" value="([^"]*)">`)
)

// TestSingleSignOn: a person signs in at an identity provider, over a restart of the server in the middle, ends a device by
// signing in again, and is known the next time.
func TestSingleSignOn(t *testing.T) {
	idp := ssotest.Serve(t)
	idp.Set(func(p *ssotest.Provider) { p.Person, p.Break = ssotest.Person("alice"), ssotest.Down })
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(ssotest.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := []string{"public_base_url=https://matrix.a.test", "sso.allow_networks=[127.0.0.0/8]",
		"sso.providers=[{id: corp, name: Example Corp, issuer: " + idp.URL + ", client_id: " + ssotest.ClientID + ", client_secret_file: " + secret + "}]"}
	each(t, settings, func(w *world) { // which starts while the provider is down
		idp.Set(func(p *ssotest.Provider) { p.Break = ssotest.Down })
		s := w.surfer(idp)
		start := s.proxy + v3("/login/sso/redirect") + "?redirectUrl=" + url.QueryEscape("app.example:/login?x=y")
		if _, page := s.open(start, nil); !strings.Contains(page, "Example Corp cannot be reached") {
			t.Fatal(page)
		}
		idp.Set(func(p *ssotest.Provider) { p.Break = nil })
		w.must(w.n.Stop()) // and with it what it knows of the provider
		w.must(w.n.Start())

		if got := w.call(w.n.Client(), http.MethodGet, v3("/login"), nil).Get(`flows.#(type=="m.login.sso").identity_providers.0.id`).Str; got != "corp" {
			t.Fatal(got)
		}
		_, page := s.open(start, nil)
		next := ticketLink.FindStringSubmatch(page)
		if next == nil || !strings.Contains(page, "app.example:") || !strings.Contains(page, "@alice:a.test") {
			t.Fatal(page)
		}
		w.must(w.n.Stop())
		w.must(w.n.Start())
		at, _ := s.open(html.UnescapeString(next[1]), nil)
		if at.Scheme != "app.example" || at.Query().Get("x") != "y" {
			t.Fatal(at)
		}
		alice := w.n.Client()
		l := w.call(alice, http.MethodPost, v3("/login"), map[string]any{"type": "m.login.token", "token": at.Query().Get("loginToken")})
		alice.UserID, alice.DeviceID, alice.Token = l.Get("user_id").Str, l.Get("device_id").Str, l.Get("access_token").Str
		w.refused(403, "M_FORBIDDEN", w.n.Client(), http.MethodPost, v3("/login"), map[string]any{"type": "m.login.token", "token": at.Query().Get("loginToken")})

		path := v3("/devices/") + esc(alice.DeviceID)
		ask := w.refused(401, "", alice, http.MethodDelete, path, map[string]any{})
		session := ask.Get("session").Str
		_, page = s.open(s.proxy+v3("/auth/m.login.sso/fallback/web?session=")+url.QueryEscape(session), nil)
		form := ticketForm.FindStringSubmatch(page)
		if form == nil || !strings.Contains(page, alice.DeviceID) {
			t.Fatal(page)
		}
		if _, page = s.open(html.UnescapeString(form[1]), url.Values{"ticket": {form[2]}}); !strings.Contains(page, "onAuthDone") {
			t.Fatal(page)
		}
		w.call(alice, http.MethodDelete, path, map[string]any{"auth": map[string]any{"session": session}})
		w.refused(401, "M_UNKNOWN_TOKEN", alice, http.MethodGet, v3("/account/whoami"), nil)

		if _, page = s.open(start, nil); !strings.Contains(page, "@alice:a.test") {
			t.Error("the second time:", page)
		}
	})
}
