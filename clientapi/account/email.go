package account

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/mail"
	"knock/internal/matrixerr"
	"knock/internal/webpage"
)

// Mailer sends e-mails; mail.Sender does.
type Mailer interface {
	Send(ctx context.Context, m mail.Message) error
}

const (
	maxNextLink = 2048
	renewPath   = "/_matrix/client/unstable/email/renew"
	confirmPath = "/_matrix/client/unstable/email/confirm"
)

func (a *API) emailRoutes() []httpx.Route {
	const contacts, registration, passwords = "Adding Account Administrative Contact Information", "Account registration", "Password management"
	post := func(path, spec string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: "POST", Path: v3 + path + "/requestToken", Handler: h, Limit: limitEmail, Spec: spec}
	}
	const links = "Links in e-mails"
	return []httpx.Route{
		post("/register/email", registration, a.requestEmail(account.ToRegister)),
		post("/register/msisdn", registration, a.requestMSISDN),
		post("/account/3pid/email", contacts, a.requestEmail(account.ToAdd)),
		post("/account/3pid/msisdn", contacts, a.requestMSISDN),
		post("/account/password/email", passwords, a.requestEmail(account.ToReset)),
		post("/account/password/msisdn", passwords, a.requestMSISDN),
		{Method: "GET", Path: renewPath, Handler: a.renewPage, Limit: limitLogin, Spec: links},
		{Method: "POST", Path: renewPath, Handler: a.renew, Limit: limitLogin, Spec: links},
		{Method: "GET", Path: confirmPath, Handler: a.confirmPage, Limit: limitLogin, Spec: links},
		{Method: "POST", Path: confirmPath, Handler: a.confirm, Limit: limitLogin, Spec: links},
	}
}

func errNoMedium(what string) error {
	return matrixerr.New(http.StatusBadRequest, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "This server cannot send "+what)
}

// requestMSISDN refuses: there is no way to send text messages.
func (a *API) requestMSISDN(_ context.Context, r *httpx.Request) (any, error) {
	if _, err := r.ObjectBytes(); err != nil {
		return nil, err
	}
	return nil, errNoMedium("text messages; use an e-mail address")
}

// requestEmail sends an e-mail with a link. Who asks learns nothing of whether the address belongs to an account: the
// owner of the address does.
func (a *API) requestEmail(purpose string) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		q, err := a.emailRequest(r, purpose)
		if err != nil {
			return nil, err
		}
		if e := a.o.Limit(limitEmail, q.Address); e != nil {
			return nil, e
		}
		sid, token, err := a.accounts.BeginValidation(ctx, q)
		if err != nil {
			return nil, err
		}
		if token != "" {
			if err := a.sendLink(ctx, q, sid, token); err != nil {
				return nil, err
			}
		}
		return map[string]string{"sid": sid}, nil
	}
}

func (a *API) emailRequest(r *httpx.Request, purpose string) (q account.ValidationRequest, err error) {
	var req struct {
		ClientSecret string `json:"client_secret"`
		Email        string `json:"email"`
		Attempt      *int64 `json:"send_attempt"`
		NextLink     string `json:"next_link"`
	}
	if err := r.JSON(&req); err != nil {
		return q, err
	}
	switch {
	case a.o.Mail == nil:
		return q, errNoMedium("e-mails")
	case purpose == account.ToRegister && !a.o.Registration.Enabled:
		return q, errRegistrationClosed()
	case req.ClientSecret == "" || req.Email == "" || req.Attempt == nil:
		return q, matrixerr.MissingParam("client_secret, email and send_attempt are needed")
	case *req.Attempt < 0 || *req.Attempt > 1<<53:
		return q, matrixerr.InvalidParam("send_attempt is a whole number of at least 0")
	}
	if err := account.CheckClientSecret(req.ClientSecret); err != nil {
		return q, err
	}
	if err := checkNextLink(req.NextLink); err != nil {
		return q, err
	}
	address, err := mail.Canonical(req.Email)
	if err != nil {
		return q, matrixerr.InvalidParam("email is not an e-mail address such as alice@example.org").With(err)
	}
	return account.ValidationRequest{Purpose: purpose, Address: address, ClientSecret: req.ClientSecret, Attempt: *req.Attempt, NextLink: req.NextLink}, nil
}

