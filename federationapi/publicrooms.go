package federationapi

import (
	"context"
	"errors"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

// Bounds of questions about the room directory.
const (
	maxPublicRooms = 500 // in one answer, also for those who ask for no limit
	maxTerm        = 1000
)

// roomsQuery is the body of POST /publicRooms.
type roomsQuery struct {
	Limit  int    `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
	Network     string `json:"third_party_instance_id"`
	AllNetworks bool   `json:"include_all_networks"`
}

func (a *API) publicRooms(ctx context.Context, r *httpx.Request) (any, error) {
	q := roomsQuery{Since: r.Query("since"), Network: r.Query("third_party_instance_id"), AllNetworks: r.Query("include_all_networks") == "true"}
	var err error
	if q.Limit, err = r.Int("limit", 0, maxPublicRooms); err != nil {
		return nil, err
	}
	return a.listRooms(ctx, q)
}

func (a *API) searchPublicRooms(ctx context.Context, r *httpx.Request) (any, error) {
	var q roomsQuery
	if err := r.JSON(&q); err != nil {
		return nil, err
	}
	return a.listRooms(ctx, q)
}

// listRooms answers a page of our own directory.
func (a *API) listRooms(ctx context.Context, q roomsQuery) (any, error) {
	switch {
	case q.Limit < 0:
		return nil, matrixerr.InvalidParam("limit must be at least 0")
	case len(q.Filter.Term) > maxTerm:
		return nil, matrixerr.InvalidParam("The search term is too long")
	case q.Limit == 0:
		q.Limit = maxPublicRooms
	}
	search := roomserver.ListingQuery{Term: q.Filter.Term, Types: q.Filter.Types, Since: q.Since, Limit: min(q.Limit, maxPublicRooms)}
	var err error
	if search.Networks, search.NetworksOnly, err = a.o.Services.Networks(q.Network, q.AllNetworks); err != nil {
		return nil, err
	}
	page, err := a.o.Listing.Search(ctx, search)
	if errors.Is(err, roomserver.ErrBadRequest) {
		return nil, matrixerr.InvalidParam("since must be the next_batch or prev_batch of an earlier answer").With(err)
	}
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"chunk": page.Rooms, "total_room_count_estimate": page.Total}
	if page.Next != "" {
		answer["next_batch"] = page.Next
	}
	if page.Prev != "" {
		answer["prev_batch"] = page.Prev
	}
	return answer, nil
}
