// Package relations owns the Client-Server endpoints that list the children of an event and the threads of a room,
// and those of following threads.
package relations

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/relations"
	"knock/internal/sqldb"
	"knock/internal/threads"
	"knock/roomserver"
)

// Options are what an API needs.
type Options struct {
	Rooms     *roomserver.Server
	Relations *relations.Reader
	Threads   *threads.Subscriptions
	// SyncPosition returns the position of a token of /sync; false when it is none. Nil where such tokens are not made.
	SyncPosition func(token string) (pos int64, ok bool)
}

// API serves relations.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API { return &API{o} }

// Bounds of a page.
const (
	defaultLimit = 20
	maxLimit     = 100
)

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	const room = "/_matrix/client/v1/rooms/{roomId}/"
	get := func(path string, h httpx.Handler, spec string) httpx.Route {
		return httpx.Route{Method: http.MethodGet, Path: room + path, Handler: h, Auth: httpx.AuthUser, Spec: spec}
	}
	return append(a.subscriptionRoutes(),
		get("relations/{eventId}", a.children, "Relationships API"),
		get("relations/{eventId}/{relType}", a.children, "Relationships API"),
		get("relations/{eventId}/{relType}/{eventType}", a.children, "Relationships API"),
		get("threads", a.threads, "Threading"))
}

// page is the answer of both endpoints.
type page struct {
	Chunk []json.RawMessage `json:"chunk"`
	Next  string            `json:"next_batch,omitempty"`
	Prev  string            `json:"prev_batch,omitempty"`
	Depth *int              `json:"recursion_depth,omitempty"`
}

func (a *API) children(ctx context.Context, r *httpx.Request) (any, error) {
	q, err := a.query(ctx, r)
	if err != nil {
		return nil, err
	}
	if q.Parent, err = a.o.Rooms.EventFor(ctx, r.Vars["roomId"], r.Vars["eventId"], r.Caller.UserID); err != nil {
		return nil, roomserver.MatrixError(err)
	}
	out := page{Prev: r.Query("from")}
	if r.QueryAll().Has("recurse") {
		out.Depth = &q.Depth
	}
	err = a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := a.o.Relations.Children(tx, viewer(r), q)
		if err != nil {
			return err
		}
		return a.fill(tx, r, &out, found)
	})
	return out, err
}

func viewer(r *httpx.Request) roomserver.Viewer {
	return roomserver.Viewer{User: r.Caller.UserID, Device: r.Caller.DeviceID}
}

func (a *API) fill(tx *sqldb.Tx, r *httpx.Request, out *page, found relations.Children) (err error) {
	if found.Next != nil {
		out.Next = found.Next.String()
	}
	out.Chunk, err = a.o.Relations.Render(tx, viewer(r), found.Events)
	return err
}

// query reads the parameters, all but the parent.
func (a *API) query(ctx context.Context, r *httpx.Request) (relations.Query, error) {
	q := relations.Query{Type: r.Vars["relType"], EventType: r.Vars["eventType"], Depth: 1}
	var err error
	if q.Limit, err = limit(r); err != nil {
		return q, err
	}
	switch r.Query("dir") {
	case "", "b":
		q.Back = true
	case "f":
	default:
		return q, matrixerr.InvalidParam(`dir must be "f" or "b"`)
	}
	switch r.Query("recurse") {
	case "", "false":
	case "true":
		q.Depth = relations.MaxDepth
	default:
		return q, matrixerr.InvalidParam("recurse must be true or false")
	}
	if q.From, err = a.point(ctx, r, "from"); err != nil {
		return q, err
	}
	q.To, err = a.point(ctx, r, "to")
	return q, err
}

func limit(r *httpx.Request) (int, error) {
	n, err := r.Int("limit", defaultLimit, maxLimit)
	if err == nil && n == 0 {
		err = matrixerr.InvalidParam("limit must be greater than 0")
	}
	return n, err
}

// point reads a pagination token: one of this package or of /messages, or one of /sync.
func (a *API) point(ctx context.Context, r *httpx.Request, name string) (*roomserver.Point, error) {
	token := r.Query(name)
	if token == "" {
		return nil, nil
	}
	if p, ok := roomserver.ParsePoint(token); ok {
		return &p, nil
	}
	if a.o.SyncPosition != nil {
		if pos, ok := a.o.SyncPosition(token); ok {
			p, err := a.o.Rooms.PointAt(ctx, r.Vars["roomId"], pos)
			return &p, roomserver.MatrixError(err)
		}
	}
	return nil, matrixerr.InvalidParam(name + " is not a token of this server; leave it out to begin anew")
}

func (a *API) threads(ctx context.Context, r *httpx.Request) (any, error) {
	var q relations.ThreadsQuery
	var err error
	switch r.Query("include") {
	case "", "all":
	case "participated":
		q.Participated = true
	default:
		return nil, matrixerr.InvalidParam(`include must be "all" or "participated"`)
	}
	if q.Limit, err = limit(r); err != nil {
		return nil, err
	}
	if from := r.Query("from"); from != "" {
		p, ok := roomserver.ParsePoint(from)
		if !ok {
			return nil, matrixerr.InvalidParam("from is not a next_batch of this endpoint; leave it out to begin anew")
		}
		q.From = &p
	}
	if q.Room, err = a.room(ctx, r); err != nil {
		return nil, err
	}
	var out page
	err = a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		found, err := a.o.Relations.Threads(tx, viewer(r), q)
		if err != nil {
			return err
		}
		return a.fill(tx, r, &out, found)
	})
	return out, err
}

// room returns the number of the path's room, if the caller may look into it.
func (a *API) room(ctx context.Context, r *httpx.Request) (int64, error) {
	id := r.Vars["roomId"]
	if _, err := a.o.Rooms.StateFor(ctx, id, r.Caller.UserID); err != nil {
		if errors.Is(err, roomserver.ErrUnknownRoom) {
			err = roomserver.ErrNotVisible
		}
		return 0, roomserver.MatrixError(err)
	}
	key, err := a.o.Rooms.Room(ctx, id)
	return key.NID, roomserver.MatrixError(err)
}
