// Package bridges owns the Client-Server endpoints that application services have for themselves.
package bridges

import (
	"context"
	"net/http"

	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// Options are what an API needs.
type Options struct{ Services *appservice.Services }

// API serves application services.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API { return &API{o} }

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	return []httpx.Route{
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
