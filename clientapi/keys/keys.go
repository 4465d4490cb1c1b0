// Package keys owns the endpoints of end-to-end encryption in the Client-Server API: device, one-time and cross-signing
// keys, key backups, messages to devices and dehydrated devices. The handlers are thin; internal/e2ee does the work.
package keys

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"knock/internal/e2ee"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver/event"
)

// Options are what the endpoints need.
type Options struct {
	E2EE *e2ee.Service
	DB   *sqldb.DB
	// Position reads the position out of a sync token; M_INVALID_PARAM for what is none.
	Position func(token string) (int64, error)
	// Moves finds the changes of membership that a user's device lists depend on, with from < position ≤ to.
	Moves func(ctx context.Context, userID string, from, to int64) (e2ee.Moves, error)
	// Published is the newest position that everybody may see.
	Published func() int64
	// Confirm does an operation once the caller has authenticated again (User-Interactive Authentication).
	Confirm func(ctx context.Context, r *httpx.Request, operation string, auth json.RawMessage, do func() (any, error)) (any, error)
}

// API is the part of the client door for encryption.
type API struct {
	o Options
	e *e2ee.Service
}

// New makes the endpoints.
func New(o Options) *API { return &API{o, o.E2EE} }

const (
	v3 = "/_matrix/client/v3"

	maxKeysBody     = 4 << 20
	maxMessagesBody = 16 << 20 // a message to each of many devices
	maxBackupBody   = 32 << 20
	limitKeys       = "keys"
)

// Routes are the rows of this part of the door.
func (a *API) Routes() []httpx.Route {
	return slices.Concat(a.keyRoutes(), a.signingRoutes(), a.messageRoutes(), a.backupRoutes(), a.dehydratedRoutes())
}

func (a *API) keyRoutes() []httpx.Route {
	const spec = "End-to-End Encryption"
	return []httpx.Route{
		{Method: "POST", Path: v3 + "/keys/upload", Handler: a.upload, Auth: httpx.AuthGuestOK, Limit: limitKeys, MaxBody: maxKeysBody, Spec: spec, Hot: true},
		{Method: "POST", Path: v3 + "/keys/query", Handler: a.query, Auth: httpx.AuthGuestOK, Limit: limitKeys, MaxBody: maxKeysBody, Spec: spec, Hot: true},
		{Method: "POST", Path: v3 + "/keys/claim", Handler: a.claim, Auth: httpx.AuthGuestOK, Limit: limitKeys, MaxBody: maxKeysBody, Spec: spec, Hot: true},
		{Method: "GET", Path: v3 + "/keys/changes", Handler: a.changes, Auth: httpx.AuthGuestOK, Spec: spec},
	}
}

func needDevice(r *httpx.Request) error {
	if r.Caller.DeviceID == "" {
		return matrixerr.InvalidParam("Say which device this is about: the access token belongs to none")
	}
	return nil
}

