package account

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/limits"
	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/webpage"
)

func (a *API) fallbackRoutes() []httpx.Route {
	const path, spec = v3 + "/auth/{authType}/fallback/web", "Fallback"
	return []httpx.Route{
		{Method: "GET", Path: path, Handler: a.fallback, Limit: limitLogin, Spec: spec},
		{Method: "POST", Path: path, Handler: a.completeByPage, Limit: limitLogin, Spec: spec},
	}
}

// stageView is what the page of a stage shows.
type stageView struct {
	Stage, Session string
	Server, Wrong  string
	Policies       []Policy
	Captcha        *Captcha
	Address        string // of the e-mail that was sent
	account.Credentials
}

// stagePages are the stages that have a page.
var stagePages = []string{account.StageDummy, account.StageTerms, account.StageCaptcha, account.StageRegistrationToken,
	account.StageEmail, account.StagePassword}

// fallback shows the page of a stage, for clients that do not know it (Client-Server API, "Fallback").
func (a *API) fallback(ctx context.Context, r *httpx.Request) (any, error) {
	stage := r.Vars["authType"]
	if !slices.Contains(stagePages, stage) && (stage != account.StageSSO || a.o.SSO == nil) {
		return pages.Failed(matrixerr.NotFound("This server has no page for this step"))
	}
	s := a.uia.Session(r.Query("session"))
	switch {
	case s == nil:
		return pages.Failed(errUIAEnded())
	case s.Has(stage):
		return donePage(), nil
	case stage == account.StageSSO:
		return a.ssoFallback(ctx, r, s)
	}
	return a.stagePage(http.StatusOK, stageView{Stage: stage, Session: r.Query("session")}), nil
}

func errUIAEnded() error {
	return matrixerr.NotFound("This has ended: go back to your app and begin again")
}

func (a *API) stagePage(status int, v stageView) *httpx.Response {
	v.Server, v.Policies, v.Captcha = a.accounts.ServerName(), a.o.Registration.Terms, a.o.Registration.Captcha
	resp := pages.Page(status, "stage", v)
	if v.Stage == account.StageCaptcha && v.Captcha != nil { // its script loads whatever it needs
		resp.Header.Set("Content-Security-Policy", "default-src 'none'; script-src https:; frame-src https:; connect-src https:; "+
			"img-src https: data:; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	}
	return resp
}

// donePage tells the client, whose window this is, that the stage is complete.
func donePage() *httpx.Response {
	nonce := rand.Text()
	resp := pages.Page(http.StatusOK, "done", nonce)
	resp.Header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-"+nonce+"'; frame-ancestors 'none'; base-uri 'none'")
	return resp
}

// completeByPage takes the form of a stage's page.
func (a *API) completeByPage(ctx context.Context, r *httpx.Request) (any, error) {
	form, err := webpage.Form(r)
	if err != nil {
		return nil, err
	}
	stage := r.Vars["authType"]
	s := a.uia.Session(form.Get("session"))
	if s == nil || !slices.Contains(stagePages, stage) {
		return pages.Failed(errUIAEnded())
	}
	v := stageView{Stage: stage, Session: form.Get("session")}
	if stage == account.StageEmail && form.Get("sid") == "" {
		if err = a.emailByPage(ctx, r, s, form.Get("email"), &v); err == nil {
			return a.stagePage(http.StatusOK, v), nil
		}
	} else {
		v.Credentials = account.Credentials{SID: form.Get("sid"), ClientSecret: form.Get("client_secret")}
		var auth json.RawMessage
		if auth, err = stageAuth(stage, s, form); err == nil {
			err = s.Complete(ctx, stage, auth)
		}
	}
	if err == nil {
		return donePage(), nil
	}
	var refused *account.UIAChallenge
	if errors.As(err, &refused) && refused.Cause != nil {
		err = refused.Cause
	}
	known := matrixerr.From(err)
	if known.HTTP >= 500 {
		return nil, err
	}
	v.Wrong = known.Msg
	return a.stagePage(known.HTTP, v), nil
}

// stageAuth is what a client that knows the stage would send in place of the form.
func stageAuth(stage string, s *account.UIASession, form url.Values) (json.RawMessage, error) {
	auth := map[string]any{"type": stage}
	switch stage {
	case account.StageTerms:
		if form.Get("accept") == "" {
			return nil, matrixerr.Forbidden("To go on, say that you accept")
		}
	case account.StageCaptcha:
		auth["response"] = form.Get("g-recaptcha-response")
	case account.StageRegistrationToken:
		auth["token"] = form.Get("token")
	case account.StageEmail:
		auth["threepid_creds"] = account.Credentials{SID: form.Get("sid"), ClientSecret: form.Get("client_secret")}
	case account.StagePassword:
		auth["identifier"] = map[string]string{"type": "m.id.user", "user": s.UserID()}
		auth["password"] = form.Get("password")
	}
	return json.Marshal(auth)
}

// emailByPage sends the e-mail of the stage m.login.email.identity to an address that was typed into its page.
func (a *API) emailByPage(ctx context.Context, r *httpx.Request, s *account.UIASession, address string, v *stageView) error {
	switch {
	case a.o.Mail == nil:
		return errNoMedium("e-mails")
	case !s.Awaits(account.StageEmail):
		return matrixerr.Forbidden("This step is not the next one; go back to your app")
	}
	canonical, err := mail.Canonical(address)
	if err != nil {
		return matrixerr.InvalidParam("This is not an e-mail address such as alice@example.org").With(err)
	}
	for _, who := range []string{limits.Source(r.ClientIP()), canonical} { // as the endpoints for clients do
		if e := a.o.Limit(limitEmail, who); e != nil {
			return e
		}
	}
	q := account.ValidationRequest{Purpose: account.ToReset, Address: canonical, ClientSecret: rand.Text(), Attempt: 1}
	if s.Operation() == operationRegister {
		q.Purpose = account.ToRegister
	}
	sid, token, err := a.accounts.BeginValidation(ctx, q)
	if err == nil {
		err = a.sendLink(ctx, q, sid, token)
	}
	v.Address, v.Credentials = canonical, account.Credentials{SID: sid, ClientSecret: q.ClientSecret}
	return err
}
