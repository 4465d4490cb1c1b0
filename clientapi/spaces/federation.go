package spaces

import (
	"context"
	"net/http"
	"slices"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Federation is the answer to GET /_matrix/federation/v1/hierarchy/{roomId}.
type Federation struct {
	Room     entry    `json:"room"`
	Children []entry  `json:"children"`
	Hidden   []string `json:"inaccessible_children"`
}

// FederationRoutes is the route table for other servers.
func (a *API) FederationRoutes() []httpx.Route {
	return []httpx.Route{{Method: http.MethodGet, Path: "/_matrix/federation/v1/hierarchy/{roomId}", Handler: a.forServer,
		Auth: httpx.AuthServer, Spec: "Server-Server: Spaces"}}
}

func (a *API) forServer(ctx context.Context, r *httpx.Request) (any, error) {
	suggested, err := boolean(r.Query("suggested_only"))
	if err != nil {
		return nil, err
	}
	return a.ForServer(ctx, r.Caller.Origin, r.Vars["roomId"], suggested)
}

// ForServer answers another server that asks about a room (Server-Server API, "Spaces"): the room and those of its
// children that this server is in and that users of origin could see. M_NOT_FOUND when they could not see the room.
func (a *API) ForServer(ctx context.Context, origin, roomID string, suggestedOnly bool) (*Federation, error) {
	room, err := a.local(ctx, roomID)
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	may := false
	if room != nil {
		may, err = a.serverSees(ctx, origin, room)
	}
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	if !may {
		return nil, matrixerr.NotFound("This server does not know the room, or your users may not see it")
	}
	f := &Federation{Room: room.suggested(suggestedOnly), Children: []entry{}, Hidden: []string{}}
	for _, c := range f.Room.Children {
		if err := a.addFor(ctx, origin, c.Key, f); err != nil {
			return nil, roomserver.MatrixError(err)
		}
	}
	return f, nil
}

func (a *API) addFor(ctx context.Context, origin, room string, f *Federation) error {
	e, err := a.local(ctx, room)
	if err != nil || e == nil {
		return err
	}
	may, err := a.serverSees(ctx, origin, e)
	if err != nil {
		return err
	}
	if may {
		f.Children = append(f.Children, *e)
	} else {
		f.Hidden = append(f.Hidden, room)
	}
	return nil
}

// serverSees reports whether any user of a server is in a room or invited, or could join it or look into it.
func (a *API) serverSees(ctx context.Context, origin string, e *entry) (bool, error) {
	if allowed, err := a.s.ServerAllowed(ctx, e.RoomID, origin); err != nil || !allowed {
		return false, err
	}
	if e.open() {
		return true, nil
	}
	if in, err := a.hasMember(ctx, origin, e.RoomID, true); err != nil || in {
		return in, err
	}
	var err error
	may := e.allows(func(room string) bool {
		in, failed := a.hasMember(ctx, origin, room, false)
		if failed != nil {
			err = failed
		}
		return in
	})
	return may, err
}

// hasMember reports whether a server has a user in a room, or, if that counts, one who is invited.
func (a *API) hasMember(ctx context.Context, origin, room string, invited bool) (in bool, err error) {
	if resident, err := a.s.IsResident(ctx, room); err != nil || !resident {
		return false, err
	}
	key, err := a.s.Room(ctx, room)
	if err != nil {
		return false, err
	}
	err = a.s.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		servers, err := a.s.Store.Servers(tx, key.NID)
		if in = slices.Contains(servers, origin); err != nil || in || !invited {
			return err
		}
		members, err := a.s.Store.Members(tx, key.NID)
		in = slices.ContainsFunc(members, func(m store.Member) bool { return m.State == store.Invite && event.ServerOf(m.User) == origin })
		return err
	})
	return in, err
}
