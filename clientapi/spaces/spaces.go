// Package spaces owns the walk through spaces (Client-Server API, "Discovering rooms within spaces"): the endpoint for
// clients, and the answer for other servers that do the same walk.
package spaces

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/cache"
	"knock/internal/clock"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
)

// RemoteHierarchy asks another server about a room that this one is not in: GET /_matrix/federation/v1/hierarchy/{roomId}.
// The answer is untrusted JSON, bounded in size.
type RemoteHierarchy interface {
	Hierarchy(ctx context.Context, server, roomID string, suggestedOnly bool) (json.RawMessage, error)
}

// Options are what an API needs.
type Options struct {
	Rooms      *roomserver.Server
	Remote     RemoteHierarchy // nil: only rooms that this server is in
	Clock      clock.Clock     // nil: the system's
	Log        *logrus.Entry   // nil: the standard logger
	Registerer prometheus.Registerer
}

// API serves spaces.
type API struct {
	o     Options
	s     *roomserver.Server
	cache *cache.Cache[string, remoteAnswer]
}

// Bounds of one answer.
const (
	defaultLimit = 50
	maxLimit     = 100
	maxDepth     = 30   // levels of spaces
	maxWalk      = 2000 // rooms looked at
	remoteTime   = 15 * time.Second
)

// New makes an API.
func New(o Options) *API {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.Log == nil {
		o.Log = logrus.NewEntry(logrus.StandardLogger())
	}
	return &API{o: o, s: o.Rooms, cache: cache.New(cache.Options[string, remoteAnswer]{Name: "hierarchies", Entries: 2000, Bytes: 16 << 20,
		Registerer: o.Registerer, Cost: func(_ string, a remoteAnswer) int64 { return a.size }})}
}

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	return []httpx.Route{{Method: http.MethodGet, Path: "/_matrix/client/v1/rooms/{roomId}/hierarchy", Handler: a.hierarchy,
		Auth: httpx.AuthUser, Limit: "directory", Spec: "Spaces"}}
}

// request is what a client asks for. A token repeats it, with how many rooms came before.
type request struct {
	Suggested bool `json:"s"`
	Depth     int  `json:"d"`
	After     int  `json:"n"`
	limit     int
}

var errForbidden = matrixerr.Forbidden("You may not see this room; ask somebody to invite you")

func (a *API) hierarchy(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := readRequest(r)
	if err != nil {
		return nil, err
	}
	root := r.Vars["roomId"]
	if !event.ValidRoomID(root) {
		return nil, errForbidden
	}
	rooms, more, err := a.walk(ctx, r.Caller.UserID, root, q)
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	answer := struct {
		Rooms []entry `json:"rooms"`
		Next  string  `json:"next_batch,omitempty"`
	}{Rooms: rooms}
	if more {
		q.After += len(rooms)
		answer.Next = q.token()
	}
	return answer, nil
}

func readRequest(r *httpx.Request) (q request, err error) {
	if q.Suggested, err = boolean(r.Query("suggested_only")); err != nil {
		return q, err
	}
	if q.limit, err = r.Int("limit", defaultLimit, maxLimit); err != nil {
		return q, err
	}
	if q.limit == 0 {
		return q, matrixerr.InvalidParam("limit must be greater than 0")
	}
	if q.Depth, err = r.Int("max_depth", maxDepth, maxDepth); err != nil {
		return q, err
	}
	from := r.Query("from")
	if from == "" {
		return q, nil
	}
	before, ok := parseToken(from)
	if !ok {
		return q, matrixerr.InvalidParam("from is not a next_batch of this endpoint; leave it out to begin anew")
	}
	if before.Depth != q.Depth || before.Suggested != q.Suggested {
		return q, matrixerr.InvalidParam("suggested_only and max_depth must be those of the first page")
	}
	q.After = before.After
	return q, nil
}

func boolean(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, matrixerr.InvalidParam("suggested_only must be true or false")
	}
	return b, nil
}

func (q request) token() string {
	raw, err := json.Marshal(q)
	if err != nil {
		panic(err) // two numbers and a boolean
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func parseToken(token string) (q request, ok bool) {
	raw, err := base64.RawURLEncoding.DecodeString(token)
	return q, err == nil && json.Unmarshal(raw, &q) == nil && q.After > 0 && q.After <= maxWalk
}
