// Package ssotest is a small identity provider for tests: as much of OpenID Connect as one sign-in needs, with real keys.
package ssotest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The client that the provider knows.
const (
	ClientID     = "knock"
	ClientSecret = "the client's secret"
)

// Provider is an identity provider. Its fields say how it behaves; change them between requests, with Set.
type Provider struct {
	URL string

	Person      map[string]any                 // claims of who is signed in in the browser; nil: nobody, and access is denied
	UserInfo    map[string]any                 // further claims; nil: there is no such endpoint
	Edit        func(claims map[string]any)    // of an ID token, before it is signed
	Sign        func(claims []byte) string     // in place of the provider's key
	Algorithm   jose.SignatureAlgorithm        // RS256 or ES256
	Methods     []string                       // token_endpoint_auth_methods_supported
	Prompts     []string                       // prompt_values_supported
	Break       func(http.ResponseWriter) bool // answers in place of the provider when it says true
	BreakPath   string                         // where; "" is everywhere
	OtherIssuer string                         // in the discovery document
	Now         func() time.Time

	t      testing.TB
	mu     sync.Mutex
	rsa    *rsa.PrivateKey
	ec     *ecdsa.PrivateKey
	codes  map[string]grant
	tokens map[string]map[string]any

	calls   map[string]int
	queries []url.Values // of the authorization endpoint
}

// grant is what a code is good for.
type grant struct {
	challenge, nonce, redirect string
	person                     map[string]any
}

// Serve starts a provider that ends with the test.
func Serve(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{t: t, Algorithm: jose.RS256, Now: time.Now, codes: map[string]grant{}, tokens: map[string]map[string]any{}, calls: map[string]int{}}
	var err error
	if p.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if p.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, h := range map[string]func(w http.ResponseWriter, r *http.Request){"/.well-known/openid-configuration": p.discovery,
		"/keys": p.keys, "/authorize": p.authorize, "/token": p.token, "/userinfo": p.userInfo} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			p.mu.Lock()
			p.calls[path]++
			instead := p.Break
			if p.BreakPath != "" && p.BreakPath != path {
				instead = nil
			}
			p.mu.Unlock()
			if instead == nil || !instead(w) {
				h(w, r)
			}
		})
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	p.URL = s.URL
	return p
}

// Set changes the fields.
func (p *Provider) Set(edit func(p *Provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	edit(p)
}

// Calls is how often a path was asked for.
func (p *Provider) Calls(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[path]
}

// Asked is the last query of the authorization endpoint.
func (p *Provider) Asked() url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queries[len(p.queries)-1]
}

// Key signs what the provider signs.
func (p *Provider) Key() *rsa.PrivateKey { return p.rsa }

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	issuer := p.URL
	if p.OtherIssuer != "" {
		issuer = p.OtherIssuer
	}
	doc := map[string]any{"issuer": issuer, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
		"jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "ES256", "HS256", "none"},
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}}
	if p.UserInfo != nil {
		doc["userinfo_endpoint"] = p.URL + "/userinfo"
	}
	if p.Methods != nil {
		doc["token_endpoint_auth_methods_supported"] = p.Methods
	}
	if p.Prompts != nil {
		doc["prompt_values_supported"] = p.Prompts
	}
	answer(w, http.StatusOK, doc)
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: p.rsa.Public(), KeyID: "rsa", Algorithm: string(jose.RS256), Use: "sig"},
		{Key: p.ec.Public(), KeyID: "ec", Algorithm: string(jose.ES256), Use: "sig"},
	}})
}

// authorize sends the browser back at once: whoever is signed in agrees.
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := r.URL.Query()
	p.queries = append(p.queries, q)
	if q.Get("client_id") != ClientID || q.Get("response_type") != "code" || !slices.Contains(strings.Fields(q.Get("scope")), "openid") ||
		q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43 || q.Get("state") == "" || q.Get("nonce") == "" {
		p.t.Errorf("a bad request for authorization: %v", q)
		answer(w, http.StatusBadRequest, map[string]string{"error": "invalid_request"})
		return
	}
	back := url.Values{"state": {q.Get("state")}, "iss": {p.URL}}
	if p.Person == nil {
		back.Set("error", "access_denied")
	} else {
		code := rand.Text()
		p.codes[code] = grant{q.Get("code_challenge"), q.Get("nonce"), q.Get("redirect_uri"), p.Person}
		back.Set("code", code)
	}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// secretFits checks how the client shows who it is.
func (p *Provider) secretFits(r *http.Request) bool {
	if slices.Contains(p.Methods, "client_secret_post") {
		return r.PostFormValue("client_id") == ClientID && r.PostFormValue("client_secret") == ClientSecret
	}
	id, secret, ok := r.BasicAuth()
	plain, err := url.QueryUnescape(secret)
	return ok && err == nil && id == ClientID && plain == ClientSecret
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g, ok := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || !p.secretFits(r) || base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge || r.PostFormValue("redirect_uri") != g.redirect {
		answer(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
		return
	}
	now := p.Now()
	claims := map[string]any{"iss": p.URL, "aud": ClientID, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "nonce": g.nonce}
	maps.Copy(claims, g.person)
	if p.Edit != nil {
		p.Edit(claims)
	}
	access := rand.Text()
	p.tokens[access] = map[string]any{"sub": g.person["sub"]}
	maps.Copy(p.tokens[access], p.UserInfo)
	answer(w, http.StatusOK, map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": 300, "id_token": p.sign(claims)})
}

func (p *Provider) sign(claims map[string]any) string {
	payload, err := json.Marshal(claims)
	if err != nil {
		p.t.Error(err)
	}
	if p.Sign != nil {
		return p.Sign(payload)
	}
	if p.Algorithm == jose.ES256 {
		return Signed(p.t, jose.ES256, "ec", p.ec, payload)
	}
	return Signed(p.t, jose.RS256, "rsa", p.rsa, payload)
}

// Signed is a compact JWS.
func Signed(t testing.TB, alg jose.SignatureAlgorithm, keyID string, key any, payload []byte) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", keyID).WithType("JWT"))
	if err != nil {
		t.Error(err)
		return ""
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Error(err)
		return ""
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Error(err)
	}
	return text
}

func (p *Provider) userInfo(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	claims, ok := p.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if !ok {
		answer(w, http.StatusUnauthorized, map[string]string{"error": "invalid_token"})
		return
	}
	answer(w, http.StatusOK, claims)
}

// LogoutToken is one with these claims beside, or in place of, those that every good one has.
func (p *Provider) LogoutToken(claims map[string]any) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.Now()
	all := map[string]any{"iss": p.URL, "aud": ClientID, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "jti": rand.Text(),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}
	maps.Copy(all, claims)
	return p.sign(all)
}

// Person are the claims of somebody who is called name.
func Person(name string) map[string]any {
	return map[string]any{"sub": "sub of " + name, "preferred_username": name, "name": strings.ToUpper(name), "email": name + "@example.com", "email_verified": true}
}

// Endless answers without end.
func Endless(w http.ResponseWriter) bool {
	w.Header().Set("Content-Type", "application/json")
	piece := strings.Repeat(" ", 64<<10)
	for range 64 {
		if _, err := fmt.Fprint(w, piece); err != nil {
			return true
		}
	}
	return true
}

// Down answers that it cannot.
func Down(w http.ResponseWriter) bool {
	answer(w, http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"})
	return true
}
