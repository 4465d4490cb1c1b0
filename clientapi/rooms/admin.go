package rooms

import (
	"context"
	"net/http"
	"time"

	"knock/internal/httpx"
	"knock/roomserver"
)

func (a *API) adminRoutes() []httpx.Route {
	return []httpx.Route{
		{Method: http.MethodGet, Path: "/_knock/admin/v1/joins", Handler: a.joinsUnderWay, Auth: httpx.AuthAdmin, Spec: "Admin API: joins under way"},
	}
}

// joinUnderWay is a join through other servers with its age.
type joinUnderWay struct {
	roomserver.JoinStatus
	Millis int64 `json:"age_ms"`
}

// joinsUnderWay lists the joins through other servers that are not over yet, oldest first.
func (a *API) joinsUnderWay(context.Context, *httpx.Request) (any, error) {
	list := []joinUnderWay{}
	for _, j := range a.s.Joins() {
		list = append(list, joinUnderWay{j, time.Since(j.Since).Milliseconds()})
	}
	return map[string]any{"joins": list}, nil
}
