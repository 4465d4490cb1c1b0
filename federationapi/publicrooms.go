package federationapi

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
)

// maxPublicRooms bounds one answer, also for those who ask for no limit.
const maxPublicRooms = 500

// publicRoom is a room as the directory shows it (PublishedRoomsChunk).
type publicRoom struct {
	RoomID         string `json:"room_id"`
	Name           string `json:"name,omitempty"`
	Topic          string `json:"topic,omitempty"`
	CanonicalAlias string `json:"canonical_alias,omitempty"`
	AvatarURL      string `json:"avatar_url,omitempty"`
	JoinRule       string `json:"join_rule,omitempty"`
	RoomType       string `json:"room_type,omitempty"`
	Joined         int    `json:"num_joined_members"`
	WorldReadable  bool   `json:"world_readable"`
	GuestCanJoin   bool   `json:"guest_can_join"`
}

type roomsQuery struct {
	Limit  int    `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string            `json:"generic_search_term"`
		Types []json.RawMessage `json:"room_types"`
	} `json:"filter"`
}

func (a *API) publicRooms(ctx context.Context, r *httpx.Request) (any, error) {
	q := roomsQuery{Since: r.Query("since")}
	var err error
	if q.Limit, err = r.Int("limit", 0, maxPublicRooms); err != nil {
		return nil, err
	}
	return a.listRooms(ctx, q)
}

func (a *API) searchPublicRooms(ctx context.Context, r *httpx.Request) (any, error) {
	var q roomsQuery
	if err := r.JSON(&q); err != nil {
		return nil, err
	}
	return a.listRooms(ctx, q)
}

// listRooms answers a page: largest rooms first, "since" is how many come before it.
func (a *API) listRooms(ctx context.Context, q roomsQuery) (any, error) {
	start := 0
	if q.Since != "" {
		var err error
		if start, err = strconv.Atoi(q.Since); err != nil || start < 0 {
			return nil, matrixerr.InvalidParam("since must be a next_batch or prev_batch of an earlier answer")
		}
	}
	if q.Limit < 0 {
		return nil, matrixerr.InvalidParam("limit must be at least 0")
	}
	if q.Limit == 0 || q.Limit > maxPublicRooms {
		q.Limit = maxPublicRooms
	}
	rooms, err := a.publishedRooms(ctx)
	if err != nil {
		return nil, domainError(err)
	}
	rooms = slices.DeleteFunc(rooms, func(p publicRoom) bool { return !q.matches(p) })
	start = min(start, len(rooms))
	end := min(start+q.Limit, len(rooms))
	answer := map[string]any{"chunk": rooms[start:end], "total_room_count_estimate": len(rooms)}
	if end < len(rooms) {
		answer["next_batch"] = strconv.Itoa(end)
	}
	if start > 0 {
		answer["prev_batch"] = strconv.Itoa(max(0, start-q.Limit))
	}
	return answer, nil
}

func (q roomsQuery) matches(p publicRoom) bool {
	if q.Filter.Types != nil && !slices.ContainsFunc(q.Filter.Types, func(raw json.RawMessage) bool {
		t := gjson.ParseBytes(raw)
		return t.Type == gjson.Null && p.RoomType == "" || t.Type == gjson.String && t.Str == p.RoomType
	}) {
		return false
	}
	term := strings.ToLower(q.Filter.Term)
	for _, text := range []string{p.Name, p.Topic, p.CanonicalAlias} {
		if strings.Contains(strings.ToLower(text), term) {
			return true
		}
	}
	return false
}

// publishedRooms lists our directory: rooms that we are no longer in are left out.
func (a *API) publishedRooms(ctx context.Context) ([]publicRoom, error) {
	var keys []string
	err := a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		nids, err := a.o.Rooms.Store.Published(tx)
		for _, nid := range nids {
			key, err := a.o.Rooms.Store.RoomByNID(tx, nid)
			if err != nil {
				return err
			}
			keys = append(keys, key.ID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	rooms := make([]publicRoom, 0, len(keys))
	for _, id := range keys {
		p, err := a.publicRoom(ctx, id)
		if err != nil {
			return nil, err
		}
		if p.Joined > 0 {
			rooms = append(rooms, p)
		}
	}
	slices.SortFunc(rooms, func(x, y publicRoom) int {
		return cmp.Or(cmp.Compare(y.Joined, x.Joined), cmp.Compare(x.RoomID, y.RoomID))
	})
	return rooms, nil
}

func (a *API) publicRoom(ctx context.Context, id string) (publicRoom, error) {
	p := publicRoom{RoomID: id}
	v, err := a.o.Rooms.Current(ctx, id)
	if err != nil {
		return p, err
	}
	p.Joined = v.Joined
	err = a.o.Rooms.Store.DB.Read(ctx, func(tx *sqldb.Tx) error { return a.describe(tx, v, &p) })
	return p, err
}

// describe fills in what the state says.
func (a *API) describe(tx *sqldb.Tx, v roomserver.View, p *publicRoom) error {
	fields := map[string]func(e *event.Event){
		"m.room.create":             func(e *event.Event) { p.RoomType = e.ContentString("type") },
		"m.room.name":               func(e *event.Event) { p.Name = e.ContentString("name") },
		"m.room.topic":              func(e *event.Event) { p.Topic = e.ContentString("topic") },
		"m.room.canonical_alias":    func(e *event.Event) { p.CanonicalAlias = e.ContentString("alias") },
		"m.room.avatar":             func(e *event.Event) { p.AvatarURL = e.ContentString("url") },
		"m.room.join_rules":         func(e *event.Event) { p.JoinRule = auth.JoinRule(e) },
		"m.room.guest_access":       func(e *event.Event) { p.GuestCanJoin = e.ContentString("guest_access") == "can_join" },
		"m.room.history_visibility": func(e *event.Event) { p.WorldReadable = auth.HistoryVisibility(e) == auth.WorldReadable },
	}
	for typ, set := range fields {
		e, err := a.o.Rooms.StateEvent(tx, v, typ, "")
		if err != nil {
			return err
		}
		if e != nil {
			set(e.Event)
		}
	}
	return nil
}
