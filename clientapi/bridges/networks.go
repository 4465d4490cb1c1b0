package bridges

import (
	"context"
	"maps"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

func (a *API) protocols(ctx context.Context, _ *httpx.Request) (any, error) {
	return a.o.Services.Protocols(ctx), nil
}

func (a *API) protocol(ctx context.Context, r *httpx.Request) (any, error) {
	p := a.o.Services.Protocol(ctx, r.Vars["protocol"])
	if p == nil {
		return nil, unknownProtocol()
	}
	return p, nil
}

func unknownProtocol() error {
	return matrixerr.NotFound("No bridge of this server knows the protocol, or it does not answer at present")
}

// lookup asks for what the fields in the query find.
func (a *API) lookup(kind string) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		query := maps.Clone(r.QueryAll())
		for _, ours := range []string{"access_token", "user_id", "device_id", "org.matrix.msc3202.device_id"} {
			query.Del(ours)
		}
		found, ok := a.o.Services.Lookup(ctx, kind, r.Vars["protocol"], query)
		if !ok {
			return nil, unknownProtocol()
		}
		if len(found) == 0 {
			return nil, matrixerr.NotFound("Nothing was found with these fields")
		}
		return found, nil
	}
}

// reverse asks for what a user id or an alias stands for elsewhere.
func (a *API) reverse(kind, param string) httpx.Handler {
	return func(ctx context.Context, r *httpx.Request) (any, error) {
		id := r.Query(param)
		if id == "" {
			return nil, matrixerr.MissingParam("Query parameter " + param + " is missing")
		}
		found, _ := a.o.Services.Lookup(ctx, kind, "", map[string][]string{param: {id}})
		if len(found) == 0 {
			return nil, matrixerr.NotFound("No bridge of this server knows it")
		}
		return found, nil
	}
}

// publish lists a room in the directory of a network of the service that calls.
func (a *API) publish(ctx context.Context, r *httpx.Request) (any, error) {
	v := a.o.Services.ByID(r.Caller.AppService)
	if v == nil {
		return nil, matrixerr.Forbidden("Only application services have directories of networks")
	}
	var body struct {
		Visibility string `json:"visibility"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return nil, matrixerr.InvalidParam(`"visibility" must be "public" or "private"`)
	}
	room, err := a.o.Rooms.Room(ctx, r.Vars["roomId"])
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	return nil, a.o.Services.PublishRoom(ctx, v, r.Vars["networkId"], room.NID, body.Visibility == "public")
}
