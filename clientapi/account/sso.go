package account

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/sso"
	"knock/internal/webpage"
)

const (
	ssoPath      = "/_matrix/client/unstable/sso/"
	ssoCookieAge = "3600" // seconds; longer than what a person may take
)

// What tickets are good for.
const (
	ticketRegister = "register"
	ticketClient   = "client"
	ticketConfirm  = "confirm"
)

func (a *API) ssoRoutes() []httpx.Route {
	const spec, redirect = "SSO client login/authentication", v3 + "/login/sso/redirect"
	return []httpx.Route{
		{Method: "GET", Path: redirect, Handler: a.ssoChoose, Limit: limitSSO, Spec: spec},
		{Method: "GET", Path: redirect + "/{idpId}", Handler: a.ssoRedirect, Limit: limitSSO, Spec: spec},
		{Method: "GET", Path: sso.CallbackPath + "{idpId}", Handler: a.ssoCallback, Limit: limitSSO, Spec: spec},
		{Method: "POST", Path: ssoPath + "register", Handler: a.ssoRegister, Limit: limitSSO, Spec: spec},
		{Method: "GET", Path: ssoPath + "continue", Handler: a.ssoContinue, Limit: limitSSO, Spec: spec},
		{Method: "POST", Path: sso.LogoutPath + "{idpId}", Handler: a.ssoLogout, Limit: limitSSO, Spec: "OpenID Connect Back-Channel Logout"},
		{Method: "POST", Path: ssoPath + "confirm", Handler: a.ssoConfirm, Limit: limitSSO, Spec: spec},
	}
}

// ssoFlow is what GET /login says of single sign-on.
type ssoFlow struct {
	Type      string        `json:"type"`
	Providers []ssoProvider `json:"identity_providers"`
}

type ssoProvider struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Icon  string `json:"icon,omitempty"`
	Brand string `json:"brand,omitempty"`
}

func (a *API) ssoFlow() ssoFlow {
	f := ssoFlow{Type: account.StageSSO}
	for _, p := range a.o.SSO.Providers() {
		f.Providers = append(f.Providers, ssoProvider{p.ID, p.Name, p.Icon, p.Brand})
	}
	return f
}

// ssoWay is one way on, on a page that lets people choose.
type ssoWay struct{ Name, URL string }

// ssoChoose lets people choose a provider, where there are several.
func (a *API) ssoChoose(ctx context.Context, r *httpx.Request) (any, error) {
	list := a.o.SSO.Providers()
	switch len(list) {
	case 0:
		return pages.Failed(matrixerr.NotFound("This server has no single sign-on; sign in with your password"))
	case 1:
		return a.ssoBegin(ctx, r, list[0].ID)
	}
	if _, err := sso.ClientURL(r.Query("redirectUrl")); err != nil {
		return pages.Failed(err)
	}
	var ways []ssoWay
	for _, p := range list {
		q := url.Values{"redirectUrl": {r.Query("redirectUrl")}}
		if action := r.Query("action"); action != "" {
			q.Set("action", action)
		}
		ways = append(ways, ssoWay{p.Name, a.o.BaseURL + v3 + "/login/sso/redirect/" + p.ID + "?" + q.Encode()})
	}
	return a.ssoWays(ways), nil
}

func (a *API) ssoWays(ways []ssoWay) *httpx.Response {
	return pages.Page(http.StatusOK, "sso_choose", struct {
		Server string
		Ways   []ssoWay
	}{a.accounts.ServerName(), ways})
}

func (a *API) ssoRedirect(ctx context.Context, r *httpx.Request) (any, error) {
	return a.ssoBegin(ctx, r, r.Vars["idpId"])
}

func (a *API) ssoBegin(ctx context.Context, r *httpx.Request, provider string) (any, error) {
	client, err := sso.ClientURL(r.Query("redirectUrl"))
	if err != nil {
		return pages.Failed(err)
	}
	return a.ssoSend(ctx, r, provider, sso.Flow{Client: client.String()})
}

// ssoSend sends a browser to a provider, and gives it the cookie with which alone it can come back.
func (a *API) ssoSend(ctx context.Context, r *httpx.Request, provider string, f sso.Flow) (any, error) {
	if a.o.SSO == nil {
		return pages.Failed(matrixerr.NotFound("This server has no single sign-on; sign in with your password"))
	}
	browser := sso.Browser(a.browser(r))
	location, err := a.o.SSO.Begin(ctx, provider, browser, f, r.Query("action") == "register")
	if err != nil {
		return pages.Failed(err)
	}
	resp := webpage.Redirect(location)
	cookie := a.ssoCookie() + "=" + browser + "; Path=/; Max-Age=" + ssoCookieAge + "; HttpOnly; SameSite=Lax"
	if a.o.SSO.Secure() {
		cookie += "; Secure"
	}
	resp.Header.Set("Set-Cookie", cookie)
	return resp, nil
}

