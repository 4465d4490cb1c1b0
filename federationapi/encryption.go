package federationapi

import (
	"context"
	"encoding/json"
	"errors"

	"knock/internal/e2ee"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// maxKeysBody bounds questions for the keys of many devices.
const maxKeysBody = 4 << 20

// Encryption is what other servers may ask and tell of end-to-end encryption; e2ee.Service does.
type Encryption interface {
	QueryLocal(ctx context.Context, want map[string][]string) (*e2ee.Answer, error)
	ClaimLocal(ctx context.Context, want e2ee.Claims) (e2ee.Claimed, error)
	LocalDevices(ctx context.Context, userID string) (*e2ee.Devices, error)
	ReceiveToDevice(ctx context.Context, origin string, content json.RawMessage) error
	ReceiveDeviceList(ctx context.Context, origin string, content json.RawMessage) error
	ReceiveSigningKeys(ctx context.Context, origin string, content json.RawMessage) error
}

func (a *API) encryptionRoutes() []httpx.Route {
	if a.o.Encryption == nil {
		return nil
	}
	const base, auth = "/_matrix/federation/v1/user/", httpx.AuthServer
	const devices, keys = "Server-Server: Device Management", "Server-Server: End-to-End Encryption"
	return []httpx.Route{
		{Method: "GET", Path: base + "devices/{userId}", Handler: a.userDevices, Auth: auth, Spec: devices},
		{Method: "POST", Path: base + "keys/query", Handler: a.queryKeys, Auth: auth, MaxBody: maxKeysBody, Spec: keys},
		{Method: "POST", Path: base + "keys/claim", Handler: a.claimKeys, Auth: auth, MaxBody: maxKeysBody, Spec: keys},
	}
}

func (a *API) userDevices(ctx context.Context, r *httpx.Request) (any, error) {
	return a.o.Encryption.LocalDevices(ctx, r.Vars["userId"])
}

func (a *API) queryKeys(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Keys map[string][]string `json:"device_keys"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Keys == nil {
		return nil, matrixerr.MissingParam("device_keys is missing")
	}
	return a.o.Encryption.QueryLocal(ctx, req.Keys)
}

func (a *API) claimKeys(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Keys e2ee.Claims `json:"one_time_keys"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Keys == nil {
		return nil, matrixerr.MissingParam("one_time_keys is missing")
	}
	keys, err := a.o.Encryption.ClaimLocal(ctx, req.Keys)
	return map[string]any{"one_time_keys": keys}, err
}

// refused reports whether an error says that an EDU is wrong, and not that it could not be written down.
func refused(err error) bool {
	var e *matrixerr.Error
	return errors.As(err, &e)
}
