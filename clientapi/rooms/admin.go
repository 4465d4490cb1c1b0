package rooms

import (
	"context"
	"net/http"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

func (a *API) adminRoutes() []httpx.Route {
	return []httpx.Route{
		{Method: http.MethodGet, Path: "/_knock/admin/joins", Handler: a.joinsUnderWay, Auth: httpx.AuthUser, Spec: "Admin API: joins under way"},
	}
}

// joinUnderWay is a join through other servers with its age.
type joinUnderWay struct {
	roomserver.JoinStatus
	Millis int64 `json:"age_ms"`
}

// joinsUnderWay lists the joins through other servers that are not over yet, oldest first.
func (a *API) joinsUnderWay(_ context.Context, r *httpx.Request) (any, error) {
	if !r.Caller.Admin {
		return nil, matrixerr.Forbidden("Only an administrator of this server can do this")
	}
	list := []joinUnderWay{}
	for _, j := range a.s.Joins() {
		list = append(list, joinUnderWay{j, time.Since(j.Since).Milliseconds()})
	}
	return map[string]any{"joins": list}, nil
}