func (a *API) upload(ctx context.Context, r *httpx.Request) (any, error) {
	if err := needDevice(r); err != nil {
		return nil, err
	}
	var req struct {
		DeviceKeys json.RawMessage            `json:"device_keys"`
		OneTime    map[string]json.RawMessage `json:"one_time_keys"`
		Fallback   map[string]json.RawMessage `json:"fallback_keys"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	counts, err := a.e.UploadKeys(ctx, r.Caller.UserID, r.Caller.DeviceID, e2ee.Upload{DeviceKeys: req.DeviceKeys,
		OneTime: req.OneTime, Fallback: req.Fallback})
	if err != nil {
		return nil, err
	}
	return map[string]any{"one_time_key_counts": counts}, nil
}

// milliseconds is a time that clients give, bounded so that it cannot overflow.
type milliseconds int64

func (m milliseconds) duration() time.Duration {
	return time.Duration(min(max(m, 0), 1<<30)) * time.Millisecond
}

func (a *API) query(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Timeout milliseconds        `json:"timeout"`
		Keys    map[string][]string `json:"device_keys"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Keys == nil {
		return nil, matrixerr.MissingParam("device_keys is missing")
	}
	return a.e.Query(ctx, r.Caller.UserID, req.Keys, req.Timeout.duration())
}

func (a *API) claim(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Timeout milliseconds `json:"timeout"`
		Keys    e2ee.Claims  `json:"one_time_keys"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Keys == nil {
		return nil, matrixerr.MissingParam("one_time_keys is missing")
	}
	keys, failures, err := a.e.Claim(ctx, req.Keys, req.Timeout.duration())
	if err != nil {
		return nil, err
	}
	return map[string]any{"one_time_keys": keys, "failures": failures}, nil
}

// changes answers up to the newest position: "to" is a hint only.
func (a *API) changes(ctx context.Context, r *httpx.Request) (any, error) {
	for _, name := range []string{"from", "to"} {
		if r.Query(name) == "" {
			return nil, matrixerr.MissingParam("Query parameter " + name + " is missing")
		}
	}
	from, err := a.o.Position(r.Query("from"))
	if err != nil {
		return nil, err
	}
	if _, err := a.o.Position(r.Query("to")); err != nil {
		return nil, err
	}
	answer := struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	}{[]string{}, []string{}}
	to := a.o.Published()
	moves, err := a.o.Moves(ctx, r.Caller.UserID, from, to)
	if err != nil {
		return nil, err
	}
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		changed, left, err := a.e.DeviceLists(tx, r.Caller.UserID, from, to, moves)
		answer.Changed, answer.Left = append(answer.Changed, changed...), append(answer.Left, left...)
		return err
	})
	return answer, err
}

func (a *API) messageRoutes() []httpx.Route {
	return []httpx.Route{{Method: "PUT", Path: v3 + "/sendToDevice/{eventType}/{txnId}", Handler: a.sendToDevice,
		Auth: httpx.AuthGuestOK, Limit: limitKeys, MaxBody: maxMessagesBody, Spec: "Send-to-Device messaging", Hot: true}}
}

func (a *API) sendToDevice(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Messages e2ee.Messages `json:"messages"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	if req.Messages == nil {
		return nil, matrixerr.MissingParam("messages is missing")
	}
	if body, err := r.Bytes(); err != nil {
		return nil, err
	} else if _, err := event.CanonicalLoose(nil, body); err != nil {
		return nil, matrixerr.BadJSON("messages must be JSON that every server can read: " + err.Error()).With(err)
	}
	return nil, a.e.SendToDevice(ctx, r.Caller.UserID, r.Caller.DeviceID, r.Vars["eventType"], r.Vars["txnId"], req.Messages)
}

func (a *API) signingRoutes() []httpx.Route {
	const spec = "Cross-signing"
	return []httpx.Route{
		{Method: "POST", Path: v3 + "/keys/device_signing/upload", Handler: a.uploadSigning, Auth: httpx.AuthUser,
			Limit: limitKeys, MaxBody: maxKeysBody, Spec: spec},
		{Method: "POST", Path: v3 + "/keys/signatures/upload", Handler: a.uploadSignatures, Auth: httpx.AuthUser,
			Limit: limitKeys, MaxBody: maxKeysBody, Spec: spec},
	}
}

// uploadSigning asks for authentication only when keys that exist would change. The session is bound to the keys.
func (a *API) uploadSigning(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		Auth        json.RawMessage `json:"auth"`
		Master      json.RawMessage `json:"master_key"`
		SelfSigning json.RawMessage `json:"self_signing_key"`
		UserSigning json.RawMessage `json:"user_signing_key"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	keys := e2ee.CrossSigning{Master: req.Master, SelfSigning: req.SelfSigning, UserSigning: req.UserSigning}
	needed, err := a.e.NeedsAuth(ctx, r.Caller.UserID, keys)
	if err != nil {
		return nil, err
	}
	if !needed || r.Caller.AppService != "" {
		return nil, a.e.UploadCrossSigning(ctx, r.Caller.UserID, keys, r.Caller.AppService != "")
	}
	operation := "replace cross-signing keys\x00" + string(slices.Concat(req.Master, req.SelfSigning, req.UserSigning))
	return a.o.Confirm(ctx, r, operation, req.Auth, func() (any, error) {
		return nil, a.e.UploadCrossSigning(ctx, r.Caller.UserID, keys, true)
	})
}

func (a *API) uploadSignatures(ctx context.Context, r *httpx.Request) (any, error) {
	var req e2ee.Objects
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	failures, err := a.e.UploadSignatures(ctx, r.Caller.UserID, req)
	if err != nil {
		return nil, err
	}
	return map[string]any{"failures": failures}, nil
}

func (a *API) dehydratedRoutes() []httpx.Route {
	const base, spec = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device", "MSC3814"
	return []httpx.Route{
		{Method: "PUT", Path: base, Handler: a.putDehydrated, Auth: httpx.AuthUser, Limit: limitKeys, MaxBody: maxKeysBody, Spec: spec},
		{Method: "GET", Path: base, Handler: a.dehydrated, Auth: httpx.AuthUser, Spec: spec},
		{Method: "DELETE", Path: base, Handler: a.deleteDehydrated, Auth: httpx.AuthUser, Limit: limitKeys, Spec: spec},
		{Method: "GET", Path: base + "/{deviceId}/events", Handler: a.dehydratedEvents, Auth: httpx.AuthUser, Spec: spec},
		// The form of earlier drafts, which clients use still.
		{Method: "POST", Path: base + "/{deviceId}/events", Handler: a.dehydratedEvents, Auth: httpx.AuthUser, Spec: spec, OptionalBody: true},
	}
}

func (a *API) putDehydrated(ctx context.Context, r *httpx.Request) (any, error) {
	var req struct {
		DeviceID   string                     `json:"device_id"`
		Data       json.RawMessage            `json:"device_data"`
		Name       string                     `json:"initial_device_display_name"`
		DeviceKeys json.RawMessage            `json:"device_keys"`
		OneTime    map[string]json.RawMessage `json:"one_time_keys"`
		Fallback   map[string]json.RawMessage `json:"fallback_keys"`
	}
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	err := a.e.PutDehydrated(ctx, r.Caller.UserID, e2ee.NewDehydrated{DeviceID: req.DeviceID, Data: req.Data, Name: req.Name,
		Keys: e2ee.Upload{DeviceKeys: req.DeviceKeys, OneTime: req.OneTime, Fallback: req.Fallback}})
	return map[string]string{"device_id": req.DeviceID}, err
}

func (a *API) dehydrated(ctx context.Context, r *httpx.Request) (any, error) {
	id, data, err := a.e.Dehydrated(ctx, r.Caller.UserID)
	return map[string]any{"device_id": id, "device_data": data}, err
}

func (a *API) deleteDehydrated(ctx context.Context, r *httpx.Request) (any, error) {
	id, err := a.e.DeleteDehydrated(ctx, r.Caller.UserID)
	return map[string]string{"device_id": id}, err
}

func (a *API) dehydratedEvents(ctx context.Context, r *httpx.Request) (any, error) {
	token := r.Query("next_batch")
	if r.Method == http.MethodPost {
		var req struct {
			Next string `json:"next_batch"`
		}
		if err := r.JSON(&req); err != nil {
			return nil, err
		}
		token = req.Next
	}
	from, err := parseBatch(token)
	if err != nil {
		return nil, err
	}
	events, next, err := a.e.DehydratedEvents(ctx, r.Caller.UserID, strings.TrimSpace(r.Vars["deviceId"]), from)
	return map[string]any{"events": events, "next_batch": formatBatch(next)}, err
}
