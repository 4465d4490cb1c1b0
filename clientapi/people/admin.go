package people

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/reports"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// adminRoutes are those that existing tools for administrators call.
func (a *API) adminRoutes() []httpx.Route {
	const base, spec = "/_synapse/admin/v1/event_reports", "Admin API: event reports"
	return []httpx.Route{
		{Method: http.MethodGet, Path: base, Handler: a.eventReports, Auth: httpx.AuthAdmin, Spec: spec},
		{Method: http.MethodGet, Path: base + "/{reportId}", Handler: a.eventReport, Auth: httpx.AuthAdmin, Spec: spec},
		{Method: http.MethodDelete, Path: base + "/{reportId}", Handler: a.deleteReport, Auth: httpx.AuthAdmin, Spec: spec},
	}
}

// Bounds of a page of reports.
const (
	defaultReports = 100
	maxReports     = 500
	maxOffset      = 1 << 30
)

// eventReport is how tools expect a report of an event. JSON is only in the answer about a single one.
type eventReport struct {
	ID       int64           `json:"id"`
	Received int64           `json:"received_ts"`
	RoomID   string          `json:"room_id"`
	EventID  string          `json:"event_id"`
	UserID   string          `json:"user_id"`
	Sender   string          `json:"sender"`
	Reason   string          `json:"reason"`
	Score    *int64          `json:"score"`
	Name     *string         `json:"name"`
	Alias    *string         `json:"canonical_alias"`
	JSON     json.RawMessage `json:"event_json,omitempty"`
}

func (a *API) eventReports(ctx context.Context, r *httpx.Request) (any, error) {
	f := reports.Filter{Kind: reports.Event, Reporter: r.Query("user_id"), Room: r.Query("room_id"), Target: r.Query("event_sender_user_id")}
	var err error
	if f.Limit, err = r.Int("limit", defaultReports, maxReports); err != nil {
		return nil, err
	}
	if f.Offset, err = r.Int("from", 0, maxOffset); err != nil {
		return nil, err
	}
	switch r.Query("dir") {
	case "", "b":
	case "f":
		f.OldestFirst = true
	default:
		return nil, matrixerr.InvalidParam(`dir must be "f" or "b"`)
	}
	list, total, err := a.o.Reports.List(ctx, f)
	if err != nil {
		return nil, err
	}
	page := make([]eventReport, len(list))
	for i, report := range list {
		if page[i], err = a.describe(ctx, report); err != nil {
			return nil, err
		}
	}
	answer := map[string]any{"event_reports": page, "total": total}
	if next := f.Offset + len(list); int64(next) < total && len(list) > 0 {
		answer["next_token"] = next
	}
	return answer, nil
}

// describe adds what the room is called now.
func (a *API) describe(ctx context.Context, r reports.Report) (eventReport, error) {
	out := eventReport{ID: r.ID, Received: r.Received, RoomID: r.Room, EventID: r.Event, UserID: r.Reporter, Sender: r.Target, Reason: r.Reason, Score: r.Score}
	var err error
	if out.Name, err = a.text(ctx, r.Room, "m.room.name", "name"); err != nil {
		return out, err
	}
	out.Alias, err = a.text(ctx, r.Room, "m.room.canonical_alias", "alias")
	return out, err
}

// text is a field of a room's state, nil when there is none.
func (a *API) text(ctx context.Context, room, typ, field string) (*string, error) {
	e, err := a.o.Rooms.CurrentState(ctx, room, typ, "")
	if errors.Is(err, roomserver.ErrUnknownRoom) || err == nil && e == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	text := e.Event.ContentString(field)
	return &text, nil
}

func reportID(r *httpx.Request) (int64, error) {
	id, err := strconv.ParseInt(r.Vars["reportId"], 10, 64)
	if err != nil || id < 0 {
		return 0, matrixerr.InvalidParam("The id of a report is a number")
	}
	return id, nil
}

// find returns the report of the path, if it is one of an event.
func (a *API) find(ctx context.Context, r *httpx.Request) (reports.Report, error) {
	id, err := reportID(r)
	if err != nil {
		return reports.Report{}, err
	}
	report, err := a.o.Reports.Get(ctx, id)
	if err == nil && report.Kind != reports.Event {
		err = reports.ErrNotFound
	}
	return report, err
}

func (a *API) eventReport(ctx context.Context, r *httpx.Request) (any, error) {
	report, err := a.find(ctx, r)
	if err != nil {
		return nil, err
	}
	out, err := a.describe(ctx, report)
	if err != nil {
		return nil, err
	}
	err = a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := a.o.Rooms.Store.EventByID(tx, report.Event)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			out.JSON = e.Event.AppendClient(nil, event.ClientOptions{RoomID: true})
		}
		return err
	})
	return out, err
}

func (a *API) deleteReport(ctx context.Context, r *httpx.Request) (any, error) {
	report, err := a.find(ctx, r)
	if err != nil {
		return nil, err
	}
	return nil, a.o.Reports.Delete(ctx, report.ID)
}
