package account

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) registerRoutes() []httpx.Route {
	const spec = "Account registration"
	routes := []httpx.Route{
		{Method: "POST", Path: v3 + "/register", Handler: a.register, Auth: httpx.AuthService, Limit: limitRegister, Spec: spec},
		{Method: "GET", Path: v3 + "/register/available", Handler: a.available, Limit: limitLookup, Spec: spec},
		{Method: "GET", Path: v1 + "/register/m.login.registration_token/validity", Handler: a.tokenValidity,
			Limit: limitRegister, Spec: "Token-authenticated registration"},
	}
	if a.o.SharedSecret != "" {
		const path, tools = "/_synapse/admin/v1/register", "Registration with a shared secret, as admin tools do it"
		routes = append(routes,
			httpx.Route{Method: "GET", Path: path, Handler: a.secretNonce, Limit: limitRegister, Spec: tools},
			httpx.Route{Method: "POST", Path: path, Handler: a.secretRegister, Limit: limitRegister, Spec: tools})
	}
	return routes
}

type registerRequest struct {
	Auth         json.RawMessage `json:"auth"`
	Type         string          `json:"type"` // of application services
	Username     string          `json:"username"`
	Password     string          `json:"password"`
	DeviceID     string          `json:"device_id"`
	DisplayName  string          `json:"initial_device_display_name"`
	InhibitLogin bool            `json:"inhibit_login"`
	Refresh      bool            `json:"refresh_token"`
}

func errRegistrationClosed() error {
	return matrixerr.Forbidden("Registration is closed on this server; ask its administrator for an account")
}

func (a *API) register(ctx context.Context, r *httpx.Request) (any, error) {
	var req registerRequest
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Type == loginService {
		return a.registerByService(ctx, r, req)
	}
	switch kind := r.Query("kind"); kind {
	case "", "user":
		return a.registerUser(ctx, r, req)
	case "guest":
		return a.registerGuest(ctx, r, req)
	}
	return nil, matrixerr.InvalidParam("kind is either user or guest")
}

// operationRegister is what UIA sessions of registration are for.
const operationRegister = "register"

// registerUser checks the name first, then the person, then makes the account (Client-Server API, POST /register).
func (a *API) registerUser(ctx context.Context, r *httpx.Request, req registerRequest) (any, error) {
	if !a.o.Registration.Enabled {
		return nil, errRegistrationClosed()
	}
	if req.Username != "" {
		if _, err := a.accounts.Available(ctx, req.Username); err != nil {
			return nil, err
		}
	}
	s, resp, err := a.authorize(ctx, account.UIARequest{Operation: operationRegister, Auth: req.Auth,
		Flows: a.registrationFlows(), Params: a.registrationParams(), Verify: a.verifyRegistration})
	if err != nil {
		return nil, err
	}
	if resp != nil {
		return resp, nil
	}
	defer s.Leave()
	l, err := a.createUser(ctx, r, req, s)
	if err != nil {
		return nil, err
	}
	s.Done()
	return l, nil
}

// registrationFlows are what people have to do before they get an account: what everybody must, and then an e-mail
// address that they must or may confirm. The dummy stage tells the flow without an address from the one with it.
func (a *API) registrationFlows() [][]string {
	var all []string
	if a.o.Registration.RequireToken {
		all = append(all, account.StageRegistrationToken)
	}
	if a.o.Registration.Captcha != nil {
		all = append(all, account.StageCaptcha)
	}
	if len(a.o.Registration.Terms) > 0 {
		all = append(all, account.StageTerms)
	}
	with := append(slices.Clone(all), account.StageEmail)
	switch {
	case a.o.Mail != nil && a.o.Registration.RequireEmail:
		return [][]string{with}
	case a.o.Mail != nil:
		return [][]string{append(slices.Clone(all), account.StageDummy), with}
	case len(all) == 0:
		return [][]string{{account.StageDummy}}
	}
	return [][]string{all}
}