// ssoCookie is the name of the cookie; with the prefix no other host of the domain can set it.
func (a *API) ssoCookie() string {
	if a.o.SSO.Secure() {
		return "__Host-knock_sso"
	}
	return "knock_sso"
}

// browser is the secret of the browser's cookie, "" when there is none.
func (a *API) browser(r *httpx.Request) string {
	c, err := r.Cookie(a.ssoCookie())
	if err != nil {
		return ""
	}
	return c.Value
}

// ssoCallback takes a browser back from a provider.
func (a *API) ssoCallback(ctx context.Context, r *httpx.Request) (any, error) {
	if a.o.SSO == nil {
		return pages.Failed(matrixerr.NotFound("This server has no single sign-on; sign in with your password"))
	}
	browser := a.browser(r)
	f, person, err := a.o.SSO.Finish(ctx, r.Vars["idpId"], browser, r.QueryAll())
	if err != nil {
		return pages.Failed(err)
	}
	if f.Session != "" {
		return a.ssoProved(ctx, browser, f, person)
	}
	userID, err := a.accounts.UserByExternal(ctx, account.External{Issuer: person.Issuer, Subject: person.Subject})
	switch {
	case err != nil:
		return pages.Failed(err)
	case userID == "":
		return a.ssoNewcomer(ctx, browser, f, person)
	}
	return a.ssoEnter(ctx, browser, entry{userID, f.Client, sessionOf(person)})
}

// sessionOf is the session with which devices end, where the provider tells of that.
func sessionOf(person *sso.Person) account.ExternalSession {
	if !person.Provider().Backchannel {
		return account.ExternalSession{}
	}
	return account.ExternalSession{Issuer: person.Issuer, ID: person.Session}
}

// newcomer is somebody who signed in and has no account yet.
type newcomer struct {
	account.External
	sso.Profile
	Client  string
	Session account.ExternalSession
}

// ssoNewcomer finds the account of somebody who signs in for the first time, or makes one.
func (a *API) ssoNewcomer(ctx context.Context, browser string, f sso.Flow, person *sso.Person) (any, error) {
	profile, err := person.Profile(ctx)
	if err != nil {
		return pages.Failed(err)
	}
	n := newcomer{account.External{Issuer: person.Issuer, Subject: person.Subject}, profile, f.Client, sessionOf(person)}
	userID, err := a.adoptable(ctx, person.Provider().Adopt, profile)
	switch {
	case err != nil:
		return pages.Failed(err)
	case userID != "":
		if err := a.accounts.LinkExternal(ctx, userID, n.External); err != nil {
			return pages.Failed(err)
		}
		return a.ssoEnter(ctx, browser, entry{userID, n.Client, n.Session})
	case person.Provider().ExistingOnly:
		return pages.Failed(matrixerr.Forbidden("You have no account on " + a.accounts.ServerName() + " yet; ask its administrator for one"))
	case profile.Localpart == "":
		return pages.Failed(matrixerr.Forbidden(person.Provider().Name + " does not tell this server a user name for you; ask the administrator of this server to set up another claim"))
	case len(a.o.Registration.Terms) > 0:
		return a.ssoWelcome(ctx, browser, n)
	}
	if userID, err = a.ssoCreate(ctx, n); err != nil {
		return pages.Failed(err)
	}
	return a.ssoEnter(ctx, browser, entry{userID, n.Client, n.Session})
}

// adoptable is the account that a provider's new person may have; "" when there is none.
func (a *API) adoptable(ctx context.Context, how sso.Adopt, p sso.Profile) (string, error) {
	switch {
	case how == sso.AdoptLocalpart && p.Localpart != "":
		userID := "@" + p.Localpart + ":" + a.accounts.ServerName()
		if there, err := a.accounts.Exists(ctx, userID); err != nil || !there {
			return "", err
		}
		return userID, nil
	case how == sso.AdoptEmail && p.Email != "":
		address, err := mail.Canonical(p.Email)
		if err != nil {
			return "", nil
		}
		return a.accounts.UserByThreepid(ctx, account.MediumEmail, address)
	}
	return "", nil
}

// ssoCreate makes an account, unless the person has got one meanwhile in another window.
func (a *API) ssoCreate(ctx context.Context, n newcomer) (userID string, err error) {
	made, err := a.accounts.CreateExternal(ctx, account.NewUser{Username: n.Localpart, DisplayName: n.DisplayName, External: &n.External,
		Vouched: n.Email, Terms: a.accepted()})
	if err == nil {
		return made, nil
	}
	if userID, e := a.accounts.UserByExternal(ctx, n.External); e == nil && userID != "" {
		return userID, a.accounts.MayLogin(ctx, userID)
	}
	return "", err
}

