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
	q, filter, err := a.historyRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	if _, err := a.view(ctx, r); err != nil {
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
	if h.More {
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
	q.Keep = f.keep()
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
	var extra func(*store.Stored, *event.ClientOptions)
	if a.o.Bundle != nil && len(events) > 0 {
		var err error
		if extra, err = a.o.Bundle(tx, v, events); err != nil {
			return dst, err
		}
	}
	list, err := a.s.Render(tx, v, events, true, extra)
	if err != nil {
		return dst, err
	}
	return appendList(dst, list), nil
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

// visible returns an event of the path that the caller may see.
func (a *API) visible(ctx context.Context, r *httpx.Request) (*store.Stored, error) {
	room, user := r.Vars["roomId"], r.Caller.UserID
	notFound := matrixerr.NotFound("The event was not found, or you may not see it.")
	if !a.o.Hub.IsJoined(user, room) {
		if m, err := a.s.Membership(ctx, room, user); err != nil || m.Forgotten {
			return nil, notFound.With(err)
		}
	}
	e, err := a.s.EventFor(ctx, room, r.Vars["eventId"], user)
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	if e.Flags&store.SoftFailed != 0 {
		return nil, notFound
	}
	return e, nil
}

func (a *API) event(ctx context.Context, r *httpx.Request) (any, error) {
	e, err := a.visible(ctx, r)
	if err != nil {
		return nil, err
	}
	var body []byte
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		body, err = a.appendEvents(nil, tx, viewer(r), []*store.Stored{e})
		return err
	})
	if err != nil {
		return nil, err
	}
	return httpx.Raw(body[1 : len(body)-1]), nil
}

func (a *API) context(ctx context.Context, r *httpx.Request) (any, error) {
	limit, filter, err := limitAndFilter(r)
	if err != nil {
		return nil, err
	}
	e, err := a.visible(ctx, r)
	if err != nil {
		return nil, err
	}
	at, after := roomserver.Point(e.Ord), roomserver.After(e)
	q := roomserver.HistoryRequest{RoomID: r.Vars["roomId"], User: r.Caller.UserID, From: &at, Back: true, Limit: limit / 2, Keep: filter.keep()}
	older, err := a.s.History(ctx, q)
	if err != nil {
		return nil, fail(err)
	}
	q.From, q.Back, q.Limit = &after, false, limit-limit/2
	newer, err := a.s.History(ctx, q)
	if err != nil {
		return nil, fail(err)
	}
	body := appendField([]byte{'{'}, "start", older.End.String())
	body = appendField(append(body, ','), "end", newer.End.String())
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		body, err = a.appendContext(body, tx, viewer(r), e, older.Events, newer.Events, &filter)
		return err
	})
	return httpx.Raw(append(body, '}')), err
}

func (a *API) appendContext(body []byte, tx *sqldb.Tx, v roomserver.Viewer, e *store.Stored, older, newer []*store.Stored, f *eventFilter) ([]byte, error) {
	list := slices.Concat([]*store.Stored{e}, older, newer)
	one, err := a.appendEvents(nil, tx, v, list[:1])
	if err != nil {
		return nil, err
	}
	body = append(append(body, `,"event":`...), one[1:len(one)-1]...)
	if body, err = a.appendEvents(append(body, `,"events_before":`...), tx, v, older); err != nil {
		return nil, err
	}
	if body, err = a.appendEvents(append(body, `,"events_after":`...), tx, v, newer); err != nil {
		return nil, err
	}
	last := e
	if len(newer) > 0 {
		last = newer[len(newer)-1]
	}
	ref, err := a.s.StateAfter(tx, last)
	if err != nil {
		return nil, err
	}
	state, err := a.contextState(tx, ref, list, f)
	if err != nil {
		return nil, err
	}
	return a.appendPlain(append(body, `,"state":`...), state), nil
}

// contextState returns the state after the last event of a context; with lazy
// loading, of the members only the senders of the events.
func (a *API) contextState(tx *sqldb.Tx, ref *store.Ref, events []*store.Stored, f *eventFilter) ([]*store.Stored, error) {
	senders := make(map[string]bool, len(events))
	for _, e := range events {
		senders[e.Event.Sender()] = true
	}
	state, err := a.s.StateEvents(tx, ref, func(t store.Tuple) bool {
		return !f.LazyMembers || t.Type != typeMember || senders[t.Key]
	})
	if keep := f.keep(); keep != nil {
		state = slices.DeleteFunc(state, func(e *store.Stored) bool { return !keep(e) })
	}
	return state, err
}

func (a *API) timestampToEvent(ctx context.Context, r *httpx.Request) (any, error) {
	ts, err := strconv.ParseInt(r.Query("ts"), 10, 64)
	if err != nil || ts < 0 {
		return nil, matrixerr.InvalidParam("Query parameter ts must be a time in milliseconds since 1970")
	}
	dir := r.Query("dir")
	if dir != "b" && dir != "f" {
		return nil, matrixerr.InvalidParam(`Query parameter dir must be "b" (back) or "f" (forward)`)
	}
	if _, err := a.view(ctx, r); err != nil {
		return nil, err
	}
	e, err := a.s.EventAtTime(ctx, r.Vars["roomId"], r.Caller.UserID, ts, dir == "f")
	if err != nil {
		return nil, fail(err)
	}
	return map[string]any{"event_id": e.ID, "origin_server_ts": e.TS}, nil
}
