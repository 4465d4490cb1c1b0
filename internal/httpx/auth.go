package httpx

import (
	"strings"

	"knock/internal/matrixerr"
)

func (rt *Router) authenticate(r *Request) error {
	switch r.route.Auth {
	case AuthNone:
		return nil
	case AuthServer:
		return rt.authenticateServer(r)
	case AuthService:
		if token := Bearer(r); token != "" && rt.hooks.AuthenticateService != nil {
			r.Caller, _ = rt.hooks.AuthenticateService(token)
		}
		return nil
	}
	token := Bearer(r)
	if token == "" {
		if r.route.Auth == AuthOptional {
			return nil
		}
		return matrixerr.MissingToken()
	}
	if rt.hooks.Authenticate == nil {
		return matrixerr.UnknownToken("This access token is not known here; log in again", false)
	}
	caller, err := rt.hooks.Authenticate(r.Context(), token, r)
	if err != nil {
		return err
	}
	if caller.Locked && !r.route.WhileLocked {
		return matrixerr.UserLocked()
	}
	if caller.Expired && !r.route.WhileLocked {
		return matrixerr.UserExpired()
	}
	if caller.Suspended && r.route.NotSuspended {
		return matrixerr.UserSuspended()
	}
	switch {
	case r.route.Auth == AuthAdmin && !caller.Admin:
		return matrixerr.Forbidden("Only an administrator of this server can do this")
	case caller.Guest && r.route.Auth == AuthUser:
		return matrixerr.GuestForbidden()
	}
	r.Caller = caller
	return nil
}

func (rt *Router) authenticateServer(r *Request) error {
	if rt.hooks.AuthenticateServer == nil {
		return matrixerr.Unauthorized("This server does not federate")
	}
	origin, err := rt.hooks.AuthenticateServer(r.Context(), r)
	if err != nil {
		return err
	}
	r.Caller = Caller{Origin: origin}
	return nil
}

// Bearer finds the access token: the Authorization header, or the query parameter that old clients send.
func Bearer(r *Request) string {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	if !strings.Contains(r.URL.RawQuery, "access_token=") {
		return ""
	}
	return r.Query("access_token")
}
