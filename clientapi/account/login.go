package account

import (
	"context"
	"encoding/json"
	"net/http"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) sessionRoutes() []httpx.Route {
	return []httpx.Route{
		{Method: "GET", Path: v3 + "/account/whoami", Handler: a.whoami, Auth: httpx.AuthGuestOK, Hot: true},
		{Method: "GET", Path: v1 + "/auth_metadata", Handler: noOAuth, Limit: limitLookup, Spec: "OAuth 2.0 API"},
		{Method: "GET", Path: v3 + "/login", Handler: a.loginFlows, Spec: "Login"},
		{Method: "POST", Path: v3 + "/login", Handler: a.login, Auth: httpx.AuthService, Limit: limitLogin, Spec: "Login"},
		{Method: "POST", Path: v3 + "/logout", Handler: a.logout, Auth: httpx.AuthGuestOK, WhileLocked: true, Spec: "Login"},
		{Method: "POST", Path: v3 + "/logout/all", Handler: a.logoutAll, Auth: httpx.AuthGuestOK, WhileLocked: true, Spec: "Login"},
		{Method: "POST", Path: v1 + "/login/get_token", Handler: a.makeLoginToken, Auth: httpx.AuthUser, Limit: limitLogin,
			OptionalBody: true, Spec: "Login"},
		{Method: "POST", Path: v3 + "/refresh", Handler: a.refresh, Limit: limitLogin,
			Spec: "Refreshing access tokens"},
	}
}

// loginToken is the type of a login with a token for one login.
const loginToken = "m.login.token"

// identifier names a user in login and UIA (Client-Server API, "Identifier types").
type identifier struct {
	Type string `json:"type"`
	User string `json:"user"`
	// m.id.thirdparty
	Medium  string `json:"medium"`
	Address string `json:"address"`
}

// noUser is nobody's user id: looked for in place of an unknown address, it costs as much as a wrong password.
const noUser = "@"

// identify is the user id or localpart; legacy is the deprecated member that older clients send instead.
func (a *API) identify(ctx context.Context, i identifier, legacy string) (string, error) {
	switch i.Type {
	case "":
		return legacy, nil
	case "m.id.user":
		return i.User, nil
	case "m.id.thirdparty":
		user, err := a.accounts.UserByThreepid(ctx, i.Medium, canonicalAddress(i.Medium, i.Address))
		if user == "" {
			user = noUser
		}
		return user, err
	case "m.id.phone":
		return noUser, nil // nobody has a phone number here
	}
	return "", matrixerr.Unknown(http.StatusBadRequest, "Unknown identifier type; use m.id.user")
}

func (a *API) loginFlows(context.Context, *httpx.Request) (any, error) {
	type flow struct {
		Type     string `json:"type"`
		GetToken bool   `json:"get_login_token,omitempty"`
	}
	flows := []any{flow{Type: account.StagePassword}, flow{Type: loginToken, GetToken: true}}
	if sso := a.ssoFlow(); len(sso.Providers) > 0 {
		flows = append(flows, sso)
	}
	if a.o.Services.Any() {
		flows = append(flows, flow{Type: loginService})
	}
	return map[string]any{"flows": flows}, nil
}

