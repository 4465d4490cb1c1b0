package rooms

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// The API before /sync, which some clients still use to look into rooms that they are not in (Client-Server API,
// "Room Previews").

// initialSync answers GET /rooms/{roomId}/initialSync: the state and the newest events of a room, as the caller may see
// them now or could when they left.
func (a *API) initialSync(ctx context.Context, r *httpx.Request) (any, error) {
	room, user := r.Vars["roomId"], r.Caller.UserID
	v, err := a.view(ctx, r)
	if err != nil {
		return nil, err
	}
	limit, err := r.Int("limit", defaultEvents, maxEvents)
	if err != nil {
		return nil, err
	}
	h, err := a.s.History(ctx, roomserver.HistoryRequest{RoomID: room, User: user, Back: true, Limit: limit})
	if err != nil {
		return nil, fail(err)
	}
	slices.Reverse(h.Events)
	body := appendField([]byte{'{'}, "room_id", room)
	m, err := a.s.Membership(ctx, room, user)
	if err != nil {
		return nil, fail(err)
	}
	if m.State != store.NoMembership {
		body = appendField(append(body, ','), "membership", m.State.String())
	}
	visibility, err := a.s.Visibility(ctx, room)
	if err != nil {
		return nil, fail(err)
	}
	body = appendField(append(body, ','), "visibility", visibility)
	body = appendField(append(body, `,"messages":{`...), "start", h.End.String())
	body = appendField(append(body, ','), "end", h.From.String())
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if body, err = a.appendEvents(append(body, `,"chunk":`...), tx, viewer(r), h.Events); err != nil {
			return err
		}
		state, err := a.s.StateEvents(tx, v.State, nil)
		if err != nil {
			return err
		}
		body = a.appendPlain(append(body, `},"state":`...), state)
		return nil
	})
	if err != nil {
		return nil, err
	}
	body, err = a.appendRoomData(ctx, append(body, `,"account_data":[`...), user, room)
	return httpx.Raw(append(body, "]}"...)), err
}

// appendRoomData appends what the user has noted of a room.
func (a *API) appendRoomData(ctx context.Context, body []byte, user, room string) ([]byte, error) {
	if a.o.Accounts == nil {
		return body, nil
	}
	err := a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		data, err := a.o.Accounts.AccountDataSince(tx, user, 0, math.MaxInt64)
		some := false
		for _, d := range data {
			if d.Room != room {
				continue
			}
			if some {
				body = append(body, ',')
			}
			some = true
			body = event.AppendString(append(body, `{"type":`...), d.Type)
			body = append(append(append(body, `,"content":`...), d.Content...), '}')
		}
		return err
	})
	return body, err
}

// lookAgain is how often it is seen whether there may be news for those who are not in a room, and whom nothing wakes.
const lookAgain = time.Second

// events answers GET /events: those of all rooms of the caller, or with room_id those of one that they may look into.
func (a *API) events(ctx context.Context, r *httpx.Request) (any, error) {
	room := r.Query("room_id")
	if room == "" {
		if a.o.Events == nil {
			return nil, matrixerr.MissingParam("Query parameter room_id is missing")
		}
		return a.o.Events(ctx, r)
	}
	r.Vars["roomId"] = room
	if _, err := a.view(ctx, r); err != nil {
		return nil, err
	}
	from, err := a.point(ctx, r, "from")
	if err != nil {
		return nil, err
	}
	if from == nil {
		p, err := a.s.PointAt(ctx, room, a.o.Hub.Published())
		if err != nil {
			return nil, fail(err)
		}
		from = &p
	}
	ms, err := r.Int("timeout", 0, int(time.Minute/time.Millisecond))
	if err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
	defer cancel()
	start := *from
	for {
		seen := a.o.Hub.Published()
		h, err := a.s.History(r.Context(), roomserver.HistoryRequest{RoomID: room, User: r.Caller.UserID, From: from, Limit: maxEvents, Local: true})
		if err != nil {
			return nil, fail(err)
		}
		if len(h.Events) > 0 || h.More { // without events there may be many that the caller may not see
			from = &h.End
		}
		if len(h.Events) > 0 || !a.published(wait, seen) {
			return a.peeked(r, start, *from, h.Events)
		}
	}
}

// published waits until something is published beyond a position; false when ctx ends first.
func (a *API) published(ctx context.Context, seen int64) bool {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if a.o.Hub.Published() > seen {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

func (a *API) peeked(r *httpx.Request, start, end roomserver.Point, events []*store.Stored) (any, error) {
	body := appendField([]byte{'{'}, "start", start.String())
	body = appendField(append(body, ','), "end", end.String())
	err := a.o.DB.Read(r.Context(), func(tx *sqldb.Tx) (err error) {
		body, err = a.appendEvents(append(body, `,"chunk":`...), tx, viewer(r), events)
		return err
	})
	return httpx.Raw(append(body, '}')), err
}

// anyEvent answers GET /events/{eventId}: an event of whichever room.
func (a *API) anyEvent(ctx context.Context, r *httpx.Request) (any, error) {
	err := a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := a.s.Store.EventByID(tx, r.Vars["eventId"])
		if errors.Is(err, store.ErrNotFound) {
			return matrixerr.NotFound("The event was not found, or you may not see it.")
		}
		if err == nil {
			r.Vars["roomId"] = e.Event.Room()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return a.event(ctx, r)
}
