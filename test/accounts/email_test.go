package accounts

import (
	"html"
	"io"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"knock/cmd/knock/demo/lab"
	"knock/internal/mail/mailtest"
)

func withMail(t *testing.T, fn func(w *world, box *mailtest.Server), settings ...string) {
	box := mailtest.Serve(t, mailtest.Options{})
	settings = append(settings, "smtp.host=127.0.0.1", "smtp.port="+strconv.Itoa(box.Port), "smtp.security=none",
		"smtp.from=Knock <matrix@a.test>", "public_base_url=https://matrix.a.test")
	each(t, settings, func(w *world) { fn(w, box) })
}

var linkIn = regexp.MustCompile(`https://matrix\.a\.test(/\S+)`)

// letter is the text of the next e-mail, and the path of the link in it, "" for none.
func (w *world) letter(box *mailtest.Server, to string) (text, path string) {
	w.t.Helper()
	got := box.Taken(w.t)
	if len(got.To) != 1 || got.To[0] != to {
		w.t.Fatalf("the e-mail went to %q", got.To)
	}
	msg, err := mail.ReadMessage(strings.NewReader(got.Data))
	w.must(err)
	body, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
	w.must(err)
	text = string(body)
	if found := linkIn.FindStringSubmatch(text); found != nil {
		path = found[1]
	}
	return text, path
}

// page fetches a page as a browser does, or sends a form.
func (w *world) page(path string, form url.Values) (status int, body string) {
	w.t.Helper()
	method, content := http.MethodGet, io.Reader(nil)
	if form != nil {
		method, content = http.MethodPost, strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(w.ctx, method, w.n.URL()+path, content)
	w.must(err)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := w.n.Client().HTTP.Do(req)
	w.must(err)
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	w.must(err)
	if kind := resp.Header.Get("Content-Type"); kind != "text/html; charset=utf-8" || !strings.Contains(resp.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		w.t.Errorf("%s: %s %v", path, kind, resp.Header)
	}
	return resp.StatusCode, string(all)
}

// follow opens a link and presses its button.
func (w *world) follow(path string) (shown string) {
	w.t.Helper()
	u, err := url.Parse(path)
	w.must(err)
	status, before := w.page(path, nil)
	if status != 200 || !strings.Contains(before, html.EscapeString(u.Query().Get("token"))) {
		w.t.Fatalf("%d %s", status, before)
	}
	status, shown = w.page(u.Path, u.Query())
	if status != 200 {
		w.t.Fatalf("%d %s", status, shown)
	}
	return shown
}

const secret = "client.secret"

// ask asks for an e-mail and returns the session id.
func (w *world) ask(what, address string, attempt int) string {
	w.t.Helper()
	return w.call(w.n.Client(), http.MethodPost, lab.V3()+what+"/email/requestToken", map[string]any{"client_secret": secret,
		"email": address, "send_attempt": attempt, "next_link": "https://app.example/#/go?x=1"}).Get("sid").Str
}

func creds(sid string) map[string]any {
	return map[string]any{"type": "m.login.email.identity", "threepid_creds": map[string]string{"sid": sid, "client_secret": secret}}
}

// addEmail adds an address to an account.
func (w *world) addEmail(box *mailtest.Server, c *lab.Client, address string) {
	w.t.Helper()
	sid := w.ask("/account/3pid", address, 1)
	_, link := w.letter(box, strings.ToLower(address))
	w.follow(link)
	w.call(c, http.MethodPost, lab.V3("account", "3pid", "add"), map[string]any{"sid": sid, "client_secret": secret,
		"auth": map[string]any{"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": c.UserID}, "password": c.Password}})
}