func (a *API) login(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		passwordAuth
		Type        string `json:"type"`
		Token       string `json:"token"`
		DeviceID    string `json:"device_id"`
		DisplayName string `json:"initial_device_display_name"`
		Refresh     bool   `json:"refresh_token"`
		Medium      string `json:"medium"`  // deprecated
		Address     string `json:"address"` // deprecated
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	device := account.NewDevice{ID: req.DeviceID, DisplayName: req.DisplayName, Refresh: req.Refresh, IP: r.ClientIP()}
	id := req.Identifier
	switch {
	case req.Type == "":
		return nil, matrixerr.MissingParam("type is missing; GET this path for the login types")
	case req.Type == loginToken:
		return a.loginByToken(ctx, req.Token, device)
	case req.Type != account.StagePassword && req.Type != loginService:
		return nil, matrixerr.Unknown(http.StatusBadRequest, "This server does not know this login type")
	case req.Medium != "" && req.Identifier.Type == "":
		id = identifier{Type: "m.id.thirdparty", Medium: req.Medium, Address: req.Address}
	}
	user, err := a.identify(ctx, id, req.User)
	if err != nil {
		return nil, err
	}
	if user == "" {
		return nil, matrixerr.MissingParam("identifier is missing: {\"type\": \"m.id.user\", \"user\": …}")
	}
	if req.Type == loginService {
		return a.loginByService(ctx, r, user, device)
	}
	if err := a.guess(id.typed(req.User)); err != nil {
		return nil, err
	}
	l, err := a.accounts.Login(ctx, user, req.Password, device)
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

// noOAuth says that logins are made through the endpoints here (Client-Server API, "Authentication API discovery").
func noOAuth(context.Context, *httpx.Request) (any, error) {
	return nil, matrixerr.New(http.StatusNotFound, "M_UNRECOGNIZED", "This server does not use OAuth 2.0; GET /_matrix/client/v3/login for the ways to log in")
}

// makeLoginToken makes a token for another client of the caller.
func (a *API) makeLoginToken(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Auth json.RawMessage `json:"auth"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	return a.withProof(ctx, r, "get a login token", req.Auth, func() (any, error) {
		token, err := a.accounts.LoginToken(ctx, r.Caller.UserID)
		return map[string]any{"login_token": token, "expires_in_ms": account.LoginTokenLifetime.Milliseconds()}, err
	})
}

func (a *API) loginByToken(ctx context.Context, token string, d account.NewDevice) (any, error) {
	if token == "" {
		return nil, matrixerr.MissingParam("token is missing")
	}
	l, err := a.accounts.LoginByToken(ctx, token, d)
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

// loginAnswer is what login, registration and refresh have in common.
type loginAnswer struct {
	UserID       string     `json:"user_id,omitempty"`
	AccessToken  string     `json:"access_token,omitempty"`
	RefreshToken string     `json:"refresh_token,omitempty"`
	ExpiresInMS  int64      `json:"expires_in_ms,omitempty"`
	HomeServer   string     `json:"home_server,omitempty"`
	DeviceID     string     `json:"device_id,omitempty"`
	WellKnown    *wellKnown `json:"well_known,omitempty"`
}

type wellKnown struct {
	Homeserver struct {
		BaseURL string `json:"base_url"`
	} `json:"m.homeserver"`
}

func (a *API) loginAnswer(l *account.Login) loginAnswer {
	answer := loginAnswer{UserID: l.UserID, AccessToken: l.AccessToken, RefreshToken: l.RefreshToken,
		ExpiresInMS: l.ExpiresIn.Milliseconds(), HomeServer: a.accounts.ServerName(), DeviceID: l.DeviceID}
	if a.o.BaseURL != "" {
		answer.WellKnown = &wellKnown{}
		answer.WellKnown.Homeserver.BaseURL = a.o.BaseURL
	}
	return answer
}

func (a *API) logout(ctx context.Context, r *httpx.Request) (any, error) {
	if r.Caller.DeviceID == "" {
		return nil, matrixerr.Forbidden("This access token belongs to no device and cannot be logged out")
	}
	return nil, a.accounts.DeleteDevices(ctx, r.Caller.UserID, r.Caller.DeviceID)
}

func (a *API) logoutAll(ctx context.Context, r *httpx.Request) (any, error) {
	return nil, a.accounts.DeleteAllDevices(ctx, r.Caller.UserID, 0)
}

func (a *API) refresh(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Token string `json:"refresh_token"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Token == "" {
		return nil, matrixerr.MissingParam("refresh_token is missing")
	}
	l, err := a.accounts.Refresh(ctx, req.Token)
	if err != nil {
		return nil, err
	}
	return loginAnswer{AccessToken: l.AccessToken, RefreshToken: l.RefreshToken,
		ExpiresInMS: l.ExpiresIn.Milliseconds()}, nil
}

func (a *API) whoami(_ context.Context, r *httpx.Request) (any, error) {
	return struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id,omitempty"`
		Guest    bool   `json:"is_guest"`
	}{r.Caller.UserID, r.Caller.DeviceID, r.Caller.Guest}, nil
}
