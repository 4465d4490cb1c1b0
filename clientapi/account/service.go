package account

import (
	"context"
	"net/http"

	"knock/internal/account"
	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// loginService is the type with which application services register and log in their users (Application Service API,
// "Server admin style permissions").
const loginService = "m.login.application_service"

// caller is the application service that makes a request without acting as a user.
func (a *API) caller(r *httpx.Request) (*appservice.Service, error) {
	if s := a.o.Services.ByID(r.Caller.AppService); s != nil {
		return s, nil
	}
	if httpx.Bearer(r) == "" {
		return nil, matrixerr.MissingToken()
	}
	return nil, matrixerr.UnknownToken("This token is not the as_token of an application service of this server", false)
}

func (a *API) registerByService(ctx context.Context, r *httpx.Request, req registerRequest) (any, error) {
	s, err := a.caller(r)
	if err != nil {
		return nil, err
	}
	if req.Username == "" {
		return nil, matrixerr.MissingParam("username is missing")
	}
	local, err := a.accounts.Canonical(req.Username)
	if err != nil {
		return nil, err
	}
	if !s.OwnsUser("@" + local + ":" + a.accounts.ServerName()) {
		return nil, matrixerr.Exclusive("This user name is not in the namespaces of the application service")
	}
	n := account.NewUser{Username: local, Service: s.ID}
	if !req.InhibitLogin {
		n.Device = &account.NewDevice{ID: req.DeviceID, DisplayName: req.DisplayName, Refresh: req.Refresh, IP: r.ClientIP()}
	}
	l, err := a.accounts.CreateUser(ctx, n)
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

func (a *API) loginByService(ctx context.Context, r *httpx.Request, user string, d account.NewDevice) (any, error) {
	s, err := a.caller(r)
	if err != nil {
		return nil, err
	}
	local, ok := a.accounts.Localpart(user)
	if !ok {
		if local, err = a.accounts.Canonical(user); err != nil {
			return nil, err
		}
	}
	if !s.OwnsUser("@" + local + ":" + a.accounts.ServerName()) {
		return nil, matrixerr.Exclusive("This user is not in the namespaces of the application service")
	}
	l, err := a.accounts.LoginTrusted(ctx, local, d)
	if err != nil && matrixerr.From(err).Code == "M_NOT_FOUND" {
		return nil, matrixerr.Forbidden("There is no user of this name; register it first").With(err)
	}
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

// ensureDevice is PUT /devices/{deviceId} of an application service, which makes devices (MSC4190).
func (a *API) ensureDevice(ctx context.Context, r *httpx.Request, name *string) (any, error) {
	made, err := a.accounts.EnsureDevice(ctx, r.Caller.UserID, r.Vars["deviceId"], name)
	if err != nil {
		return nil, err
	}
	if made {
		return &httpx.Response{Status: http.StatusCreated}, nil
	}
	return nil, nil
}
