package account

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) dataRoutes() []httpx.Route {
	const spec, msc3391 = "Client Config", "MSC3391"
	var routes []httpx.Route
	for _, where := range []string{"/user/{userId}/account_data/{type}", "/user/{userId}/rooms/{roomId}/account_data/{type}"} {
		routes = append(routes,
			httpx.Route{Method: "GET", Path: v3 + where, Handler: a.accountData, Auth: httpx.AuthUser, Spec: spec},
			httpx.Route{Method: "PUT", Path: v3 + where, Handler: a.setAccountData, Auth: httpx.AuthUser,
				MaxBody: maxAccountData, Spec: spec},
			httpx.Route{Method: "DELETE", Path: "/_matrix/client/unstable/org.matrix.msc3391" + where,
				Handler: a.deleteAccountData, Auth: httpx.AuthUser, Spec: msc3391})
	}
	return routes
}

// The types that the server manages: clients read them here and change them elsewhere.
const (
	typePushRules = "m.push_rules"
	typeFullyRead = "m.fully_read"
)

// room is the room of the path, "" where the path has none.
func room(r *httpx.Request) (string, error) {
	id, ok := r.Vars["roomId"]
	if !ok {
		return "", nil
	}
	if !strings.HasPrefix(id, "!") || len(id) < 2 || len(id) > 255 || strings.ContainsRune(id, 0) {
		return "", matrixerr.InvalidParam("This is not a room id such as !abc:example.org")
	}
	return id, nil
}

func (a *API) accountData(ctx context.Context, r *httpx.Request) (any, error) {
	if err := own(r, "You can only read your own account data"); err != nil {
		return nil, err
	}
	id, err := room(r)
	if err != nil {
		return nil, err
	}
	var content json.RawMessage
	if kind := r.Vars["type"]; kind == typePushRules && id == "" && a.o.PushRules != nil {
		content, err = a.o.PushRules(ctx, r.Caller.UserID)
	} else {
		content, err = a.accounts.AccountData(ctx, r.Caller.UserID, id, kind)
	}
	return httpx.Raw(content), err
}

// editable checks that the caller may change this data, and returns its room.
func editable(r *httpx.Request) (string, error) {
	if err := own(r, "You can only change your own account data"); err != nil {
		return "", err
	}
	switch kind := r.Vars["type"]; kind {
	case typePushRules:
		return "", notAllowed("m.push_rules cannot be set through this API; use /pushrules")
	case typeFullyRead:
		return "", notAllowed("m.fully_read cannot be set through this API; use /read_markers")
	}
	return room(r)
}

func (a *API) setAccountData(ctx context.Context, r *httpx.Request) (any, error) {
	id, err := editable(r)
	if err != nil {
		return nil, err
	}
	content, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	if isEmptyObject(content) { // the same as DELETE (MSC3391)
		return nil, a.accounts.DeleteAccountData(ctx, r.Caller.UserID, id, r.Vars["type"])
	}
	return nil, a.accounts.PutAccountData(ctx, r.Caller.UserID, id, r.Vars["type"], content)
}

// isEmptyObject says whether a JSON object has no members.
func isEmptyObject(object []byte) bool {
	return len(bytes.Trim(object, "{} \t\r\n")) == 0
}

func (a *API) deleteAccountData(ctx context.Context, r *httpx.Request) (any, error) {
	id, err := editable(r)
	if err != nil {
		return nil, err
	}
	return nil, a.accounts.DeleteAccountData(ctx, r.Caller.UserID, id, r.Vars["type"])
}

func (a *API) tagRoutes() []httpx.Route {
	const spec, tags = "Room Tagging", v3 + "/user/{userId}/rooms/{roomId}/tags"
	return []httpx.Route{
		{Method: "GET", Path: tags, Handler: a.tags, Auth: httpx.AuthUser, Spec: spec},
		{Method: "PUT", Path: tags + "/{tag}", Handler: a.setTag, Auth: httpx.AuthUser, Spec: spec},
		{Method: "DELETE", Path: tags + "/{tag}", Handler: a.deleteTag, Auth: httpx.AuthUser, Spec: spec},
	}
}

func (a *API) tagged(r *httpx.Request) (string, error) {
	if err := own(r, "You can only see and change your own tags"); err != nil {
		return "", err
	}
	return room(r)
}

func (a *API) tags(ctx context.Context, r *httpx.Request) (any, error) {
	id, err := a.tagged(r)
	if err != nil {
		return nil, err
	}
	tags, err := a.accounts.Tags(ctx, r.Caller.UserID, id)
	if err != nil {
		return nil, err
	}
	return map[string]any{"tags": tags}, nil
}

func (a *API) setTag(ctx context.Context, r *httpx.Request) (any, error) {
	id, err := a.tagged(r)
	if err != nil {
		return nil, err
	}
	var tag struct {
		Order *float64 `json:"order"`
	}
	if err := r.JSON(&tag); err != nil {
		return nil, err
	}
	body, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	return nil, a.accounts.SetTag(ctx, r.Caller.UserID, id, r.Vars["tag"], body)
}

func (a *API) deleteTag(ctx context.Context, r *httpx.Request) (any, error) {
	id, err := a.tagged(r)
	if err != nil {
		return nil, err
	}
	return nil, a.accounts.DeleteTag(ctx, r.Caller.UserID, id, r.Vars["tag"])
}
