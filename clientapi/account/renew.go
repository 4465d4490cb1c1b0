package account

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/mail"
	"knock/internal/webpage"
)

// Remind sends a user e-mails with a link that renews the account.
func (a *API) Remind(ctx context.Context, r account.Reminder) error {
	link := a.o.BaseURL + renewPath + "?" + url.Values{"token": {r.Token}}.Encode()
	text := strings.Join([]string{"Your account " + r.UserID + " ends on " + r.Expires.UTC().Format("2 January 2006") + " unless you renew it.",
		"To go on using it, open this page:", link}, "\n\n") + "\n"
	for _, to := range r.Addresses {
		if err := a.o.Mail.Send(ctx, mail.Message{To: to, Subject: "Renew your account " + r.UserID, Text: text}); err != nil {
			return err
		}
	}
	return nil
}

// renewPage is what the link of a reminder shows. It changes nothing, since some mail programs look at all links.
func (a *API) renewPage(ctx context.Context, r *httpx.Request) (any, error) {
	user, err := a.accounts.Renewable(ctx, r.Query("token"))
	if err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "renew", map[string]string{"User": user, "Token": r.Query("token")}), nil
}

func (a *API) renew(ctx context.Context, r *httpx.Request) (any, error) {
	form, err := webpage.Form(r)
	if err != nil {
		return nil, err
	}
	if err := a.accounts.RenewByToken(ctx, form.Get("token")); err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "renewed", nil), nil
}
