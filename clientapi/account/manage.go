package account

import (
	"context"
	"encoding/json"
	"net/http"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) accountRoutes() []httpx.Route {
	return []httpx.Route{
		{Method: "POST", Path: v3 + "/account/password", Handler: a.changePassword, Auth: httpx.AuthOptional,
			Limit: limitLogin, Spec: "Password management"},
		{Method: "POST", Path: v3 + "/account/deactivate", Handler: a.deactivate, Auth: httpx.AuthUser,
			Limit: limitLogin, Spec: "Account deactivation", OptionalBody: true},
		{Method: "POST", Path: v3 + "/user/{userId}/openid/request_token", Handler: a.requestOpenID,
			Auth: httpx.AuthUser, Limit: limitLogin, Spec: "OpenID", OptionalBody: true},
	}
}

func (a *API) changePassword(ctx context.Context, r *httpx.Request) (any, error) {
	req := struct {
		Auth   json.RawMessage `json:"auth"`
		New    string          `json:"new_password"`
		Logout bool            `json:"logout_devices"`
	}{Logout: true}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	check := func() error {
		if req.New == "" {
			return matrixerr.MissingParam("new_password is missing")
		}
		return a.accounts.CheckNewPassword(req.New)
	}
	switch {
	case r.Caller.Guest:
		return nil, matrixerr.GuestForbidden()
	case r.Caller.UserID == "":
		return a.resetPassword(ctx, req.Auth, check, req.New, req.Logout)
	}
	if err := a.accounts.MayUsePassword(ctx, r.Caller.UserID); err != nil {
		return nil, err
	}
	return a.withProof(ctx, r, "change password", req.Auth, func() (any, error) {
		if err := check(); err != nil {
			return nil, err
		}
		return nil, a.accounts.SetPassword(ctx, r.Caller.UserID, req.New, req.Logout, r.Caller.Session)
	})
}

// resetPassword changes the password of somebody who cannot log in and has shown to have the account's e-mail address.
func (a *API) resetPassword(ctx context.Context, auth json.RawMessage, check func() error, password string, logout bool) (any, error) {
	if a.o.Mail == nil {
		return nil, matrixerr.MissingToken()
	}
	s, resp, err := a.authorize(ctx, account.UIARequest{Operation: "reset password", Auth: auth, Flows: [][]string{{account.StageEmail}},
		Verify: func(ctx context.Context, s *account.UIASession, _ string, raw json.RawMessage) error {
			return a.verifyEmail(ctx, s, account.ToReset, raw)
		}})
	if err != nil {
		return nil, err
	}
	if resp != nil {
		return resp, nil
	}
	defer s.Leave()
	if err := check(); err != nil {
		return nil, err
	}
	c := shownEmail(s)
	if err := a.accounts.ResetPassword(ctx, c.SID, c.ClientSecret, password, logout); err != nil {
		return nil, err
	}
	s.Done()
	return nil, nil
}

func (a *API) deactivate(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Auth   json.RawMessage `json:"auth"`
		Erase  bool            `json:"erase"`
		Server string          `json:"id_server"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	return a.withProof(ctx, r, "deactivate", req.Auth, func() (any, error) {
		done, err := a.unbindAll(ctx, r.Caller.UserID, req.Server)
		if err != nil {
			return nil, err
		}
		return unbindResult(done), a.accounts.Deactivate(ctx, r.Caller.UserID, req.Erase)
	})
}

func (a *API) requestOpenID(ctx context.Context, r *httpx.Request) (any, error) {
	if err := own(r, "You can only request a token for yourself"); err != nil {
		return nil, err
	}
	if _, err := r.ObjectBytes(); err != nil {
		return nil, err
	}
	token, lifetime, err := a.accounts.OpenIDToken(ctx, r.Caller.UserID)
	if err != nil {
		return nil, err
	}
	return map[string]any{"access_token": token, "token_type": "Bearer",
		"matrix_server_name": a.accounts.ServerName(), "expires_in": int64(lifetime.Seconds())}, nil
}

// own refuses paths of other users.
func own(r *httpx.Request, otherwise string) error {
	if r.Vars["userId"] != r.Caller.UserID {
		return matrixerr.Forbidden(otherwise)
	}
	return nil
}

// notAllowed is 405 M_BAD_JSON, for account data that the server manages.
func notAllowed(msg string) error {
	return matrixerr.New(http.StatusMethodNotAllowed, "M_BAD_JSON", msg)
}
