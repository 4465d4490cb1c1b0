package account

import (
	"context"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) moderationRoutes() []httpx.Route {
	const spec = "Server administration"
	return []httpx.Route{
		{Method: "GET", Path: v3 + "/admin/whois/{userId}", Handler: a.whois, Auth: httpx.AuthUser, Spec: spec},
		{Method: "GET", Path: v1 + "/admin/lock/{userId}", Handler: a.standing("locked"), Auth: httpx.AuthAdmin, Spec: spec},
		{Method: "PUT", Path: v1 + "/admin/lock/{userId}", Handler: a.setStanding("locked", a.accounts.SetLocked),
			Auth: httpx.AuthAdmin, Spec: spec},
		{Method: "GET", Path: v1 + "/admin/suspend/{userId}", Handler: a.standing("suspended"), Auth: httpx.AuthAdmin, Spec: spec},
		{Method: "PUT", Path: v1 + "/admin/suspend/{userId}", Handler: a.setStanding("suspended", a.accounts.SetSuspended),
			Auth: httpx.AuthAdmin, Spec: spec},
	}
}

// moderated is the account of the path, if the caller may look after it: one that is in use, and no administrator's.
func (a *API) moderated(ctx context.Context, r *httpx.Request) (account.User, error) {
	id := r.Vars["userId"]
	if _, ok := a.accounts.Localpart(id); !ok {
		return account.User{}, matrixerr.InvalidParam("This user does not belong to this server")
	}
	u, err := a.accounts.User(ctx, id)
	switch {
	case err != nil:
		return u, err
	case u.Deactivated:
		return u, matrixerr.NotFound("This account has been deactivated")
	case u.Admin:
		return u, matrixerr.Forbidden("This user is an administrator, whom another one cannot lock or suspend")
	}
	return u, nil
}

// standing answers with one member of a user's standing.
func (a *API) standing(name string) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		u, err := a.moderated(ctx, r)
		if err != nil {
			return nil, err
		}
		st := a.accounts.Standing(u.UserID)
		return map[string]bool{name: name == "locked" && st.Locked || name == "suspended" && st.Suspended}, nil
	}
}

func (a *API) setStanding(name string, set func(ctx context.Context, userID string, on bool) error) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		var req map[string]any
		if err := r.JSON(&req); err != nil {
			return nil, err
		}
		u, err := a.moderated(ctx, r)
		if err != nil {
			return nil, err
		}
		value, ok := req[name]
		if !ok {
			return nil, matrixerr.MissingParam(name + " is missing: true or false")
		}
		on, ok := value.(bool)
		if !ok {
			return nil, matrixerr.InvalidParam(name + " must be true or false")
		}
		return map[string]bool{name: on}, set(ctx, u.UserID, on)
	}
}

// connection is how a session was last seen.
type connection struct {
	IP       string `json:"ip,omitempty"`
	LastSeen int64  `json:"last_seen"`
}

// whois tells of the devices of a user, to the user and to administrators.
func (a *API) whois(ctx context.Context, r *httpx.Request) (any, error) {
	id := r.Vars["userId"]
	if id != r.Caller.UserID && !r.Caller.Admin {
		return nil, matrixerr.Forbidden("Only the user and administrators of this server can see this")
	}
	if _, ok := a.accounts.Localpart(id); !ok {
		return nil, matrixerr.InvalidParam("This user does not belong to this server")
	}
	if _, err := a.accounts.User(ctx, id); err != nil {
		return nil, err
	}
	devices, err := a.accounts.Devices(ctx, id)
	if err != nil {
		return nil, err
	}
	type session struct {
		Connections []connection `json:"connections"`
	}
	type device struct {
		Sessions []session `json:"sessions"`
	}
	all := make(map[string]device, len(devices))
	for _, d := range devices {
		all[d.ID] = device{[]session{{[]connection{{d.LastSeenIP, d.LastSeenTS}}}}}
	}
	return map[string]any{"user_id": id, "devices": all}, nil
}
