// Package directory owns the Client-Server endpoints that find rooms: aliases,
// the published room directory and room summaries.
package directory

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"knock/internal/appservice"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
)

// RemoteQuery asks another server for a part of its directory.
type RemoteQuery struct {
	Limit              int
	Since              string
	Filter             json.RawMessage // nil: none
	IncludeAllNetworks bool
	ThirdPartyInstance string
}

// RemoteDirectory asks other servers for their directories. The answer is a JSON
// object as in the Client-Server API.
type RemoteDirectory interface {
	PublicRooms(ctx context.Context, server string, q RemoteQuery) (json.RawMessage, error)
}

// Options are what an API needs.
type Options struct {
	ServerName string
	Rooms      *roomserver.Server
	Services   *appservice.Services // nil: there are none
	Listing    *roomserver.Listing  // nil: one of our own
	DB         *sqldb.DB
	Hub        *stream.Hub
	Remote     RemoteDirectory       // nil without federation
	Log        *logrus.Entry         // nil: silent
	Registerer prometheus.Registerer // nil: no metrics
}

// API serves the directory.
type API struct {
	o       Options
	s       *roomserver.Server
	listing *roomserver.Listing
}

// New makes an API.
func New(o Options) *API {
	if o.Log == nil {
		l := logrus.New()
		l.SetLevel(logrus.PanicLevel)
		o.Log = logrus.NewEntry(l)
	}
	if o.Listing == nil {
		o.Listing = roomserver.NewListing(o.Rooms, o.Registerer)
	}
	return &API{o: o, s: o.Rooms, listing: o.Listing}
}

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	const (
		v1, v3        = "/_matrix/client/v1/", "/_matrix/client/v3/"
		nheko         = "/_matrix/client/unstable/im.nheko.summary/"
		limit         = "directory"
		aliases, list = "Room aliases", "Published room directory"
	)
	row := func(method, path string, h httpx.Handler, auth httpx.Auth, limit, spec string) httpx.Route {
		return httpx.Route{Method: method, Path: path, Handler: h, Auth: auth, Limit: limit, Spec: spec}
	}
	return []httpx.Route{
		row(http.MethodGet, v3+"directory/room/{roomAlias}", a.alias, httpx.AuthOptional, limit, aliases),
		row(http.MethodPut, v3+"directory/room/{roomAlias}", a.putAlias, httpx.AuthUser, limit, aliases),
		row(http.MethodDelete, v3+"directory/room/{roomAlias}", a.deleteAlias, httpx.AuthUser, limit, aliases),
		row(http.MethodGet, v3+"rooms/{roomId}/aliases", a.aliases, httpx.AuthUser, "", aliases),
		row(http.MethodGet, v3+"directory/list/room/{roomId}", a.visibility, httpx.AuthOptional, limit, list),
		row(http.MethodPut, v3+"directory/list/room/{roomId}", a.setVisibility, httpx.AuthUser, limit, list),
		row(http.MethodGet, v3+"publicRooms", a.publicRooms, httpx.AuthOptional, limit, list),
		row(http.MethodPost, v3+"publicRooms", a.searchPublicRooms, httpx.AuthUser, limit, list),
		row(http.MethodGet, v1+"room_summary/{roomIdOrAlias}", a.summary, httpx.AuthOptional, limit, "Room Summaries"),
		row(http.MethodGet, nheko+"summary/{roomIdOrAlias}", a.summary, httpx.AuthOptional, limit, "MSC3266"),
		row(http.MethodGet, nheko+"rooms/{roomIdOrAlias}/summary", a.summary, httpx.AuthOptional, limit, "MSC3266"),
	}
}

// mayPublish checks that the caller may say under which names and in which
// directories a room is found: as the specification leaves this to servers,
// whoever may change the room's m.room.canonical_alias, and administrators.
func (a *API) mayPublish(ctx context.Context, r *httpx.Request, room string) error {
	if r.Caller.Admin {
		return nil
	}
	refused := matrixerr.Forbidden("Only members who may change the room's main address (m.room.canonical_alias) can do this.")
	if !a.o.Hub.IsJoined(r.Caller.UserID, room) {
		return refused
	}
	v, err := a.s.Current(ctx, room)
	if err != nil {
		return roomserver.MatrixError(err)
	}
	return a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		powers, err := a.s.Powers(tx, v)
		if err == nil && powers.UserLevel(r.Caller.UserID) < powers.EventLevel("m.room.canonical_alias", true) {
			err = refused
		}
		return err
	})
}