// registrationParams tell clients what the stages are about.
func (a *API) registrationParams() map[string]any {
	params := map[string]any{}
	if c := a.o.Registration.Captcha; c != nil {
		params[account.StageCaptcha] = map[string]string{"public_key": c.SiteKey}
	}
	if len(a.o.Registration.Terms) == 0 {
		return params
	}
	policies := map[string]map[string]any{}
	for _, p := range a.o.Registration.Terms {
		if policies[p.Policy] == nil {
			policies[p.Policy] = map[string]any{"version": p.Version}
		}
		policies[p.Policy][p.Language] = map[string]string{"name": p.Name, "url": p.URL}
	}
	params[account.StageTerms] = map[string]any{"policies": policies}
	return params
}

// accepted are the documents that everybody who registers has accepted.
func (a *API) accepted() []account.Terms {
	terms := make([]account.Terms, len(a.o.Registration.Terms))
	for i, p := range a.o.Registration.Terms {
		terms[i] = account.Terms{Policy: p.Policy, Version: p.Version}
	}
	return terms
}

func (a *API) createUser(ctx context.Context, r *httpx.Request, req registerRequest, s *account.UIASession) (any, error) {
	if req.Password == "" {
		return nil, matrixerr.MissingParam("password is missing")
	}
	if err := a.accounts.CheckNewPassword(req.Password); err != nil {
		return nil, err
	}
	n := account.NewUser{Username: req.Username, Password: req.Password,
		RegistrationToken: s.Value(account.StageRegistrationToken), Email: shownEmail(s), Terms: a.accepted()}
	if !req.InhibitLogin {
		n.Device = &account.NewDevice{ID: req.DeviceID, DisplayName: req.DisplayName, Refresh: req.Refresh,
			IP: r.ClientIP()}
	}
	l, err := a.accounts.CreateUser(ctx, n)
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

func (a *API) registerGuest(ctx context.Context, r *httpx.Request, req registerRequest) (any, error) {
	if !a.o.Registration.Guests {
		return nil, matrixerr.New(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "This server takes no guests; register an account")
	}
	l, err := a.accounts.CreateUser(ctx, account.NewUser{Guest: true,
		Device: &account.NewDevice{DisplayName: req.DisplayName, IP: r.ClientIP()}})
	if err != nil {
		return nil, err
	}
	return a.loginAnswer(l), nil
}

// verifyRegistration checks a stage of registration.
func (a *API) verifyRegistration(ctx context.Context, s *account.UIASession, stage string, raw json.RawMessage) error {
	switch stage {
	case account.StageDummy, account.StageTerms: // with its words the client says that the documents were accepted
		return nil
	case account.StageCaptcha:
		return a.verifyCaptcha(ctx, raw)
	case account.StageEmail:
		return a.verifyEmail(ctx, s, account.ToRegister, raw)
	}
	var auth struct {
		Token string `json:"token"`
	}
	if err := httpx.Unmarshal(raw, &auth); err != nil {
		return err
	}
	release, ok, err := a.accounts.ReserveRegistrationToken(ctx, auth.Token)
	if err != nil {
		return err
	}
	if !ok {
		return matrixerr.New(http.StatusUnauthorized, "M_FORBIDDEN", "This registration token is not valid")
	}
	s.Keep(account.StageRegistrationToken, auth.Token, release)
	return nil
}

func (a *API) available(ctx context.Context, r *httpx.Request) (any, error) {
	if !a.o.Registration.Enabled {
		return nil, errRegistrationClosed()
	}
	name := r.Query("username")
	if name == "" {
		return nil, matrixerr.MissingParam("The query parameter username is missing")
	}
	if _, err := a.accounts.Available(ctx, name); err != nil {
		return nil, err
	}
	return map[string]bool{"available": true}, nil
}

func (a *API) tokenValidity(ctx context.Context, r *httpx.Request) (any, error) {
	if !a.o.Registration.Enabled {
		return nil, errRegistrationClosed()
	}
	token := r.Query("token")
	if token == "" {
		return nil, matrixerr.MissingParam("The query parameter token is missing")
	}
	valid, err := a.accounts.RegistrationTokenValid(ctx, token)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"valid": valid}, nil
}
