package rooms

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"knock/internal/delayed"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/roomserver"
)

// Delayed events (MSC4140). Clients of today use two generations of endpoints: parameters of the ones that send at once,
// and the proposal's own. Those under the unstable prefix take whoever knows the id of an event, so that a service of
// calls may end the membership of a user who is gone; the stable ones want the user's token.

const (
	unstable4140 = "/_matrix/client/unstable/org.matrix.msc4140/"
	delayParam   = "org.matrix.msc4140.delay"
	parentParam  = "org.matrix.msc4140.parent_delay_id"
	spec4140     = "MSC4140"
	actions      = "/{delayId}/{action:send|cancel|restart}"
	maxBody4140  = httpx.DefaultMaxBody + 1<<10 // the content and what is beside it
	latestMillis = 1<<53 - 1
)

func (a *API) delayedRoutes() []httpx.Route {
	put := func(path string) httpx.Route {
		return httpx.Route{Method: http.MethodPut, Path: path + "rooms/{roomId}/delayed_event/{eventType}/{txnId}", Handler: a.putDelayed,
			Auth: httpx.AuthGuestOK, Limit: "message", MaxBody: maxBody4140, Spec: spec4140}
	}
	get := func(path string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: http.MethodGet, Path: path, Handler: h, Auth: httpx.AuthGuestOK, Limit: "delayed", Spec: spec4140}
	}
	const stable, unstable = v1 + "delayed_events", unstable4140 + "delayed_events"
	return []httpx.Route{
		put(v3), put(unstable4140),
		get(stable, a.delayedEvents), get(stable+"/{delayId}", a.delayedEvent),
		get(unstable, a.delayedEventsBefore), get(unstable+"/{delayId}", a.delayedEvent),
		{Method: http.MethodPost, Path: stable + actions, Handler: a.manageDelayed, Auth: httpx.AuthGuestOK, Limit: "delayed", OptionalBody: true, Spec: spec4140},
		{Method: http.MethodPost, Path: unstable + actions, Handler: a.manageByID, Auth: httpx.AuthNone, OptionalBody: true, Spec: spec4140},
		{Method: http.MethodPost, Path: unstable + "/{delayId}", Handler: a.manageByBody, Auth: httpx.AuthNone, Spec: spec4140},
	}
}

// putDelayed schedules by the proposal's own endpoint.
func (a *API) putDelayed(ctx context.Context, r *httpx.Request) (any, error) {
	q := roomserver.SendRequest{RoomID: r.Vars["roomId"], Sender: r.Caller.UserID, Type: r.Vars["eventType"], Device: r.Caller.DeviceID, TxnID: r.Vars["txnId"]}
	var err error
	if q.Sticky, err = stickyOf(r); err != nil {
		return nil, err
	}
	return a.schedule(ctx, r, q, func(q *roomserver.SendRequest) (int64, error) {
		var body struct {
			Delay    *int64          `json:"delay_ms"`
			StateKey *string         `json:"state_key"`
			Content  json.RawMessage `json:"content"`
		}
		if err := r.JSON(&body); err != nil {
			return 0, err
		}
		if body.Delay == nil || len(body.Content) == 0 {
			return 0, matrixerr.MissingParam(`"delay_ms" and "content" are needed`)
		}
		if body.Content[0] != '{' {
			return 0, matrixerr.BadJSON(`"content" must be an object`)
		}
		q.StateKey, q.Content = body.StateKey, body.Content
		return checkDelay(*body.Delay, `"delay_ms"`)
	})
}

// delayOf is the delay that a request to send carries as a parameter, if it does.
func delayOf(r *httpx.Request) (delay int64, given bool, err error) {
	text := r.Query(delayParam)
	if text == "" {
		if r.Query(parentParam) != "" {
			err = matrixerr.InvalidParam("Query parameter " + parentParam + " is not known here; give a delay")
		}
		return 0, false, err
	}
	delay, err = strconv.ParseInt(text, 10, 64)
	if err != nil {
		delay = 0
	}
	delay, err = checkDelay(delay, "Query parameter "+delayParam)
	return delay, true, err
}

func checkDelay(delay int64, what string) (int64, error) {
	if delay <= 0 || delay > latestMillis {
		return 0, matrixerr.InvalidParam(what + " must be a number of milliseconds above 0")
	}
	return delay, nil
}

// scheduleFrom schedules what a request to send carries, with a delay.
func (a *API) scheduleFrom(ctx context.Context, r *httpx.Request, q roomserver.SendRequest, delay int64) (any, error) {
	if a.o.Delayed == nil {
		return nil, delayed.ErrOff
	}
	return a.schedule(ctx, r, q, func(q *roomserver.SendRequest) (int64, error) {
		if most := a.o.Delayed.MaxDelay().Milliseconds(); delay > most && a.o.Delayed.MaxCount() > 0 {
			return 0, matrixerr.Unknown(http.StatusBadRequest, "This server delays events less long.").
				WithField("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED").WithField("org.matrix.msc4140.max_delay", most)
		}
		var err error
		q.Content, err = r.ObjectBytes()
		return delay, err
	})
}

