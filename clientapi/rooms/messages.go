package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Limits of the events of one answer.
const (
	defaultEvents = 10
	maxEvents     = 1000
)

func (a *API) messages(ctx context.Context, r *httpx.Request) (any, error) {
	if _, err := a.view(ctx, r); err != nil {
		return nil, err
	}
	q, filter, err := a.historyRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	if !filter.room(q.RoomID) {
		q.Keep = func(*store.Stored) bool { return false }
	}
	h, err := a.s.History(ctx, q)
	if err != nil {
		return nil, fail(err)
	}
	body := appendField([]byte{'{'}, "start", h.From.String())
	if from := r.Query("from"); from != "" {
		body = appendField([]byte{'{'}, "start", from)
	}
	if h.More || len(h.Events) > 0 { // after the last event others may come, or be let see
		body = appendField(append(body, ','), "end", h.End.String())
	}
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if body, err = a.appendEvents(append(body, `,"chunk":`...), tx, viewer(r), h.Events); err != nil || !filter.LazyMembers || len(h.Events) == 0 {
			return err
		}
		members, err := a.s.SenderMembers(tx, h.Events)
		if err != nil {
			return err
		}
		body = a.appendPlain(append(body, `,"state":`...), members)
		return nil
	})
	return httpx.Raw(append(body, '}')), err
}

// historyRequest reads the query of /messages.
func (a *API) historyRequest(ctx context.Context, r *httpx.Request) (q roomserver.HistoryRequest, f eventFilter, err error) {
	q = roomserver.HistoryRequest{RoomID: r.Vars["roomId"], User: r.Caller.UserID}
	switch r.Query("dir") {
	case "b":
		q.Back = true
	case "f":
	case "":
		return q, f, matrixerr.MissingParam(`Query parameter dir is missing; it is "b" (back) or "f" (forward)`)
	default:
		return q, f, matrixerr.InvalidParam(`Query parameter dir must be "b" (back) or "f" (forward)`)
	}
	if q.Limit, f, err = limitAndFilter(r); err != nil {
		return q, f, err
	}
	q.Keep, q.Pick = f.keep(), a.pick(&f)
	if q.From, err = a.point(ctx, r, "from"); err != nil {
		return q, f, err
	}
	q.To, err = a.point(ctx, r, "to")
	return q, f, err
}

func limitAndFilter(r *httpx.Request) (int, eventFilter, error) {
	f, err := parseFilter(r.Query("filter"))
	if err != nil {
		return 0, f, err
	}
	limit, err := r.Int("limit", defaultEvents, maxEvents)
	return f.cut(limit), f, err
}

// point reads a pagination token: one of ours, or one of /sync.
func (a *API) point(ctx context.Context, r *httpx.Request, name string) (*roomserver.Point, error) {
	token := r.Query(name)
	if token == "" {
		return nil, nil
	}
	p, ok := roomserver.ParsePoint(token)
	if ok {
		return &p, nil
	}
	if a.o.SyncPosition != nil {
		if pos, ok := a.o.SyncPosition(token); ok {
			p, err := a.s.PointAt(ctx, r.Vars["roomId"], pos)
			return &p, fail(err)
		}
	}
	return nil, matrixerr.InvalidParam("Query parameter " + name + " is not a token of this server")
}

// appendEvents appends an array of events as the viewer gets them.
func (a *API) appendEvents(dst []byte, tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) ([]byte, error) {
	list, err := a.render(tx, v, events)
	if err != nil {
		return dst, err
	}
	return appendList(dst, list), nil
}

// render encodes events as the viewer gets them.
func (a *API) render(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) ([]json.RawMessage, error) {
	var extra func(*store.Stored, *event.ClientOptions)
	if a.o.Bundle != nil && len(events) > 0 {
		var err error
		if extra, err = a.o.Bundle(tx, v, events); err != nil {
			return nil, err
		}
	}
	return a.s.Render(tx, v, events, true, extra)
}

func appendList(dst []byte, list []json.RawMessage) []byte {
	size := 2
	for _, e := range list {
		size += len(e) + 1
	}
	dst = append(slices.Grow(dst, size), '[')
	for i, e := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, e...)
	}
	return append(dst, ']')
}

// appendPlain appends an array of state events without what depends on the
// viewer or on the state before them.
func (a *API) appendPlain(dst []byte, events []*store.Stored) []byte {
	size := 2
	for _, e := range events {
		size += len(e.Event.JSON())
	}
	now := a.s.Clock().UnixMilli()
	dst = append(slices.Grow(dst, size), '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = e.Event.AppendClient(dst, event.ClientOptions{RoomID: true, HasAge: true, Age: max(0, now-e.TS)})
	}
	return append(dst, ']')
}

// appendField appends a member with a text of our own making or of the query.
func appendField(dst []byte, key, value string) []byte {
	dst = append(strconv.AppendQuote(dst, key), ':')
	return event.AppendString(dst, value)
}
