package push

import (
	"context"
	"embed"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/webpage"
)

//go:embed pages/*.html
var pageFiles embed.FS

var pages = webpage.Parse(pageFiles, "pages/*.html")

// unsubscribePage asks before it ends e-mails: some mail programs look at all links.
func (a *API) unsubscribePage(ctx context.Context, r *httpx.Request) (any, error) {
	address, err := a.pushers.Subscribed(ctx, r.Query("token"))
	if err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "unsubscribe", map[string]string{"Address": address, "Token": r.Query("token")}), nil
}

// unsubscribe takes the page's form, and what mail programs send to the link (RFC 8058).
func (a *API) unsubscribe(ctx context.Context, r *httpx.Request) (any, error) {
	token := r.Query("token")
	if token == "" {
		form, err := webpage.Form(r)
		if err != nil {
			return nil, err
		}
		token = form.Get("token")
	}
	if err := a.pushers.Unsubscribe(ctx, token); err != nil {
		return pages.Failed(err)
	}
	return pages.Page(http.StatusOK, "unsubscribed", nil), nil
}