// TestAddEmail adds an address, logs in by it and removes it.
func TestAddEmail(t *testing.T) {
	withMail(t, func(w *world, box *mailtest.Server) {
		alice, bob := w.n.MustRegister("alice"), w.n.MustRegister("bob")
		add := lab.V3("account", "3pid", "add")
		sid := w.ask("/account/3pid", "Alice@Example.COM", 1)
		if again := w.ask("/account/3pid", "alice@example.com", 1); again != sid {
			t.Error("the same attempt made another session")
		}
		body := map[string]any{"sid": sid, "client_secret": secret}
		_, first := w.letter(box, "alice@example.com")
		box.NothingTaken(t)
		w.refused(400, "M_THREEPID_AUTH_FAILED", alice, http.MethodPost, add, body)
		w.ask("/account/3pid", "alice@example.com", 2)
		_, link := w.letter(box, "alice@example.com")
		if status, shown := w.page(first, nil); status != 400 || !strings.Contains(shown, "newest") {
			t.Errorf("the older link: %d %s", status, shown)
		}
		if shown := w.follow(link); !strings.Contains(shown, `href="https://app.example/#/go?x=1"`) {
			t.Error(shown)
		}
		challenge := w.refused(401, "", alice, http.MethodPost, add, body)
		body["auth"] = map[string]any{"type": "m.login.password", "session": challenge.Get("session").Str,
			"identifier": map[string]string{"type": "m.id.user", "user": "alice"}, "password": alice.Password}
		w.call(alice, http.MethodPost, add, body)
		if got := w.call(alice, http.MethodGet, lab.V3("account", "3pid"), nil).Get("threepids"); got.Get("#").Int() != 1 ||
			got.Get("0.address").Str != "alice@example.com" || got.Get("0.medium").Str != "email" || got.Get("0.added_at").Int() == 0 {
			t.Error(got)
		}

		login := func(id map[string]string, password string) map[string]any {
			return map[string]any{"type": "m.login.password", "identifier": id, "password": password}
		}
		byMail := map[string]string{"type": "m.id.thirdparty", "medium": "email", "address": "ALICE@example.com"}
		if got := w.call(w.n.Client(), http.MethodPost, lab.V3("login"), login(byMail, alice.Password)); got.Get("user_id").Str != alice.UserID {
			t.Error(got)
		}
		w.call(w.n.Client(), http.MethodPost, lab.V3("login"), map[string]any{"type": "m.login.password", "medium": "email",
			"address": "alice@example.com", "password": alice.Password})
		wrong := w.refused(403, "M_FORBIDDEN", w.n.Client(), http.MethodPost, lab.V3("login"), login(byMail, "wrong")).Raw
		byMail["address"] = "nobody@example.com"
		if got := w.refused(403, "M_FORBIDDEN", w.n.Client(), http.MethodPost, lab.V3("login"), login(byMail, "wrong")).Raw; got != wrong {
			t.Errorf("unknown addresses are told apart: %s, %s", got, wrong)
		}

		// The address is taken: its owner is told, who asks is not.
		w.ask("/account/3pid", "alice@example.com", 3)
		if text, link := w.letter(box, "alice@example.com"); link != "" || !strings.Contains(text, alice.UserID) {
			t.Error(text)
		}
		w.call(bob, http.MethodPost, lab.V3("account", "3pid", "delete"), map[string]string{"medium": "email", "address": "alice@example.com"})
		if got := w.call(alice, http.MethodPost, lab.V3("account", "3pid", "delete"), map[string]string{"medium": "email", "address": "Alice@example.com"}); got.Get("id_server_unbind_result").Str != "no-support" {
			t.Error(got)
		}
		if got := w.call(alice, http.MethodGet, lab.V3("account", "3pid"), nil).Get("threepids.#").Int(); got != 0 {
			t.Error(got)
		}
		if !w.call(alice, http.MethodGet, lab.V3("capabilities"), nil).Get(`capabilities.m\.3pid_changes.enabled`).Bool() {
			t.Error("no capability")
		}
	})
}

// TestForgottenPassword sets a new password through an e-mail.
func TestForgottenPassword(t *testing.T) {
	withMail(t, func(w *world, box *mailtest.Server) {
		alice := w.n.MustRegister("alice")
		w.addEmail(box, alice, "alice@example.com")
		nobody := w.n.Client()
		sid := w.ask("/account/password", "alice@example.com", 1)
		text, link := w.letter(box, "alice@example.com")
		if !strings.Contains(text, alice.UserID) {
			t.Error(text)
		}
		path := lab.V3("account", "password")
		if flows := w.refused(401, "", nobody, http.MethodPost, path, map[string]any{"new_password": "a new password"}).Get("flows").Raw; flows != `[{"stages":["m.login.email.identity"]}]` {
			t.Error(flows)
		}
		body := map[string]any{"new_password": "a new password", "auth": creds(sid)}
		w.refused(401, "M_UNAUTHORIZED", nobody, http.MethodPost, path, body)
		w.follow(link)
		body["new_password"] = "short"
		w.refused(400, "M_WEAK_PASSWORD", nobody, http.MethodPost, path, body)
		body["new_password"] = "a new password"
		w.call(nobody, http.MethodPost, path, body)
		w.refused(401, "M_UNAUTHORIZED", nobody, http.MethodPost, path, body)
		w.must(w.n.Client().Login(w.ctx, "alice", "a new password"))
		w.refused(401, "M_UNKNOWN_TOKEN", alice, http.MethodGet, lab.V3("account", "whoami"), nil)

		// Nobody has this address: nobody can tell, and no link is sent.
		if other := w.ask("/account/password", "nobody@example.com", 1); len(other) != len(sid) || w.ask("/account/password", "nobody@example.com", 1) != other {
			t.Error("unknown addresses are told apart")
		}
		if text, link := w.letter(box, "nobody@example.com"); link != "" || !strings.Contains(text, "No account") {
			t.Error(text)
		}
	})
}

