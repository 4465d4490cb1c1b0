package federationapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Bounds of what one request may name.
const (
	maxFrom     = 100 // events of a backfill or get_missing_events
	missDefault = 10  // events answered when the asker says no number
)

func (a *API) event(ctx context.Context, r *httpx.Request) (any, error) {
	e, err := a.o.Rooms.EventForServer(ctx, r.Caller.Origin, r.Vars["eventId"])
	if err != nil {
		return nil, domainError(err)
	}
	if err := a.admitted(ctx, e.Event.Room(), r.Caller.Origin); err != nil {
		return nil, err
	}
	return a.pdus([]*store.Stored{e}), nil
}

// pdus is an answer in the form of a transaction.
func (a *API) pdus(events []*store.Stored) any {
	return map[string]any{"origin": a.o.ServerName, "origin_server_ts": a.o.Clock.Millis(), "pdus": roomserver.PDUs(events)}
}

func (a *API) eventAuth(ctx context.Context, r *httpx.Request) (any, error) {
	room, origin := r.Vars["roomId"], r.Caller.Origin
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, err
	}
	chain, err := a.o.Rooms.EventAuth(ctx, origin, room, r.Vars["eventId"])
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"auth_chain": roomserver.PDUs(chain)}, nil
}

func (a *API) stateAt(ctx context.Context, r *httpx.Request) (state, chain []*store.Stored, err error) {
	room, origin, eventID := r.Vars["roomId"], r.Caller.Origin, r.Query("event_id")
	if eventID == "" {
		return nil, nil, matrixerr.MissingParam("event_id is missing")
	}
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, nil, err
	}
	state, chain, err = a.o.Rooms.StateBefore(ctx, origin, room, eventID)
	return state, chain, domainError(err)
}

func (a *API) state(ctx context.Context, r *httpx.Request) (any, error) {
	state, chain, err := a.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return httpx.Stream(func(w http.ResponseWriter) error { // it may be as large as a join's
		out := startJSON(w)
		out.text(`{"pdus":`)
		out.events(state)
		out.text(`,"auth_chain":`)
		out.events(chain)
		out.text("}")
		return out.Flush()
	}), nil
}

func (a *API) stateIDs(ctx context.Context, r *httpx.Request) (any, error) {
	state, chain, err := a.stateAt(ctx, r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"pdu_ids": ids(state), "auth_chain_ids": ids(chain)}, nil
}

func ids(events []*store.Stored) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

// extremities answers what an event of ours would follow now.
func (a *API) extremities(ctx context.Context, r *httpx.Request) (any, error) {
	room, origin := r.Vars["roomId"], r.Caller.Origin
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, err
	}
	ids, err := a.o.Rooms.ExtremitiesFor(ctx, origin, room)
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"prev_events": ids}, nil
}

func (a *API) backfill(ctx context.Context, r *httpx.Request) (any, error) {
	room, origin, from := r.Vars["roomId"], r.Caller.Origin, r.QueryAll()["v"]
	if len(from) == 0 || len(from) > maxFrom {
		return nil, matrixerr.InvalidParam("Name 1 to " + strconv.Itoa(maxFrom) + " events in v")
	}
	limit, err := r.Int("limit", 0, 1000)
	if err != nil {
		return nil, err
	}
	if limit == 0 {
		return nil, matrixerr.MissingParam("limit is missing")
	}
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, err
	}
	events, err := a.o.Rooms.BackfillFor(ctx, origin, room, from, limit)
	if err != nil {
		return nil, domainError(err)
	}
	return a.pdus(events), nil
}

func (a *API) missingEvents(ctx context.Context, r *httpx.Request) (any, error) {
	room, origin := r.Vars["roomId"], r.Caller.Origin
	body := struct {
		Earliest []string    `json:"earliest_events"`
		Latest   []string    `json:"latest_events"`
		Limit    json.Number `json:"limit"`
		MinDepth json.Number `json:"min_depth"`
	}{Limit: json.Number(strconv.Itoa(missDefault)), MinDepth: "0"}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	limit, err := body.Limit.Int64()
	minDepth, err2 := body.MinDepth.Int64()
	if err != nil || err2 != nil || limit < 0 {
		return nil, matrixerr.BadJSON("limit and min_depth must be whole numbers")
	}
	if len(body.Earliest) > maxFrom || len(body.Latest) > maxFrom {
		return nil, matrixerr.InvalidParam("Name at most " + strconv.Itoa(maxFrom) + " events in earliest_events and latest_events")
	}
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, err
	}
	events, err := a.o.Rooms.MissingFor(ctx, origin, room, body.Earliest, body.Latest, int(min(limit, maxFrom)), minDepth)
	if err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"events": roomserver.PDUs(events)}, nil
}

// timestampToEvent answers with the event nearest to a time, of those that are here.
func (a *API) timestampToEvent(ctx context.Context, r *httpx.Request) (any, error) {
	room, origin, dir := r.Vars["roomId"], r.Caller.Origin, r.Query("dir")
	ts, err := strconv.ParseInt(r.Query("ts"), 10, 64)
	if err != nil || dir != "f" && dir != "b" {
		return nil, matrixerr.InvalidParam("ts must be a time in milliseconds and dir must be f or b")
	}
	if err := a.admitted(ctx, room, origin); err != nil {
		return nil, err
	}
	key, err := a.o.Rooms.Room(ctx, room)
	if err != nil {
		return nil, domainError(err)
	}
	var e *store.Stored
	err = a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err = a.o.Rooms.Store.NearestTS(tx, key.NID, ts, dir == "f")
		return err
	})
	if err != nil {
		return nil, notFound(err)
	}
	// Only a server in the room may know even the id.
	if e, err = a.o.Rooms.EventForServer(ctx, origin, e.ID); err != nil {
		return nil, domainError(err)
	}
	return map[string]any{"event_id": e.ID, "origin_server_ts": e.TS}, nil
}
