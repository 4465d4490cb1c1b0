package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"knock/internal/delayed"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// finalisedShape is a finalised event as earlier texts of MSC4140 list it.
type finalisedShape struct {
	Event   delayedShape    `json:"delayed_event"`
	Outcome string          `json:"outcome"` // "send" or "cancel"
	Reason  string          `json:"reason"`  // "error", "action" or "delay"
	Error   json.RawMessage `json:"error,omitempty"`
	EventID string          `json:"event_id,omitempty"`
	TS      int64           `json:"origin_server_ts"`
}

func finalisedOf(e *delayed.Event) finalisedShape {
	f := finalisedShape{Event: olderShape(e), Outcome: "cancel", Reason: "action", Error: e.Error, EventID: e.EventID, TS: e.Finalised}
	if e.EventID != "" {
		f.Outcome = "send"
	}
	switch {
	case e.Error != nil:
		f.Reason = "error"
	case e.EventID != "" && e.Finalised >= e.Scheduled+e.Delay:
		f.Reason = "delay"
	}
	return f
}

// finalisedPage is how many finalised events a page has.
const finalisedPage = 100

// delayedEventsBefore lists as clients of earlier texts of the proposal know it: scheduled ones, finalised ones by pages, or
// both; with delay_id, those alone.
func (a *API) delayedEventsBefore(ctx context.Context, r *httpx.Request) (any, error) {
	q := r.QueryAll()
	status := q["status"]
	for _, s := range status {
		if s != "scheduled" && s != "finalised" {
			return nil, matrixerr.InvalidParam(`Query parameter status must be "scheduled" or "finalised"`)
		}
	}
	wants := func(s string) bool { return len(status) == 0 || slices.Contains(status, s) }
	chosen := func(e *delayed.Event) bool { return len(q["delay_id"]) == 0 || slices.Contains(q["delay_id"], e.ID) }
	out := map[string]any{}
	if wants("scheduled") && q.Get("from") == "" {
		list, err := a.o.Delayed.Scheduled(ctx, r.Caller.UserID)
		if err != nil {
			return nil, err
		}
		scheduled := shapeAll(slices.DeleteFunc(list, func(e *delayed.Event) bool { return !chosen(e) }), olderShape)
		out["scheduled"] = scheduled
		if len(status) == 0 {
			out["delayed_events"] = scheduled
		}
	}
	if !wants("finalised") {
		return out, nil
	}
	return out, a.addFinalised(ctx, r, chosen, out)
}

func (a *API) addFinalised(ctx context.Context, r *httpx.Request, chosen func(*delayed.Event) bool, out map[string]any) error {
	var after delayed.Place
	if from := r.Query("from"); from != "" {
		if _, err := fmt.Sscanf(from, "d%d_%d", &after.Finalised, &after.Number); err != nil {
			return matrixerr.InvalidParam("Query parameter from is no token of this endpoint")
		}
	}
	list, err := a.o.Delayed.Finalised(ctx, r.Caller.UserID, after, finalisedPage)
	if err != nil {
		return err
	}
	finalised := []finalisedShape{}
	for _, e := range list {
		if chosen(e) {
			finalised = append(finalised, finalisedOf(e))
		}
	}
	out["finalised"] = finalised
	if len(list) == finalisedPage {
		last := list[len(list)-1].Place()
		out["next_batch"] = fmt.Sprintf("d%d_%d", last.Finalised, last.Number)
	}
	return nil
}