// checkNextLink takes links to web pages. People see where they lead before they follow them.
func checkNextLink(link string) error {
	if link == "" {
		return nil
	}
	u, err := url.Parse(link)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || len(link) > maxNextLink {
		return matrixerr.InvalidParam("next_link must be the address of a web page, https://…").With(err)
	}
	return nil
}

func (a *API) sendLink(ctx context.Context, q account.ValidationRequest, sid, token string) error {
	owner, err := a.accounts.UserByThreepid(ctx, account.MediumEmail, q.Address)
	if err != nil {
		return err
	}
	link := a.o.BaseURL + confirmPath + "?" + url.Values{"sid": {sid}, "token": {token}}.Encode()
	if err := a.o.Mail.Send(ctx, linkMail(a.accounts.ServerName(), q, owner, link)); err != nil {
		return matrixerr.Unknown(http.StatusBadGateway, "The e-mail could not be sent; try again later").With(err)
	}
	return a.accounts.ValidationSent(ctx, sid, q.Attempt)
}

// confirmPage is what the link of an e-mail shows. It changes nothing, since some mail programs look at all links.
func (a *API) confirmPage(ctx context.Context, r *httpx.Request) (any, error) {
	sid, token := r.Query("sid"), r.Query("token")
	v, err := a.accounts.LookAtValidation(ctx, sid, token)
	if err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "confirm", confirmView{Server: a.accounts.ServerName(), Address: v.Address, Purpose: v.Purpose, SID: sid, Token: token}), nil
}

func (a *API) confirm(ctx context.Context, r *httpx.Request) (any, error) {
	form, err := webpage.Form(r)
	if err != nil {
		return nil, err
	}
	v, err := a.accounts.ConfirmValidation(ctx, form.Get("sid"), form.Get("token"))
	if err != nil {
		return pages.Failed(err)
	}
	view := confirmView{Server: a.accounts.ServerName(), Address: v.Address, Purpose: v.Purpose, Next: v.NextLink}
	if u, err := url.Parse(v.NextLink); err == nil {
		view.NextHost = u.Host
	}
	return pages.Page(http.StatusOK, "confirmed", view), nil
}

// threepidAuth is the dictionary of the m.login.email.identity stage.
type threepidAuth struct {
	Creds  account.Credentials `json:"threepid_creds"`
	Legacy account.Credentials `json:"threepidCreds"` // of older clients
}

// verifyEmail checks the stage m.login.email.identity and keeps what was shown for the operation.
func (a *API) verifyEmail(ctx context.Context, s *account.UIASession, purpose string, raw json.RawMessage) error {
	var auth threepidAuth
	if err := httpx.Unmarshal(raw, &auth); err != nil {
		return err
	}
	c := auth.Creds
	if c == (account.Credentials{}) {
		c = auth.Legacy
	}
	if _, err := a.accounts.Validated(ctx, purpose, c.SID, c.ClientSecret); err != nil {
		known := matrixerr.From(err)
		if known.HTTP != http.StatusBadRequest {
			return err
		}
		// The code by which clients know that they have to wait.
		return matrixerr.New(http.StatusUnauthorized, "M_UNAUTHORIZED", known.Msg).With(err)
	}
	s.Keep(account.StageEmail, c.SID, func() {})
	s.Keep(emailSecret, c.ClientSecret, func() {})
	return nil
}

const emailSecret = account.StageEmail + " client_secret"

// shownEmail is what verifyEmail kept; nil when there was no such stage.
func shownEmail(s *account.UIASession) *account.Credentials {
	c := account.Credentials{SID: s.Value(account.StageEmail), ClientSecret: s.Value(emailSecret)}
	if c.SID == "" {
		return nil
	}
	return &c
}
