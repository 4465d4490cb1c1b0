// Package people owns the Client-Server endpoints about other users: the user directory, mutual rooms and reports, and
// the endpoints with which administrators read the reports.
package people

import (
	"context"
	"encoding/base64"
	"net/http"
	"sort"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/reports"
	"knock/internal/userdir"
	"knock/roomserver"
	"knock/roomserver/event"
)

// Options are what an API needs.
type Options struct {
	Rooms     *roomserver.Server
	Directory *userdir.Directory
	Reports   *reports.Service
	// Exists tells whether there is a local user.
	Exists func(ctx context.Context, userID string) (bool, error)
}

// API serves what concerns other users.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API { return &API{o} }

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	const client = "/_matrix/client/"
	rows := []httpx.Route{
		{Method: http.MethodPost, Path: client + "v3/user_directory/search", Handler: a.search, Auth: httpx.AuthUser, Limit: "directory", Spec: "User Directory"},
		{Method: http.MethodGet, Path: client + "v1/mutual_rooms", Handler: a.mutualRooms, Auth: httpx.AuthUser, Limit: "directory", Spec: "Mutual Rooms"},
		{Method: http.MethodGet, Path: client + "unstable/uk.half-shot.msc2666/user/mutual_rooms", Handler: a.mutualRooms, Auth: httpx.AuthUser, Limit: "directory", Spec: "MSC2666"},
		{Method: http.MethodPost, Path: client + "v3/rooms/{roomId}/report", Handler: a.reportRoom, Auth: httpx.AuthUser, Limit: "message", Spec: "Reporting Content"},
		{Method: http.MethodPost, Path: client + "v3/rooms/{roomId}/report/{eventId}", Handler: a.reportEvent, Auth: httpx.AuthUser, Limit: "message", Spec: "Reporting Content"},
		{Method: http.MethodPost, Path: client + "v3/users/{userId}/report", Handler: a.reportUser, Auth: httpx.AuthUser, Limit: "message", Spec: "Reporting Content"},
	}
	return append(rows, a.adminRoutes()...)
}

// Bounds of a search.
const (
	defaultResults = 10
	maxResults     = 50
)

// result is a user who was found.
type result struct {
	UserID string `json:"user_id"`
	Name   string `json:"display_name,omitempty"`
	Avatar string `json:"avatar_url,omitempty"`
}

func (a *API) search(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Term  *string `json:"search_term"`
		Limit *int    `json:"limit"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	limit := defaultResults
	switch {
	case body.Term == nil:
		return nil, matrixerr.MissingParam("search_term is missing")
	case body.Limit != nil && *body.Limit < 1:
		return nil, matrixerr.InvalidParam("limit must be greater than 0")
	case body.Limit != nil:
		limit = min(*body.Limit, maxResults)
	}
	found, limited, err := a.o.Directory.Search(ctx, r.Caller.UserID, *body.Term, limit)
	if err != nil {
		return nil, err
	}
	results := make([]result, len(found))
	for i, u := range found {
		results[i] = result{u.ID, u.Name, u.Avatar}
	}
	return map[string]any{"results": results, "limited": limited}, nil
}

// mutualPage is how many rooms one answer has.
const mutualPage = 500

// mutual is the answer about mutual rooms; the second token is that of the unstable endpoint.
type mutual struct {
	Joined   []string `json:"joined"`
	Count    int      `json:"count"`
	Next     string   `json:"next_batch,omitempty"`
	Unstable string   `json:"next_batch_token,omitempty"`
}

func (a *API) mutualRooms(ctx context.Context, r *httpx.Request) (any, error) {
	user := r.Query("user_id")
	switch {
	case user == "":
		return nil, matrixerr.MissingParam("user_id is missing")
	case user == r.Caller.UserID:
		return nil, matrixerr.InvalidParam("user_id must be another user than yourself")
	case !event.CompliantUserID(user):
		return nil, matrixerr.InvalidParam("user_id is not a user id, such as @alice:example.org")
	}
	after, err := roomAfter(r)
	if err != nil {
		return nil, err
	}
	rooms, err := a.o.Rooms.MutualRooms(ctx, r.Caller.UserID, user)
	if err != nil {
		return nil, err
	}
	start := sort.Search(len(rooms), func(i int) bool { return rooms[i] > after })
	end := min(start+mutualPage, len(rooms))
	answer := mutual{Joined: append([]string{}, rooms[start:end]...), Count: len(rooms)}
	if end < len(rooms) {
		answer.Next = base64.RawURLEncoding.EncodeToString([]byte(rooms[end-1]))
		answer.Unstable = answer.Next
	}
	return answer, nil
}

// roomAfter reads the token of a page: the last room of the one before.
func roomAfter(r *httpx.Request) (string, error) {
	token := r.Query("from")
	if token == "" {
		token = r.Query("batch_token")
	}
	room, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || token != "" && !event.ValidRoomID(string(room)) {
		return "", matrixerr.InvalidParam("from is not a next_batch of this endpoint; leave it out to begin anew")
	}
	return string(room), nil
}
