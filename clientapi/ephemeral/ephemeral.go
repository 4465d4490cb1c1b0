// Package ephemeral owns the Client-Server endpoints of what passes: typing
// notifications, receipts, read markers and presence.
package ephemeral

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"knock/internal/clock"
	"knock/internal/ephemeral"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

// Rooms knows who is in which room.
type Rooms interface {
	IsJoined(user, room string) bool
}

// Options are what an API needs.
type Options struct {
	Rooms    Rooms
	Typing   *ephemeral.Typing
	Receipts *ephemeral.Receipts
	Presence *ephemeral.Presence
	Clock    clock.Clock // nil: the system's
}

// API serves what passes.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API {
	if o.Clock == nil {
		o.Clock = clock.System
	}
	return &API{o}
}

// limit is the class of these endpoints' rate limit.
const limit = "ephemeral"

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	const base = "/_matrix/client/v3/"
	return []httpx.Route{
		{Method: http.MethodPost, Path: base + "rooms/{roomId}/receipt/{receiptType}/{eventId}", Handler: a.receipt,
			Auth: httpx.AuthUser, Limit: limit, OptionalBody: true, Spec: "Receipts", Hot: true},
		{Method: http.MethodPut, Path: base + "rooms/{roomId}/typing/{userId}", Handler: a.typing,
			Auth: httpx.AuthUser, Limit: limit, Spec: "Typing Notifications", Hot: true},
		{Method: http.MethodPost, Path: base + "rooms/{roomId}/read_markers", Handler: a.readMarkers,
			Auth: httpx.AuthUser, Limit: limit, Spec: "Fully read markers", Hot: true},
		{Method: http.MethodGet, Path: base + "presence/{userId}/status", Handler: a.presence,
			Auth: httpx.AuthUser, Spec: "Presence"},
		{Method: http.MethodPut, Path: base + "presence/{userId}/status", Handler: a.setPresence,
			Auth: httpx.AuthUser, Limit: limit, Spec: "Presence"},
	}
}

func (a *API) joined(r *httpx.Request) (room string, err error) {
	room = r.Vars["roomId"]
	if !a.o.Rooms.IsJoined(r.Caller.UserID, room) {
		return "", matrixerr.Forbidden("You are not in this room; join it first")
	}
	return room, nil
}

func (a *API) typing(_ context.Context, r *httpx.Request) (any, error) {
	if r.Vars["userId"] != r.Caller.UserID {
		return nil, matrixerr.Forbidden("You cannot type for somebody else")
	}
	room, err := a.joined(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Typing  *bool `json:"typing"`
		Timeout int64 `json:"timeout"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Typing == nil {
		return nil, matrixerr.MissingParam("typing is missing")
	}
	timeout := min(max(body.Timeout, 0), int64(time.Hour/time.Millisecond))
	a.o.Typing.Set(room, r.Caller.UserID, *body.Typing, time.Duration(timeout)*time.Millisecond)
	return nil, nil
}

func (a *API) receipt(ctx context.Context, r *httpx.Request) (any, error) {
	room, err := a.joined(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Thread *threadID `json:"thread_id"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	kind, event := r.Vars["receiptType"], r.Vars["eventId"]
	if kind == ephemeral.FullyRead {
		if body.Thread != nil {
			return nil, matrixerr.InvalidParam("m.fully_read does not take a thread_id")
		}
		return nil, a.o.Receipts.MarkFullyRead(ctx, r.Caller.UserID, room, event)
	}
	thread := ""
	if body.Thread != nil {
		thread = string(*body.Thread)
	}
	return nil, a.o.Receipts.Read(ctx, r.Caller.UserID, room, kind, event, thread)
}

func (a *API) readMarkers(ctx context.Context, r *httpx.Request) (any, error) {
	room, err := a.joined(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		FullyRead   string `json:"m.fully_read"`
		Read        string `json:"m.read"`
		ReadPrivate string `json:"m.read.private"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	user := r.Caller.UserID
	if body.FullyRead != "" {
		if err := a.o.Receipts.MarkFullyRead(ctx, user, room, body.FullyRead); err != nil {
			return nil, err
		}
	}
	if body.ReadPrivate != "" {
		if err := a.o.Receipts.Read(ctx, user, room, ephemeral.ReadPrivate, body.ReadPrivate, ""); err != nil {
			return nil, err
		}
	}
	if body.Read != "" {
		return nil, a.o.Receipts.Read(ctx, user, room, ephemeral.Read, body.Read, "")
	}
	return nil, nil
}

func (a *API) presence(_ context.Context, r *httpx.Request) (any, error) {
	s, err := a.o.Presence.Get(r.Caller.UserID, r.Vars["userId"])
	if err != nil {
		return nil, err
	}
	return s.Content(a.o.Clock.Millis()), nil
}

func (a *API) setPresence(_ context.Context, r *httpx.Request) (any, error) {
	if r.Vars["userId"] != r.Caller.UserID {
		return nil, matrixerr.Forbidden("You cannot set the presence of somebody else")
	}
	var body struct {
		Presence *string `json:"presence"`
		Status   *string `json:"status_msg"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Presence == nil {
		return nil, matrixerr.MissingParam("presence is missing")
	}
	return nil, a.o.Presence.Set(r.Caller.UserID, r.Caller.DeviceID, *body.Presence, body.Status)
}

// threadID is a thread_id in a receipt's body: a string that is not empty.
type threadID string

// UnmarshalJSON answers a wrong thread_id as the specification asks.
func (t *threadID) UnmarshalJSON(data []byte) error {
	var s string
	if json.Unmarshal(data, &s) != nil || s == "" {
		return matrixerr.InvalidParam("thread_id field must be a non-empty string")
	}
	*t = threadID(s)
	return nil
}
