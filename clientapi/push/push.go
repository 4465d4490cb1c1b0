// Package push owns the Client-Server endpoints of push rules and pushers.
package push

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/pushers"
	"knock/internal/pushrules"
)

// API serves push rules and pushers.
type API struct {
	rules   *pushrules.Service
	pushers *pushers.Service
}

// New makes an API.
func New(rules *pushrules.Service, p *pushers.Service) *API { return &API{rules, p} }

// Routes is the route table (Client-Server API, "Push Rules: API").
func (a *API) Routes() []httpx.Route {
	const base = "/_matrix/client/v3/pushrules/"
	const rule = base + "global/{kind}/{ruleId}"
	row := func(method, path string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: method, Path: path, Handler: h, Auth: httpx.AuthUser, Spec: "Push Rules: API"}
	}
	return []httpx.Route{
		row(http.MethodGet, base, a.all),
		row(http.MethodGet, base+"global/", a.global),
		row(http.MethodGet, rule, a.get),
		row(http.MethodPut, rule, a.put),
		row(http.MethodDelete, rule, a.delete),
		row(http.MethodGet, rule+"/enabled", a.enabled),
		row(http.MethodPut, rule+"/enabled", a.setEnabled),
		row(http.MethodGet, rule+"/actions", a.actions),
		row(http.MethodPut, rule+"/actions", a.setActions),
		{Method: http.MethodGet, Path: "/_matrix/client/v3/pushers", Handler: a.list, Auth: httpx.AuthUser, Spec: "Push Notifications"},
		{Method: http.MethodPost, Path: "/_matrix/client/v3/pushers/set", Handler: a.set, Auth: httpx.AuthUser, Spec: "Push Notifications"},
		{Method: http.MethodGet, Path: "/_matrix/client/v3/notifications", Handler: a.notifications, Auth: httpx.AuthUser, Spec: "Listing Notifications"},
		{Method: http.MethodGet, Path: pushers.UnsubscribePath, Handler: a.unsubscribePage, Limit: "login", Spec: "Links in e-mails"},
		{Method: http.MethodPost, Path: pushers.UnsubscribePath, Handler: a.unsubscribe, Limit: "login", Spec: "Links in e-mails"},
	}
}

// Bounds of one page of notifications.
const (
	defaultPage = 20
	maxPage     = 100
)

func (a *API) notifications(ctx context.Context, r *httpx.Request) (any, error) {
	limit, err := r.Int("limit", defaultPage, maxPage)
	if err != nil {
		return nil, err
	}
	var before int64
	if from := r.Query("from"); from != "" {
		if before, err = strconv.ParseInt(from, 10, 64); err != nil || before <= 0 {
			return nil, matrixerr.InvalidParam("from must be the next_token of an earlier answer; leave it out to begin with the newest")
		}
	}
	page, next, err := a.pushers.Notifications(ctx, pushers.ListRequest{User: r.Caller.UserID, Device: r.Caller.DeviceID, Before: before,
		Limit: max(limit, 1), Highlight: r.Query("only") == "highlight"})
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"notifications": page}
	if next > 0 {
		answer["next_token"] = strconv.FormatInt(next, 10)
	}
	return answer, nil
}

func (a *API) list(_ context.Context, r *httpx.Request) (any, error) {
	return map[string]any{"pushers": a.pushers.List(r.Caller.UserID)}, nil
}

func (a *API) set(ctx context.Context, r *httpx.Request) (any, error) {
	q := &pushers.Request{}
	if err := r.JSON(q); err != nil {
		return nil, err
	}
	return nil, a.pushers.Set(ctx, r.Caller.UserID, r.Caller.DeviceID, q)
}

func (a *API) all(ctx context.Context, r *httpx.Request) (any, error) {
	return a.rules.Global(ctx, r.Caller.UserID)
}

func (a *API) global(ctx context.Context, r *httpx.Request) (any, error) {
	g, err := a.rules.Global(ctx, r.Caller.UserID)
	return g.Global, err
}

// kind is the path's kind of rule.
func kind(r *httpx.Request) (pushrules.Kind, error) {
	k, ok := pushrules.ParseKind(r.Vars["kind"])
	if !ok {
		return 0, matrixerr.InvalidParam("The kind of rule must be override, content, room, sender or underride")
	}
	return k, nil
}

// rule returns the rule of the path. Of a kind that there is not, there is none.
func (a *API) rule(ctx context.Context, r *httpx.Request) (pushrules.Rule, error) {
	k, err := kind(r)
	if err != nil {
		return pushrules.Rule{}, matrixerr.NotFound("The push rule was not found.").With(err)
	}
	return a.rules.Rule(ctx, r.Caller.UserID, k, r.Vars["ruleId"])
}

func (a *API) get(ctx context.Context, r *httpx.Request) (any, error) {
	rule, err := a.rule(ctx, r)
	return rule, err
}

func (a *API) put(ctx context.Context, r *httpx.Request) (any, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	def := &pushrules.Definition{}
	if err := r.JSON(def); err != nil {
		return nil, err
	}
	return nil, a.rules.Put(ctx, r.Caller.UserID, k, r.Vars["ruleId"], def, r.Query("before"), r.Query("after"))
}

func (a *API) delete(ctx context.Context, r *httpx.Request) (any, error) {
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	return nil, a.rules.Delete(ctx, r.Caller.UserID, k, r.Vars["ruleId"])
}

func (a *API) enabled(ctx context.Context, r *httpx.Request) (any, error) {
	rule, err := a.rule(ctx, r)
	return map[string]bool{"enabled": rule.Enabled}, err
}

func (a *API) setEnabled(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Enabled *bool `json:"enabled"`
	}
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Enabled == nil {
		return nil, matrixerr.MissingParam("enabled is missing")
	}
	return nil, a.rules.SetEnabled(ctx, r.Caller.UserID, k, r.Vars["ruleId"], *body.Enabled)
}

func (a *API) actions(ctx context.Context, r *httpx.Request) (any, error) {
	rule, err := a.rule(ctx, r)
	return map[string]json.RawMessage{"actions": rule.Actions}, err
}

func (a *API) setActions(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Actions json.RawMessage `json:"actions"`
	}
	k, err := kind(r)
	if err != nil {
		return nil, err
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Actions == nil {
		return nil, matrixerr.MissingParam("actions is missing")
	}
	return nil, a.rules.SetActions(ctx, r.Caller.UserID, k, r.Vars["ruleId"], body.Actions)
}
