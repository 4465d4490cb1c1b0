package federationapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func (a *API) version(context.Context, *httpx.Request) (any, error) {
	return map[string]any{"server": map[string]string{"name": "Knock", "version": a.o.Version}}, nil
}

// OpenIDRoute tells third parties whose OpenID token they were given. They are no servers, so the route is there
// without federation, too.
func OpenIDRoute(accounts Accounts) httpx.Route {
	return httpx.Route{Method: "GET", Path: "/_matrix/federation/v1/openid/userinfo", Spec: "Server-Server: OpenID",
		Handler: func(ctx context.Context, r *httpx.Request) (any, error) {
			token := r.Query("access_token")
			if token == "" {
				return nil, matrixerr.MissingToken()
			}
			user, err := accounts.OpenIDUser(ctx, token)
			if err != nil {
				return nil, err
			}
			return map[string]string{"sub": user}, nil
		}}
}

// queryUnknown answers queries of types that are not known here, as endpoints that are not.
func (a *API) queryUnknown(context.Context, *httpx.Request) (any, error) {
	return nil, matrixerr.Unrecognized(http.StatusNotFound)
}

func (a *API) queryProfile(ctx context.Context, r *httpx.Request) (any, error) {
	user, field := r.Query("user_id"), r.Query("field")
	if user == "" {
		return nil, matrixerr.MissingParam("user_id is missing")
	}
	if !event.ValidUserID(user) {
		return nil, matrixerr.InvalidParam("user_id is not a user id")
	}
	if !a.o.Rooms.IsLocal(user) {
		return nil, matrixerr.NotFound("The user belongs to another server; ask that one")
	}
	profile, err := a.o.Accounts.Profile(ctx, user)
	if err != nil || field == "" {
		return profile, err
	}
	value, ok := profile[field]
	if !ok {
		return nil, matrixerr.NotFound("The user's profile has no such field")
	}
	return map[string]json.RawMessage{field: value}, nil
}

func (a *API) queryDirectory(ctx context.Context, r *httpx.Request) (any, error) {
	alias := r.Query("room_alias")
	if alias == "" {
		return nil, matrixerr.MissingParam("room_alias is missing")
	}
	if !event.ValidAlias(alias) {
		return nil, matrixerr.InvalidParam("room_alias is not a room alias")
	}
	if !a.o.Rooms.IsLocal(alias) {
		return nil, matrixerr.NotFound("The room alias belongs to another server; ask that one")
	}
	room, servers, err := a.o.Rooms.ResolveAlias(ctx, alias)
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"room_id": room, "servers": servers[:min(len(servers), maxAliasServers)]}, nil
}

// maxAliasServers bounds the servers that an alias is answered with.
const maxAliasServers = 200

// notFound maps a missing row to the domain's error.
func notFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		err = roomserver.ErrUnknownEvent
	}
	return domainError(err)
}