// ssoWelcome shows the documents that have to be accepted before there is an account.
func (a *API) ssoWelcome(ctx context.Context, browser string, n newcomer) (any, error) {
	userID, err := a.accounts.NameOf(ctx, n.Localpart)
	if err != nil {
		return pages.Failed(err)
	}
	ticket, err := a.o.SSO.Hold(ctx, browser, ticketRegister, n)
	if err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "sso_welcome", struct {
		Server, User, Ticket, Action string
		Policies                     []Policy
	}{a.accounts.ServerName(), userID, ticket, a.o.BaseURL + ssoPath + "register", a.o.Registration.Terms}), nil
}

// ssoRegister takes the form of ssoWelcome.
func (a *API) ssoRegister(ctx context.Context, r *httpx.Request) (any, error) {
	form, err := webpage.Form(r)
	if err != nil {
		return nil, err
	}
	if form.Get("accept") == "" {
		return pages.Failed(matrixerr.Forbidden("To get an account, go back and say that you accept"))
	}
	var n newcomer
	if err := a.ssoTake(ctx, r, ticketRegister, form.Get("ticket"), &n); err != nil {
		return pages.Failed(err)
	}
	userID, err := a.ssoCreate(ctx, n)
	if err != nil {
		return pages.Failed(err)
	}
	return a.ssoAsk(ctx, a.browser(r), entry{userID, n.Client, n.Session})
}

func (a *API) ssoTake(ctx context.Context, r *httpx.Request, kind, ticket string, v any) error {
	if a.o.SSO == nil {
		return matrixerr.NotFound("This server has no single sign-on")
	}
	return a.o.SSO.Take(ctx, a.browser(r), kind, ticket, v)
}

// ssoEnter sends a user back to a client that is trusted, and asks about any other.
func (a *API) ssoEnter(ctx context.Context, browser string, e entry) (any, error) {
	if err := a.accounts.MayLogin(ctx, e.User); err != nil {
		return pages.Failed(err)
	}
	u, err := sso.ClientURL(e.Client)
	if err != nil {
		return pages.Failed(err)
	}
	if a.o.SSO.Trusts(u) {
		return a.ssoReturn(ctx, u, e)
	}
	return a.ssoAsk(ctx, browser, e)
}

// entry is a user who may go on to a client.
type entry struct {
	User, Client string
	Session      account.ExternalSession
}

// ssoAsk asks whether a client may have the account (Client-Server API, "SSO client login", "Security considerations"). There
// is no login token until the user says yes.
func (a *API) ssoAsk(ctx context.Context, browser string, e entry) (any, error) {
	u, err := sso.ClientURL(e.Client)
	if err != nil {
		return pages.Failed(err)
	}
	ticket, err := a.o.SSO.Hold(ctx, browser, ticketClient, e)
	if err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "sso_client", struct{ User, Client, Next string }{
		e.User, sso.ClientName(u), a.o.BaseURL + ssoPath + "continue?ticket=" + ticket}), nil
}

// ssoContinue follows the link of ssoAsk.
func (a *API) ssoContinue(ctx context.Context, r *httpx.Request) (any, error) {
	var e entry
	if err := a.ssoTake(ctx, r, ticketClient, r.Query("ticket"), &e); err != nil {
		return pages.Failed(err)
	}
	u, err := sso.ClientURL(e.Client)
	if err != nil {
		return pages.Failed(err)
	}
	if err := a.accounts.MayLogin(ctx, e.User); err != nil {
		return pages.Failed(err)
	}
	return a.ssoReturn(ctx, u, e)
}

func (a *API) ssoReturn(ctx context.Context, client *url.URL, e entry) (any, error) {
	token, err := a.accounts.LoginTokenFrom(ctx, e.User, e.Session)
	if err != nil {
		return pages.Failed(err)
	}
	return webpage.Redirect(sso.WithToken(client, token)), nil
}

// providersOf are the providers where a user is known.
func (a *API) providersOf(ctx context.Context, userID string) (list []sso.Provider, p account.Proofs, err error) {
	if p, err = a.accounts.Proofs(ctx, userID); err != nil {
		return nil, p, err
	}
	for _, provider := range a.o.SSO.Providers() {
		if slices.Contains(p.Issuers, provider.Issuer) {
			list = append(list, provider)
		}
	}
	return list, p, nil
}