// TestRegisterWithEmail makes an account where an address is needed.
func TestRegisterWithEmail(t *testing.T) {
	withMail(t, func(w *world, box *mailtest.Server) {
		c := w.n.Client()
		register := lab.V3("register")
		challenge := w.refused(401, "", c, http.MethodPost, register, map[string]any{"username": "alice", "password": "password"})
		if flows := challenge.Get("flows").Raw; flows != `[{"stages":["m.login.email.identity"]}]` {
			t.Error(flows)
		}
		sid := w.ask("/register", "alice@example.com", 1)
		_, link := w.letter(box, "alice@example.com")
		auth := creds(sid)
		auth["session"] = challenge.Get("session").Str
		body := map[string]any{"username": "alice", "password": "password", "auth": auth}
		w.refused(401, "M_UNAUTHORIZED", c, http.MethodPost, register, body)
		w.follow(link)
		c.Token = w.call(c, http.MethodPost, register, body).Get("access_token").Str
		if got := w.call(c, http.MethodGet, lab.V3("account", "3pid"), nil).Get("threepids.0.address").Str; got != "alice@example.com" {
			t.Error(got)
		}
		if sid := w.ask("/register", "alice@example.com", 2); sid == "" {
			t.Error("an address that is taken is told apart")
		}
		if text, link := w.letter(box, "alice@example.com"); link != "" || !strings.Contains(text, "@alice:a.test") {
			t.Error(text)
		}
	}, "registration.require_email=true")
}

// TestOptionalEmail leaves the address out where it may be left out.
func TestOptionalEmail(t *testing.T) {
	withMail(t, func(w *world, box *mailtest.Server) {
		flows := w.refused(401, "", w.n.Client(), http.MethodPost, lab.V3("register"), map[string]any{}).Get("flows").Raw
		if flows != `[{"stages":["m.login.dummy"]},{"stages":["m.login.email.identity"]}]` {
			t.Error(flows)
		}
		w.n.MustRegister("alice")
		box.NothingTaken(t)
	})
}

// TestEmailRequests goes through requests that are refused.
func TestEmailRequests(t *testing.T) {
	good := map[string]any{"client_secret": secret, "email": "a@example.com", "send_attempt": 1}
	with := func(key string, value any) map[string]any {
		body := map[string]any{key: value}
		for k, v := range good {
			if k != key {
				body[k] = v
			}
		}
		return body
	}
	withMail(t, func(w *world, box *mailtest.Server) {
		path := lab.V3("register", "email", "requestToken")
		for _, c := range []struct {
			body map[string]any
			code string
		}{
			{map[string]any{}, "M_MISSING_PARAM"}, {with("client_secret", "a b"), "M_INVALID_PARAM"}, {with("email", "nonsense"), "M_INVALID_PARAM"},
			{with("email", "a@example.com\r\nBcc: b@example.com"), "M_INVALID_PARAM"}, {with("send_attempt", -1), "M_INVALID_PARAM"},
			{with("send_attempt", "x"), "M_BAD_JSON"}, {with("next_link", "javascript:alert(1)"), "M_INVALID_PARAM"},
			{with("next_link", "https://user@host/"), "M_INVALID_PARAM"}, {with("next_link", "file:///etc/passwd"), "M_INVALID_PARAM"},
			{with("next_link", "https://h/"+strings.Repeat("x", 3000)), "M_INVALID_PARAM"},
		} {
			w.refused(400, c.code, w.n.Client(), http.MethodPost, path, c.body)
		}
		w.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", w.n.Client(), http.MethodPost, lab.V3("register", "msisdn", "requestToken"), good)
		box.NothingTaken(t)
	})
	each(t, nil, func(w *world) {
		for _, what := range []string{"register", "account/3pid", "account/password"} {
			for _, medium := range []string{"email", "msisdn"} {
				w.refused(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED", w.n.Client(), http.MethodPost, lab.V3()+"/"+what+"/"+medium+"/requestToken", good)
			}
		}
		w.refused(401, "M_MISSING_TOKEN", w.n.Client(), http.MethodPost, lab.V3("account", "password"), map[string]any{"new_password": "a new password"})
	})
}

// TestMailServerDown asks again with the same attempt after an e-mail could not be sent.
func TestMailServerDown(t *testing.T) {
	box := mailtest.Serve(t, mailtest.Options{Refuse: true})
	settings := []string{"smtp.host=127.0.0.1", "smtp.port=" + strconv.Itoa(box.Port), "smtp.security=none", "smtp.from=matrix@a.test", "public_base_url=https://matrix.a.test"}
	each(t, settings, func(w *world) {
		for range 2 {
			w.refused(502, "M_UNKNOWN", w.n.Client(), http.MethodPost, lab.V3("register", "email", "requestToken"),
				map[string]any{"client_secret": secret, "email": "a@example.com", "send_attempt": 1})
		}
	})
	if box.Connections.Load() < 4 {
		t.Error("the second request did not try again")
	}
}
