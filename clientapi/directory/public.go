package directory

import (
	"context"
	"encoding/json"
	"errors"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
	"knock/roomserver/event"
)

// Limits of one page of the directory.
const (
	defaultRooms = 100
	maxRooms     = 500
	maxTerm      = 500 // bytes
)

func (a *API) visibility(ctx context.Context, r *httpx.Request) (any, error) {
	visibility, err := a.s.Visibility(ctx, r.Vars["roomId"])
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	return map[string]string{"visibility": visibility}, nil
}

func (a *API) setVisibility(ctx context.Context, r *httpx.Request) (any, error) {
	body := struct {
		Visibility string `json:"visibility"`
	}{"public"}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Visibility != "public" && body.Visibility != "private" {
		return nil, matrixerr.InvalidParam(`"visibility" must be "public" or "private"`)
	}
	room := r.Vars["roomId"]
	if _, err := a.s.Room(ctx, room); err != nil {
		return nil, roomserver.MatrixError(err)
	}
	if err := a.mayPublish(ctx, r, room); err != nil {
		return nil, err
	}
	return nil, roomserver.MatrixError(a.s.Publish(ctx, room, body.Visibility == "public"))
}

// searchBody is the body of POST /publicRooms.
type searchBody struct {
	Limit  *int            `json:"limit"`
	Since  string          `json:"since"`
	Filter json.RawMessage `json:"filter"`
	All    bool            `json:"include_all_networks"`
	Third  string          `json:"third_party_instance_id"`
}

type searchFilter struct {
	Term  string    `json:"generic_search_term"`
	Types []*string `json:"room_types"`
}

func (a *API) publicRooms(ctx context.Context, r *httpx.Request) (any, error) {
	limit, err := r.Int("limit", defaultRooms, maxRooms)
	if err != nil {
		return nil, err
	}
	if r.Query("server") != "" && r.Caller.UserID == "" {
		return nil, matrixerr.MissingToken()
	}
	return a.list(ctx, r.Query("server"), searchBody{Limit: &limit, Since: r.Query("since")})
}

func (a *API) searchPublicRooms(ctx context.Context, r *httpx.Request) (any, error) {
	var body searchBody
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	return a.list(ctx, r.Query("server"), body)
}

func (a *API) list(ctx context.Context, server string, b searchBody) (_ any, err error) {
	limit := defaultRooms
	if b.Limit != nil {
		limit = *b.Limit
	}
	if limit < 0 {
		return nil, matrixerr.InvalidParam(`"limit" must be at least 0`)
	}
	if limit = min(limit, maxRooms); limit == 0 {
		limit = defaultRooms
	}
	var filter searchFilter
	if string(b.Filter) == "null" {
		b.Filter = nil
	}
	if b.Filter != nil {
		if err := httpx.Unmarshal(b.Filter, &filter); err != nil {
			return nil, err
		}
	}
	if len(filter.Term) > maxTerm {
		return nil, matrixerr.InvalidParam("The search term is too long")
	}
	if server != "" && server != a.o.ServerName {
		return a.listOther(ctx, server, RemoteQuery{Limit: limit, Since: b.Since, Filter: b.Filter, IncludeAllNetworks: b.All, ThirdPartyInstance: b.Third})
	}
	q := roomserver.ListingQuery{Term: filter.Term, Types: filter.Types, Since: b.Since, Limit: limit}
	if q.Networks, q.NetworksOnly, err = a.o.Services.Networks(b.Third, b.All); err != nil {
		return nil, err
	}
	page, err := a.listing.Search(ctx, q)
	if errors.Is(err, roomserver.ErrBadRequest) {
		return nil, matrixerr.InvalidParam(`"since" must be the next_batch or prev_batch of an earlier answer`).With(err)
	}
	return answer(page), err
}

func answer(p roomserver.ListingPage) any {
	body := map[string]any{"chunk": p.Rooms, "total_room_count_estimate": p.Total}
	if p.Next != "" {
		body["next_batch"] = p.Next
	}
	if p.Prev != "" {
		body["prev_batch"] = p.Prev
	}
	return body
}

func (a *API) listOther(ctx context.Context, server string, q RemoteQuery) (any, error) {
	if !event.ValidServerName(server) {
		return nil, matrixerr.InvalidParam(`Query parameter server must be a server name`)
	}
	if a.o.Remote == nil {
		return nil, matrixerr.Forbidden("This server does not talk to others.")
	}
	raw, err := a.o.Remote.PublicRooms(ctx, server, q)
	if err != nil {
		return nil, err
	}
	return httpx.Raw(raw), nil
}