// ssoFallback is the page of the stage m.login.sso: it sends the user of the session to a provider (Client-Server API,
// "SSO during User-Interactive Authentication").
func (a *API) ssoFallback(ctx context.Context, r *httpx.Request, s *account.UIASession) (any, error) {
	if s.UserID() == "" {
		return pages.Failed(matrixerr.NotFound("This server has no page for this step"))
	}
	list, _, err := a.providersOf(ctx, s.UserID())
	if err != nil {
		return pages.Failed(err)
	}
	chosen := r.Query("idp")
	if chosen == "" && len(list) == 1 {
		chosen = list[0].ID
	}
	if slices.ContainsFunc(list, func(p sso.Provider) bool { return p.ID == chosen }) {
		return a.ssoSend(ctx, r, chosen, sso.Flow{Session: r.Query("session")})
	}
	if len(list) == 0 {
		return pages.Failed(matrixerr.NotFound("Your account has no single sign-on; go back to your app and confirm with your password"))
	}
	var ways []ssoWay
	for _, p := range list {
		q := url.Values{"session": {r.Query("session")}, "idp": {p.ID}}
		ways = append(ways, ssoWay{p.Name, a.o.BaseURL + v3 + "/auth/" + account.StageSSO + "/fallback/web?" + q.Encode()})
	}
	return a.ssoWays(ways), nil
}

// proved is a user who signed in again to confirm something.
type proved struct{ Session, User string }

// ssoProved asks somebody who signed in again whether the operation shall be done: the provider may not have asked anything,
// and whoever holds an access token can have sent the user here.
func (a *API) ssoProved(ctx context.Context, browser string, f sso.Flow, person *sso.Person) (any, error) {
	s := a.uia.Session(f.Session)
	if s == nil {
		return pages.Failed(errUIAEnded())
	}
	userID, err := a.accounts.UserByExternal(ctx, account.External{Issuer: person.Issuer, Subject: person.Subject})
	switch {
	case err != nil:
		return pages.Failed(err)
	case userID == "" || userID != s.UserID():
		return pages.Failed(matrixerr.Forbidden("At " + person.Provider().Name + " you are not " + s.UserID() +
			", and nothing was confirmed. Go back to your app and try again, as yourself"))
	}
	ticket, err := a.o.SSO.Hold(ctx, browser, ticketConfirm, proved{f.Session, userID})
	if err != nil {
		return pages.Failed(err)
	}
	what, details := operationText(s.Operation())
	return pages.Page(http.StatusOK, "sso_confirm", struct {
		User, Operation, Ticket, Action string
		Details                         []string
	}{userID, what, ticket, a.o.BaseURL + ssoPath + "confirm", details}), nil
}

const maxDetails = 20

// operationText is an operation in words, and what it is about.
func operationText(operation string) (what string, details []string) {
	what, about, _ := strings.Cut(operation, "\x00")
	if what == operationDevices {
		details = strings.Split(about, "\x00")
	}
	if len(details) > maxDetails {
		details = append(details[:maxDetails], "…")
	}
	return what, details
}

// ssoConfirm takes the form of ssoProved and completes the stage.
func (a *API) ssoConfirm(ctx context.Context, r *httpx.Request) (any, error) {
	form, err := webpage.Form(r)
	if err != nil {
		return nil, err
	}
	var p proved
	if err := a.ssoTake(ctx, r, ticketConfirm, form.Get("ticket"), &p); err != nil {
		return pages.Failed(err)
	}
	s := a.uia.Session(p.Session)
	if s == nil || s.UserID() != p.User {
		return pages.Failed(errUIAEnded())
	}
	err = s.Proved(account.StageSSO)
	var refused *account.UIAChallenge
	if errors.As(err, &refused) && refused.Cause != nil {
		err = refused.Cause
	}
	if err != nil {
		return pages.Failed(err)
	}
	return donePage(), nil
}

// ssoLogout hears of a log-out at a provider, from the provider, and ends the devices that logged in out of that session.
func (a *API) ssoLogout(ctx context.Context, r *httpx.Request) (any, error) {
	if a.o.SSO == nil {
		return nil, matrixerr.NotFound("This server has no single sign-on")
	}
	form, err := webpage.Form(r)
	if err != nil {
		return nil, err
	}
	err = a.o.SSO.Logout(ctx, r.Vars["idpId"], form.Get("logout_token"), func(ctx context.Context, out sso.Logout) error {
		if out.Session != "" {
			return a.accounts.EndExternalSession(ctx, account.ExternalSession{Issuer: out.Issuer, ID: out.Session})
		}
		return a.accounts.EndExternalSessions(ctx, account.External{Issuer: out.Issuer, Subject: out.Subject})
	})
	return &httpx.Response{Header: http.Header{"Cache-Control": {"no-store"}}}, err
}
