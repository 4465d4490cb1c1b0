package mediaapi

import (
	"net/http"

	"knock/internal/httpx"
)

const (
	specClient     = "Client-Server API, Content repository"
	specFederation = "Server-Server API, Content Repository"
)

// limitClass is the rate-limit class of all media routes but federation's and previews.
const limitClass = "media"

// ClientRoutes are the routes of the client listener, the frozen unauthenticated ones included.
func (m *Media) ClientRoutes() []httpx.Route {
	routes := []httpx.Route{
		m.post("/_matrix/media/v3/upload", m.upload, -1),
		m.post("/_matrix/media/v1/create", m.create, 0),
		{Method: http.MethodPut, Path: "/_matrix/media/v3/upload/{serverName}/{mediaId}", Handler: m.fill,
			Auth: httpx.AuthUser, Limit: limitClass, MaxBody: -1, Spec: specClient},
	}
	routes = append(routes, m.readRoutes("/_matrix/client/v1/media", client, httpx.AuthGuestOK)...)
	for _, version := range []string{"v3", "r0", "v1"} {
		routes = append(routes, m.readRoutes("/_matrix/media/"+version, legacy, httpx.AuthNone)...)
	}
	return routes
}

// FederationRoutes are the routes of the federation listener.
func (m *Media) FederationRoutes() []httpx.Route {
	get := func(path string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: http.MethodGet, Path: "/_matrix/federation/v1/media" + path, Handler: h,
			Auth: httpx.AuthServer, Spec: specFederation}
	}
	return []httpx.Route{
		get("/download/{mediaId}", m.download(federation)),
		get("/thumbnail/{mediaId}", m.thumbnail(federation)),
	}
}

// Routes are all routes.
func (m *Media) Routes() []httpx.Route { return append(m.ClientRoutes(), m.FederationRoutes()...) }

func (m *Media) post(path string, h httpx.Handler, maxBody int64) httpx.Route {
	return httpx.Route{Method: http.MethodPost, Path: path, Handler: h, Auth: httpx.AuthUser, Limit: limitClass,
		MaxBody: maxBody, Spec: specClient}
}

func (m *Media) readRoutes(prefix string, d door, auth httpx.Auth) []httpx.Route {
	get := func(path string, h httpx.Handler, auth httpx.Auth) httpx.Route {
		return httpx.Route{Method: http.MethodGet, Path: prefix + path, Handler: h, Auth: auth, Limit: limitClass, Spec: specClient}
	}
	return []httpx.Route{
		get("/download/{serverName}/{mediaId}", m.download(d), auth),
		get("/download/{serverName}/{mediaId}/{fileName}", m.download(d), auth),
		get("/thumbnail/{serverName}/{mediaId}", m.thumbnail(d), auth),
		get("/config", m.config, httpx.AuthUser),
		{Method: http.MethodGet, Path: prefix + "/preview_url", Handler: m.previewURL, Auth: httpx.AuthUser, Limit: "preview", Spec: specClient},
	}
}
