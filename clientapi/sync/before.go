package sync

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"github.com/tidwall/gjson"

	"knock/clientapi/syncread"
	"knock/internal/httpx"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// The API before /sync (GET /initialSync and GET /events) is served from what /sync would tell: it is deprecated, and
// few clients still use it.

// initialSync answers GET /initialSync.
func (s *Sync) initialSync(ctx context.Context, r *httpx.Request) (any, error) {
	limit, err := r.Int("limit", defaultEvents, maxEvents)
	if err != nil {
		return nil, err
	}
	q := s.plain(r)
	q.initial, q.stateKey, q.after = true, "state", true
	q.filter.limit, q.filter.includeLeave = limit, r.Query("archived") == "true"
	at := s.now()
	body, _, err := s.answer(r.Context(), q, at)
	if err != nil {
		return nil, err
	}
	at.toDevice = noMessages
	told := gjson.ParseBytes(body)
	out := map[string]any{"end": at.String(), "presence": events(told, "presence.events"), "account_data": events(told, "account_data.events")}
	rooms := []any{}
	for _, section := range []string{"join", "leave"} {
		for id, room := range told.Get("rooms." + section).Map() {
			info, err := s.roomInfo(ctx, q.user, id, room, at)
			if err != nil {
				return nil, err
			}
			rooms = append(rooms, info)
		}
	}
	for id := range told.Get("rooms.invite").Map() {
		invite, err := s.ownMember(ctx, q, id, at.pos)
		if err != nil {
			return nil, err
		}
		if invite != nil { // else it was taken back meanwhile
			rooms = append(rooms, map[string]any{"room_id": id, "membership": "invite", "invite": invite})
		}
	}
	out["rooms"] = rooms
	return out, nil
}

// plain is a request without a filter.
func (s *Sync) plain(r *httpx.Request) *request {
	return &request{user: r.Caller.UserID, device: r.Caller.DeviceID, stateKey: "state", filter: &filter{limit: maxEvents}}
}

// events returns an array of an answer, never null.
func events(told gjson.Result, path string) json.RawMessage {
	if v := told.Get(path); v.IsArray() {
		return json.RawMessage(v.Raw)
	}
	return json.RawMessage("[]")
}

func (s *Sync) roomInfo(ctx context.Context, user, id string, room gjson.Result, at token) (map[string]any, error) {
	visibility, err := s.o.Rooms.Visibility(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := s.o.Rooms.Membership(ctx, id, user)
	if err != nil {
		return nil, err
	}
	messages := map[string]any{"end": at.String(), "chunk": inRoom(room.Get("timeline.events"), id)}
	if start := room.Get("timeline.prev_batch").Str; start != "" {
		messages["start"] = start
	}
	return map[string]any{"room_id": id, "membership": m.State.String(), "visibility": visibility, "messages": messages,
		"state": inRoom(room.Get("state.events"), id), "account_data": events(room, "account_data.events")}, nil
}

// inRoom returns events with the id of their room, which /sync does not repeat.
func inRoom(events gjson.Result, room string) []json.RawMessage {
	out := []json.RawMessage{}
	for _, e := range events.Array() {
		out = append(out, withRoom(e.Raw, room))
	}
	return out
}

// withRoom adds the id of its room to an event as it was encoded here.
func withRoom(e, room string) json.RawMessage {
	return append(append(event.AppendString([]byte(`{"room_id":`), room), ','), e[1:]...)
}

// ownMember returns the user's member event of a room; nil when there is none.
func (s *Sync) ownMember(ctx context.Context, q *request, room string, at int64) (json.RawMessage, error) {
	m, err := s.o.Rooms.Membership(ctx, room, q.user)
	if err != nil || m.State == store.NoMembership {
		return nil, err
	}
	var list []json.RawMessage
	err = s.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := s.o.Rooms.Store.Event(tx, m.Event)
		if err != nil {
			return err
		}
		list, err = s.reader.State(tx, roomserver.Viewer{User: q.user, Device: q.device}, []*store.Stored{e}, at)
		return err
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return withRoom(string(list[0]), room), nil
}

// Events answers GET /events for all rooms of the caller: what happened after a token, or after now.
func (s *Sync) Events(ctx context.Context, r *httpx.Request) (any, error) {
	q := s.plain(r)
	ms, err := r.Int("timeout", 0, int(maxTimeout/time.Millisecond))
	if err != nil {
		return nil, err
	}
	q.since = s.now()
	q.since.toDevice = noMessages
	if from := r.Query("from"); from != "" {
		t, err := parseToken(from)
		if err != nil {
			return nil, err
		}
		if t.epoch != s.o.DB.Epoch() || t.pos > s.o.Hub.Published() {
			return nil, errToken()
		}
		if t.boot != s.boot {
			t.eph, t.boot = s.now().eph, s.boot
		}
		q.since = t
	}
	start, messages := q.since.String(), cmp.Or(q.since.toDevice, q.since.pos)
	wait, cancel := context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
	defer cancel()
	for {
		at := s.now()
		chunk, err := s.happened(r.Context(), q, at)
		if err != nil {
			return nil, err
		}
		q.since = at
		at.toDevice = messages // none was told
		if len(chunk) > 0 || !s.o.Hub.Wait(wait, q.user, at.pos, at.eph) {
			body := append([]byte(`{"start":"`+start+`","end":"`+at.String()+`","chunk":`), syncread.AppendArray(nil, chunk)...)
			return httpx.Raw(append(body, '}')), nil
		}
	}
}

// happened returns as one list what /sync tells by room.
func (s *Sync) happened(ctx context.Context, q *request, at token) ([]json.RawMessage, error) {
	body, _, err := s.answer(ctx, q, at)
	if err != nil {
		return nil, err
	}
	told := gjson.ParseBytes(body)
	var chunk []json.RawMessage
	for _, section := range []string{"join", "leave"} {
		for id, room := range told.Get("rooms." + section).Map() {
			chunk = append(chunk, inRoom(room.Get("timeline.events"), id)...)
			chunk = append(chunk, inRoom(room.Get("ephemeral.events"), id)...)
		}
	}
	for id := range told.Get("rooms.invite").Map() {
		invite, err := s.ownMember(ctx, q, id, at.pos)
		if err != nil {
			return nil, err
		}
		if invite != nil { // else it was taken back meanwhile
			chunk = append(chunk, invite)
		}
	}
	for _, e := range told.Get("presence.events").Array() {
		chunk = append(chunk, json.RawMessage(e.Raw))
	}
	return chunk, nil
}