// schedule schedules q, the rest of which read takes from the request, unless the same transaction did so before.
func (a *API) schedule(ctx context.Context, r *httpx.Request, q roomserver.SendRequest, read func(q *roomserver.SendRequest) (delay int64, err error)) (any, error) {
	e := delayed.Event{User: q.Sender, Device: q.Device, Service: r.Caller.AppService, Room: q.RoomID, Type: q.Type}
	id, err := a.o.Delayed.ScheduledBefore(ctx, &e, q.TxnID)
	if err != nil || id != "" {
		return delayID(id), err
	}
	if e.Delay, err = read(&q); err != nil {
		return nil, err
	}
	if q.TS, q.Dated, err = massaged(r); err != nil {
		return nil, err
	}
	if err := a.maySchedule(ctx, r, q); err != nil {
		return nil, err
	}
	e.StateKey, e.Content, e.Sticky = q.StateKey, q.Content, q.Sticky
	if q.Dated {
		e.TS = &q.TS
	}
	id, err = a.o.Delayed.Schedule(ctx, e, q.TxnID)
	return delayID(id), err
}

func delayID(id string) any { return map[string]string{"delay_id": id} }

// maySchedule refuses what can never be sent. Whether the user may send the event is looked at when it is due.
func (a *API) maySchedule(ctx context.Context, r *httpx.Request, q roomserver.SendRequest) error {
	if r.Caller.Suspended && q.Type != typeRedaction && q.Type != typeMember {
		return matrixerr.UserSuspended()
	}
	if _, err := a.joined(r); err != nil {
		return err
	}
	if q.StateKey != nil && q.Type == "m.room.create" {
		return errCreate
	}
	return failWrite(a.s.CanBuild(ctx, q))
}

// manageDelayed acts on an event of the caller.
func (a *API) manageDelayed(ctx context.Context, r *httpx.Request) (any, error) {
	return nil, a.act(ctx, r.Caller.UserID, r.Vars["delayId"], r.Vars["action"])
}

// manageByID acts on an event for whoever knows its id.
func (a *API) manageByID(ctx context.Context, r *httpx.Request) (any, error) {
	return nil, a.actByID(ctx, r, r.Vars["action"])
}

// manageByBody is manageByID of the older generation, with the action in the body.
func (a *API) manageByBody(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Action string `json:"action"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	switch body.Action {
	case "":
		return nil, matrixerr.MissingParam(`"action" is needed: "send", "cancel" or "restart"`)
	case "send", "cancel", "restart":
		return nil, a.actByID(ctx, r, body.Action)
	}
	return nil, matrixerr.InvalidParam(`"action" must be "send", "cancel" or "restart"`)
}

// actByID limits how often one event may be acted on, not how often one address does it: that may be a service which
// does so for many users. Who guesses ids is limited by address. Clients that use these endpoints know "not found"
// as the answer about an event which is no longer scheduled, and begin anew.
func (a *API) actByID(ctx context.Context, r *httpx.Request, action string) error {
	id := r.Vars["delayId"]
	if err := a.limit("delayed", id); err != nil {
		return err
	}
	err := a.act(ctx, "", id, action)
	switch {
	case delayed.ErrNotFound.Is(err):
		if limited := a.limit("delayed", r.ClientIP()); limited != nil {
			return limited
		}
	case delayed.ErrSent.Is(err), delayed.ErrCancelled.Is(err):
		return delayed.ErrNotFound.With(err)
	}
	return err
}

func (a *API) limit(class, who string) error {
	if a.o.Limit == nil {
		return nil
	}
	if err := a.o.Limit(class, who); err != nil {
		return err
	}
	return nil
}

func (a *API) act(ctx context.Context, user, id, action string) error {
	switch action {
	case "send":
		return a.o.Delayed.Send(ctx, user, id)
	case "cancel":
		return a.o.Delayed.Cancel(ctx, user, id)
	}
	return a.o.Delayed.Restart(ctx, user, id)
}

// delayedShape is a delayed event as clients get it.
type delayedShape struct {
	ID        string          `json:"delay_id"`
	Room      string          `json:"room_id"`
	Type      string          `json:"type"`
	StateKey  *string         `json:"state_key,omitempty"`
	Delay     int64           `json:"delay_ms"`
	Scheduled int64           `json:"scheduled_at"`
	Content   json.RawMessage `json:"content"`
	Error     json.RawMessage `json:"error,omitempty"`
	EventID   string          `json:"event_id,omitempty"`
	Finalised int64           `json:"finalised_ts,omitempty"`

	*olderNames
}

// olderNames are fields as earlier texts of the proposal call them.
type olderNames struct {
	Delay     int64 `json:"delay"`
	Scheduled int64 `json:"running_since"`
}

func shapeOf(e *delayed.Event) delayedShape {
	return delayedShape{ID: e.ID, Room: e.Room, Type: e.Type, StateKey: e.StateKey, Delay: e.Delay, Scheduled: e.Scheduled, Content: e.Content,
		Error: e.Error, EventID: e.EventID, Finalised: e.Finalised}
}

func olderShape(e *delayed.Event) delayedShape {
	s := shapeOf(e)
	s.olderNames = &olderNames{e.Delay, e.Scheduled}
	s.Error, s.EventID, s.Finalised = nil, "", 0
	return s
}

func shapeAll(list []*delayed.Event, shape func(*delayed.Event) delayedShape) []delayedShape {
	out := make([]delayedShape, len(list))
	for i, e := range list {
		out[i] = shape(e)
	}
	return out
}

func (a *API) delayedEvent(ctx context.Context, r *httpx.Request) (any, error) {
	e, err := a.o.Delayed.Get(ctx, r.Caller.UserID, r.Vars["delayId"])
	if err != nil {
		return nil, err
	}
	return shapeOf(e), nil
}

func (a *API) delayedEvents(ctx context.Context, r *httpx.Request) (any, error) {
	list, err := a.o.Delayed.Scheduled(ctx, r.Caller.UserID)
	return map[string]any{"delayed_events": shapeAll(list, shapeOf)}, err
}
