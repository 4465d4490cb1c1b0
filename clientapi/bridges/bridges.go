// Package bridges owns the Client-Server endpoints that application services have for themselves, and those by which
// others ask them for what is behind them.
package bridges

import (
	"context"
	"net/http"

	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

// Options are what an API needs.
type Options struct {
	Services *appservice.Services
	Rooms    *roomserver.Server
}

// API serves application services.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API { return &API{o} }

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	const (
		v3                = "/_matrix/client/v3/"
		limit             = "directory"
		third, publishing = "Third-party Lookups", "Application Service API, Published room directories"
	)
	get := func(path string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: http.MethodGet, Path: v3 + "thirdparty/" + path, Handler: h, Auth: httpx.AuthUser, Limit: limit, Spec: third}
	}
	return []httpx.Route{
		get("protocols", a.protocols),
		get("protocol/{protocol}", a.protocol),
		get("location/{protocol}", a.lookup("location")),
		get("user/{protocol}", a.lookup("user")),
		get("location", a.reverse("location", "alias")),
		get("user", a.reverse("user", "userid")),
		{Method: http.MethodPut, Path: v3 + "directory/list/appservice/{networkId}/{roomId}", Handler: a.publish, Auth: httpx.AuthUser,
			Limit: limit, Spec: publishing},
		{Method: http.MethodPost, Path: "/_matrix/client/v1/appservice/{appserviceId}/ping", Handler: a.ping, Auth: httpx.AuthUser,
			OptionalBody: true, Spec: "Application Service API, Pinging"},
	}
}

func (a *API) ping(ctx context.Context, r *httpx.Request) (any, error) {
	v := a.o.Services.ByID(r.Caller.AppService)
	if v == nil || v.ID != r.Vars["appserviceId"] {
		return nil, matrixerr.Forbidden("Only the application service itself can ask for a ping, with its as_token")
	}
	var body struct {
		TransactionID string `json:"transaction_id"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	took, err := a.o.Services.Ping(ctx, v, body.TransactionID)
	if err != nil {
		return nil, err
	}
	return map[string]int64{"duration_ms": took.Milliseconds()}, nil
}
