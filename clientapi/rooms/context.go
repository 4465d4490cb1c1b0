package rooms

import (
	"context"
	"slices"
	"strconv"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

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
	q := roomserver.HistoryRequest{RoomID: r.Vars["roomId"], User: r.Caller.UserID, From: &at, Back: true, Limit: limit / 2, Keep: filter.keep(), Pick: a.pick(&filter)}
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
