// Package admin owns the administrators' endpoints about the node itself: how the servers fare that it sends to. Those about
// users, rooms and the like are with their nouns. They need the access token of an administrator of this server.
package admin

import (
	"context"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// Destination is how a server fares that we send to. Times are in milliseconds since 1970 and are left out where there is
// none.
type Destination struct {
	Server       string `json:"server"`
	State        string `json:"state"` // "idle", "sending", "behind", "down" or "retired"
	LastSuccess  int64  `json:"last_success_ts,omitempty"`
	LastHeard    int64  `json:"last_heard_ts,omitempty"`
	LastFailure  int64  `json:"last_failure_ts,omitempty"`
	LastError    string `json:"last_error,omitempty"`
	FailingSince int64  `json:"failing_since_ts,omitempty"`
	RetryAt      int64  `json:"retry_at_ts,omitempty"`
	Failures     int    `json:"failures"`
	// Waiting, Oldest and WaitingEDUs are in the answer about a single server only.
	Waiting     int64 `json:"waiting_events"`
	Oldest      int64 `json:"oldest_waiting_ts,omitempty"`
	WaitingEDUs bool  `json:"waiting_edus"`
}

// summary is what a list says.
type summary struct {
	Server       string `json:"server"`
	State        string `json:"state"`
	LastHeard    int64  `json:"last_heard_ts,omitempty"`
	FailingSince int64  `json:"failing_since_ts,omitempty"`
	RetryAt      int64  `json:"retry_at_ts,omitempty"`
	LastError    string `json:"last_error,omitempty"`
}

// Destinations are the servers that we send to.
type Destinations interface {
	// Destinations lists up to limit servers whose names come after after, in their order.
	Destinations(after string, limit int) []Destination
	// Destination counts what waits for one server, too; ok is false for one that we have nothing to do with.
	Destination(ctx context.Context, server string) (d Destination, ok bool, err error)
	// Retry has a server tried now; false for one that we have nothing to do with.
	Retry(server string) bool
}

// Options configure an API.
type Options struct {
	Destinations Destinations // nil: no federation
}

// API serves the endpoints.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API { return &API{o} }

const maxPage = 1000

// Routes are the rows of the client listener.
func (a *API) Routes() []httpx.Route {
	if a.o.Destinations == nil {
		return nil
	}
	const base, spec = "/_knock/admin/v1/destinations", "Admin API: destinations"
	return []httpx.Route{
		{Method: http.MethodGet, Path: base, Handler: a.destinations, Auth: httpx.AuthAdmin, Spec: spec},
		{Method: http.MethodGet, Path: base + "/{serverName}", Handler: a.destination, Auth: httpx.AuthAdmin, Spec: spec},
		{Method: http.MethodPost, Path: base + "/{serverName}/retry", Handler: a.retry, Auth: httpx.AuthAdmin, Spec: spec},
	}
}

func (a *API) destinations(_ context.Context, r *httpx.Request) (any, error) {
	limit, err := r.Int("limit", 100, maxPage)
	if err != nil {
		return nil, err
	}
	limit = max(limit, 1)
	list := a.o.Destinations.Destinations(r.Query("from"), limit)
	out := make([]summary, len(list))
	for i, d := range list {
		out[i] = summary{d.Server, d.State, d.LastHeard, d.FailingSince, d.RetryAt, d.LastError}
	}
	answer := map[string]any{"destinations": out}
	if len(list) == limit {
		answer["next"] = list[limit-1].Server
	}
	return answer, nil
}

func (a *API) destination(ctx context.Context, r *httpx.Request) (any, error) {
	d, ok, err := a.o.Destinations.Destination(ctx, r.Vars["serverName"])
	if err == nil && !ok {
		err = unknown()
	}
	return d, err
}

func (a *API) retry(_ context.Context, r *httpx.Request) (any, error) {
	if !a.o.Destinations.Retry(r.Vars["serverName"]) {
		return nil, unknown()
	}
	return struct{}{}, nil
}

func unknown() error {
	return matrixerr.NotFound("Nothing was ever sent to this server; check its name")
}
