// Package notices owns the administrators' endpoints for server notices: a path of our own, and the one that existing
// tools call.
package notices

import (
	"context"
	"encoding/json"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/notices"
	"knock/roomserver"
)

// API serves the endpoints.
type API struct{ notices *notices.Service }

// New makes an API; without a service it serves nothing.
func New(s *notices.Service) *API { return &API{s} }

const maxPage = 1000

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	if a.notices == nil {
		return nil
	}
	const ours, tools, spec = "/_knock/admin/v1/notices", "/_synapse/admin/v1/send_server_notice", "Admin API: server notices"
	row := func(method, path string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: method, Path: path, Handler: h, Auth: httpx.AuthAdmin, Spec: spec}
	}
	return []httpx.Route{
		row(http.MethodGet, ours, a.list),
		row(http.MethodPut, ours+"/{noticeId}", a.announce),
		row(http.MethodGet, ours+"/{noticeId}", a.progress),
		row(http.MethodDelete, ours+"/{noticeId}", a.forget),
		row(http.MethodPost, tools, a.send),
		row(http.MethodPut, tools+"/{txnId}", a.send),
	}
}

// send is what tools call: one user is told at once.
func (a *API) send(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		User     string          `json:"user_id"`
		Type     string          `json:"type"`
		StateKey *string         `json:"state_key"`
		Content  json.RawMessage `json:"content"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch {
	case body.User == "":
		return nil, matrixerr.MissingParam(`"user_id" is missing`)
	case len(body.Content) == 0:
		return nil, matrixerr.MissingParam(`"content" is missing`)
	case body.Content[0] != '{':
		return nil, matrixerr.BadJSON(`"content" must be an object`)
	}
	id, err := a.notices.Send(ctx, notices.Notice{User: body.User, Type: body.Type, StateKey: body.StateKey, Content: body.Content,
		TxnID: r.Vars["txnId"], Scope: r.Caller.UserID + " " + r.Caller.DeviceID})
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	return map[string]string{"event_id": id}, nil
}

// progress is how far a notice is. Times are in milliseconds since 1970.
type progress struct {
	ID      string `json:"notice_id"`
	State   string `json:"state"` // "sending" or "sent"
	Sent    int64  `json:"sent"`
	Failed  int64  `json:"failed"`
	Created int64  `json:"created_ts"`
	Ended   int64  `json:"ended_ts,omitempty"`
}

func describe(j notices.Job) progress {
	p := progress{j.ID, "sending", j.Sent, j.Failed, j.Created, j.Ended}
	if j.Ended != 0 {
		p.State = "sent"
	}
	return p
}

// announce has some users told, or everybody, in the background.
func (a *API) announce(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Everybody bool            `json:"everybody"`
		Users     []string        `json:"users"`
		Text      string          `json:"text"`
		Content   json.RawMessage `json:"content"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Everybody == (body.Users != nil) {
		return nil, matrixerr.BadJSON(`Say whom to tell: "users", a list of user ids, or "everybody": true`)
	}
	content, err := message(body.Text, body.Content)
	if err != nil {
		return nil, err
	}
	job, err := a.notices.Announce(ctx, r.Vars["noticeId"], body.Users, content)
	return describe(job), err
}

// message is the content of the event: a text, or what the administrator wrote for it.
func message(text string, content json.RawMessage) (json.RawMessage, error) {
	if (text == "") == (len(content) == 0) {
		return nil, matrixerr.BadJSON(`Say what to tell: "text", or "content" of an m.room.message`)
	}
	if text != "" {
		return json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	}
	var parts struct {
		Type string `json:"msgtype"`
		Body string `json:"body"`
	}
	if json.Unmarshal(content, &parts) != nil || parts.Type == "" || parts.Body == "" {
		return nil, matrixerr.BadJSON(`"content" must be that of an m.room.message, with "msgtype" and "body"`)
	}
	return content, nil
}

func (a *API) progress(ctx context.Context, r *httpx.Request) (any, error) {
	job, err := a.notices.Job(ctx, r.Vars["noticeId"])
	return describe(job), err
}

func (a *API) list(ctx context.Context, r *httpx.Request) (any, error) {
	limit, err := r.Int("limit", 100, maxPage)
	if err != nil {
		return nil, err
	}
	jobs, err := a.notices.Jobs(ctx, limit)
	list := make([]progress, len(jobs))
	for i, j := range jobs {
		list[i] = describe(j)
	}
	return map[string]any{"notices": list}, err
}

func (a *API) forget(ctx context.Context, r *httpx.Request) (any, error) {
	return nil, a.notices.Forget(ctx, r.Vars["noticeId"])
}
