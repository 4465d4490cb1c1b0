package account

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// maxDeletions is how many devices one request may name.
const maxDeletions = 1000

func (a *API) deviceRoutes() []httpx.Route {
	const spec = "Device management"
	return []httpx.Route{
		{Method: "GET", Path: v3 + "/devices", Handler: a.devices, Auth: httpx.AuthGuestOK, Spec: spec},
		{Method: "GET", Path: v3 + "/devices/{deviceId}", Handler: a.device, Auth: httpx.AuthGuestOK, Spec: spec},
		{Method: "PUT", Path: v3 + "/devices/{deviceId}", Handler: a.renameDevice, Auth: httpx.AuthGuestOK, Spec: spec},
		{Method: "DELETE", Path: v3 + "/devices/{deviceId}", Handler: a.deleteDevice, Auth: httpx.AuthUser,
			Limit: limitLogin, Spec: spec, OptionalBody: true},
		{Method: "POST", Path: v3 + "/delete_devices", Handler: a.deleteDevices, Auth: httpx.AuthUser,
			Limit: limitLogin, Spec: spec},
	}
}

func (a *API) devices(ctx context.Context, r *httpx.Request) (any, error) {
	all, err := a.accounts.Devices(ctx, r.Caller.UserID)
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = []account.Device{}
	}
	return map[string][]account.Device{"devices": all}, nil
}

func (a *API) device(ctx context.Context, r *httpx.Request) (any, error) {
	return a.accounts.Device(ctx, r.Caller.UserID, r.Vars["deviceId"])
}

func (a *API) renameDevice(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		DisplayName *string `json:"display_name"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if r.Caller.AppService != "" {
		return a.ensureDevice(ctx, r, req.DisplayName)
	}
	if req.DisplayName == nil {
		_, err := a.accounts.Device(ctx, r.Caller.UserID, r.Vars["deviceId"])
		return nil, err
	}
	return nil, a.accounts.RenameDevice(ctx, r.Caller.UserID, r.Vars["deviceId"], *req.DisplayName)
}

func (a *API) deleteDevice(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Auth json.RawMessage `json:"auth"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	return a.endDevices(ctx, r, req.Auth, []string{r.Vars["deviceId"]})
}

func (a *API) deleteDevices(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Auth    json.RawMessage `json:"auth"`
		Devices *[]string       `json:"devices"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	switch {
	case req.Devices == nil:
		return nil, matrixerr.MissingParam("devices is missing")
	case len(*req.Devices) > maxDeletions:
		return nil, matrixerr.New(http.StatusBadRequest, "M_TOO_LARGE", "At most 1000 devices can be deleted at once")
	}
	return a.endDevices(ctx, r, req.Auth, *req.Devices)
}

// operationDevices is what UIA sessions that end devices are for; their ids follow.
const operationDevices = "delete devices"

// endDevices binds the authentication to the devices: a session begun for one cannot delete another.
func (a *API) endDevices(ctx context.Context, r *httpx.Request, auth json.RawMessage, ids []string) (any, error) {
	slices.Sort(ids)
	return a.withProof(ctx, r, operationDevices+"\x00"+strings.Join(ids, "\x00"), auth, func() (any, error) {
		return nil, a.accounts.DeleteDevices(ctx, r.Caller.UserID, ids...)
	})
}
