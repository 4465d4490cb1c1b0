package account

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/identity"
	"knock/internal/matrixerr"
	"knock/roomserver/event"
)

// unbindTime is how long all identity servers together may take when an account ends.
const unbindTime = 20 * time.Second

// bindRequest is a session with an identity server in which an address was confirmed.
type bindRequest struct {
	account.Credentials
	Server string `json:"id_server"`
	Token  string `json:"id_access_token"`
}

func errNoIdentity() error {
	return matrixerr.New(http.StatusForbidden, "M_SERVER_NOT_TRUSTED", "This server does not work with identity servers")
}

func (a *API) bind(ctx context.Context, r *httpx.Request) (any, error) {
	var req bindRequest
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	return nil, a.bindAddress(ctx, r.Caller.UserID, req)
}

// bindOld is the deprecated way to bind.
func (a *API) bindOld(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Creds bindRequest `json:"three_pid_creds"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	err := a.bindAddress(ctx, r.Caller.UserID, req.Creds)
	if err != nil && matrixerr.From(err).HTTP/100 == 4 && matrixerr.From(err).Code != "M_MISSING_PARAM" {
		err = matrixerr.New(http.StatusForbidden, "M_THREEPID_AUTH_FAILED", matrixerr.From(err).Msg).With(err)
	}
	return nil, err
}

func (a *API) bindAddress(ctx context.Context, userID string, req bindRequest) error {
	switch {
	case a.o.Identity == nil:
		return errNoIdentity()
	case req.SID == "" || req.ClientSecret == "" || req.Server == "" || req.Token == "":
		return matrixerr.MissingParam("sid, client_secret, id_server and id_access_token are needed")
	case !event.ValidServerName(req.Server):
		return matrixerr.InvalidParam("id_server must be a host name and perhaps a port, such as id.example.org")
	}
	bound, err := a.o.Identity.Bind(ctx, identity.Account{Server: req.Server, Token: req.Token},
		identity.Binding{SID: req.SID, ClientSecret: req.ClientSecret, User: userID})
	if err != nil {
		return err
	}
	return a.accounts.NoteBinding(ctx, userID, account.Binding{Medium: bound.Medium, Address: bound.Address, Server: req.Server})
}

func unbindResult(done bool) any {
	if done {
		return map[string]string{"id_server_unbind_result": "success"}
	}
	return map[string]string{"id_server_unbind_result": "no-support"}
}

func (a *API) unbind(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := threepidOf(r)
	if err != nil {
		return nil, err
	}
	done, err := a.unbindFrom(ctx, r.Caller.UserID, q)
	if err != nil {
		return nil, err
	}
	return unbindResult(done), nil
}

// unbindFrom has the server of q, or all through which the address was bound, forget an address. done is false when one
// of them cannot, or when there is none.
func (a *API) unbindFrom(ctx context.Context, userID string, q threepidRequest) (done bool, err error) {
	servers := []string{q.Server}
	if q.Server == "" {
		bound, err := a.accounts.Bindings(ctx, userID)
		if err != nil {
			return false, err
		}
		servers = nil
		for _, b := range bound {
			if b.Medium == q.Medium && b.Address == q.Address {
				servers = append(servers, b.Server)
			}
		}
	}
	done = len(servers) > 0
	for _, server := range servers {
		ok, err := a.unbindOne(ctx, userID, account.Binding{Medium: q.Medium, Address: q.Address, Server: server})
		if err != nil {
			return false, err
		}
		done = done && ok
	}
	return done, nil
}

func (a *API) unbindOne(ctx context.Context, userID string, b account.Binding) (bool, error) {
	switch {
	case a.o.Identity == nil:
		return false, nil
	case !event.ValidServerName(b.Server):
		return false, matrixerr.InvalidParam("id_server must be a host name and perhaps a port, such as id.example.org")
	}
	done, err := a.o.Identity.Unbind(ctx, b.Server, userID, identity.Address{Medium: b.Medium, Address: b.Address})
	if !done || err != nil {
		return false, err
	}
	return true, a.accounts.ForgetBinding(ctx, userID, b)
}

// unbindAll has identity servers forget all addresses of an account that ends, on one of them when server is not "". An
// identity server that does not answer does not keep the account.
func (a *API) unbindAll(ctx context.Context, userID, server string) (done bool, err error) {
	bound, err := a.accounts.Bindings(ctx, userID)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, unbindTime)
	defer cancel()
	results := make([]bool, len(bound))
	var all errgroup.Group
	for i, b := range bound {
		if results[i] = server != "" && b.Server != server; results[i] {
			continue
		}
		all.Go(func() error {
			ok, err := a.unbindOne(ctx, userID, b)
			results[i] = ok && err == nil
			return nil
		})
	}
	_ = all.Wait() // nothing fails
	done = true
	for _, ok := range results {
		done = done && ok
	}
	return done, nil
}
