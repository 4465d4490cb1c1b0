package account

import (
	"context"
	"encoding/json"

	"golang.org/x/text/cases"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/mail"
	"knock/internal/matrixerr"
)

func (a *API) threepidRoutes() []httpx.Route {
	const path, spec = v3 + "/account/3pid", "Adding Account Administrative Contact Information"
	return []httpx.Route{
		{Method: "GET", Path: path, Handler: a.threepids, Auth: httpx.AuthUser, Spec: spec},
		{Method: "POST", Path: path, Handler: a.bindOld, Auth: httpx.AuthUser, Limit: limitLogin, Spec: spec},
		{Method: "POST", Path: path + "/bind", Handler: a.bind, Auth: httpx.AuthUser, Limit: limitLogin, Spec: spec},
		{Method: "POST", Path: path + "/unbind", Handler: a.unbind, Auth: httpx.AuthUser, Limit: limitLogin, NotSuspended: true, Spec: spec},
		{Method: "POST", Path: path + "/add", Handler: a.addThreepid, Auth: httpx.AuthUser, Limit: limitLogin, Spec: spec},
		{Method: "POST", Path: path + "/delete", Handler: a.deleteThreepid, Auth: httpx.AuthUser, Limit: limitLogin, NotSuspended: true, Spec: spec},
	}
}

func (a *API) threepids(ctx context.Context, r *httpx.Request) (any, error) {
	list, err := a.accounts.Threepids(ctx, r.Caller.UserID)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []account.Threepid{}
	}
	return map[string]any{"threepids": list}, nil
}

func (a *API) addThreepid(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		account.Credentials
		Auth json.RawMessage `json:"auth"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.SID == "" || req.ClientSecret == "" {
		return nil, matrixerr.MissingParam("sid and client_secret are needed")
	}
	// Before the password: who has not followed the link need not give it.
	if _, err := a.accounts.Validated(ctx, account.ToAdd, req.SID, req.ClientSecret); err != nil {
		return nil, err
	}
	return a.withProof(ctx, r, "add an address\x00"+req.SID, req.Auth, func() (any, error) {
		return nil, a.accounts.AddEmail(ctx, r.Caller.UserID, req.SID, req.ClientSecret)
	})
}

// threepidRequest names an identifier of the caller.
type threepidRequest struct {
	Medium  string `json:"medium"`
	Address string `json:"address"`
	Server  string `json:"id_server"`
}

// threepidOf reads and checks the body.
func threepidOf(r *httpx.Request) (q threepidRequest, err error) {
	if err := r.JSON(&q); err != nil {
		return q, err
	}
	switch {
	case q.Medium == "" || q.Address == "":
		return q, matrixerr.MissingParam("medium and address are needed")
	case q.Medium != account.MediumEmail && q.Medium != account.MediumMSISDN:
		return q, matrixerr.InvalidParam("medium is email or msisdn")
	}
	q.Address = canonicalAddress(q.Medium, q.Address)
	return q, nil
}

// canonicalAddress is the form in which addresses are stored; for what is no address, one that is never stored.
func canonicalAddress(medium, address string) string {
	if medium != account.MediumEmail {
		return address
	}
	if good, err := mail.Canonical(address); err == nil {
		return good
	}
	return cases.Fold().String(address)
}

func (a *API) deleteThreepid(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := threepidOf(r)
	if err != nil {
		return nil, err
	}
	if err := a.accounts.DeleteThreepid(ctx, r.Caller.UserID, q.Medium, q.Address); err != nil {
		return nil, err
	}
	done, err := a.unbindFrom(ctx, r.Caller.UserID, q)
	if err != nil { // the address is gone here all the same
		return unbindResult(false), nil
	}
	return unbindResult(done), nil
}
