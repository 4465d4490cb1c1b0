package rooms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/search"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/store"
)

// Bounds of a search.
const (
	maxResults     = 100
	defaultAround  = 5  // events before and after a result
	maxAround      = 20 // of these
	busyRetryAfter = 5 * time.Second
)

// searchRequest is the room_events of POST /search.
type searchRequest struct {
	Term    *string         `json:"search_term"`
	Keys    []string        `json:"keys"`
	Filter  json.RawMessage `json:"filter"`
	OrderBy string          `json:"order_by"`
	Context *struct {
		Before  *int `json:"before_limit"`
		After   *int `json:"after_limit"`
		Profile bool `json:"include_profile"`
	} `json:"event_context"`
	State     bool `json:"include_state"`
	Groupings struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`

	query  search.Query
	filter eventFilter
}

// searchResults is its answer.
type searchResults struct {
	Count      int64                              `json:"count"`
	Highlights []string                           `json:"highlights"`
	Results    []searchResult                     `json:"results"`
	State      map[string]json.RawMessage         `json:"state,omitempty"`
	Groups     map[string]map[string]*searchGroup `json:"groups,omitempty"`
	Next       string                             `json:"next_batch,omitempty"`
}

type searchResult struct {
	Rank    float64         `json:"rank"`
	Event   json.RawMessage `json:"result"`
	Context *searchContext  `json:"context,omitempty"`
}

type searchContext struct {
	Start    string                       `json:"start"`
	End      string                       `json:"end"`
	Before   json.RawMessage              `json:"events_before"`
	After    json.RawMessage              `json:"events_after"`
	Profiles map[string]map[string]string `json:"profile_info,omitempty"`
}

type searchGroup struct {
	Results []string `json:"results"`
	Order   int      `json:"order"`
	Next    string   `json:"next_batch,omitempty"`
}

func (a *API) search(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Categories *struct {
			RoomEvents *searchRequest `json:"room_events"`
		} `json:"search_categories"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Categories == nil {
		return nil, matrixerr.MissingParam("search_categories is missing")
	}
	if a.o.Search == nil {
		return nil, matrixerr.Forbidden("Searching is turned off on this server.")
	}
	categories := map[string]any{}
	if q := body.Categories.RoomEvents; q != nil {
		if err := q.prepare(r); err != nil {
			return nil, err
		}
		found, err := a.searchEvents(ctx, r, q)
		if err != nil {
			return nil, err
		}
		categories["room_events"] = found
	}
	return map[string]any{"search_categories": categories}, nil
}

var searchKeys = map[string]search.Kinds{"content.body": search.Body, "content.name": search.Name, "content.topic": search.Topic}

// prepare checks the request and makes its query.
func (q *searchRequest) prepare(r *httpx.Request) (err error) {
	if q.Term == nil || *q.Term == "" {
		return matrixerr.MissingParam("search_term is missing")
	}
	q.query = search.Query{Viewer: viewer(r), Term: *q.Term, Recent: q.OrderBy == "recent"}
	if q.OrderBy != "" && q.OrderBy != "recent" && q.OrderBy != "rank" {
		return matrixerr.InvalidParam(`order_by must be "rank" or "recent"`)
	}
	for _, key := range q.Keys {
		kind, ok := searchKeys[key]
		if !ok {
			return matrixerr.InvalidParam(`keys can be "content.body", "content.name" and "content.topic"`)
		}
		q.query.Kinds |= kind
	}
	if q.Keys != nil && len(q.Keys) == 0 {
		return matrixerr.InvalidParam("keys is empty; leave it out to search all of them")
	}
	for _, g := range q.Groupings.By {
		if g.Key != "room_id" && g.Key != "sender" {
			return matrixerr.InvalidParam(`the key of a group must be "room_id" or "sender"`)
		}
	}
	if q.filter, err = parseFilter(string(q.Filter)); err != nil {
		return err
	}
	q.query.Rooms, q.query.NotRooms, q.query.Keep = q.filter.Rooms, q.filter.NotRooms, q.filter.keep()
	q.query.Limit = q.filter.cut(maxResults)
	if q.filter.Limit == nil {
		q.query.Limit = defaultEvents
	}
	return q.resume(r.Query("next_batch"))
}

// groupToken is the token of a page within a group: of which key, of which value, from where.
type groupToken struct{ key, value, cursor string }

func (g groupToken) String() string {
	return g.key + "." + base64.RawURLEncoding.EncodeToString([]byte(g.value)) + "." + g.cursor
}

// resume makes the query go on at a token of a page before.
func (q *searchRequest) resume(token string) error {
	if token == "" {
		return nil
	}
	bad := matrixerr.InvalidParam("next_batch is not a token of this endpoint; leave it out to begin anew")
	text := token
	if parts := strings.Split(token, "."); len(parts) == 3 {
		value, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err != nil || parts[0] != "room_id" && parts[0] != "sender" {
			return bad
		}
		q.within(parts[0], string(value))
		text = parts[2]
	}
	after, ok := search.ParseCursor(text)
	if !ok {
		return bad
	}
	q.query.After = after
	return nil
}

// within narrows the query to a group.
func (q *searchRequest) within(key, value string) {
	before := q.query.Keep
	q.query.Keep = func(e *store.Stored) bool {
		return groupOf(key, e) == value && (before == nil || before(e))
	}
	if key == "room_id" && q.query.Rooms == nil {
		q.query.Rooms = &[]string{value}
	}
}

func groupOf(key string, e *store.Stored) string {
	if key == "sender" {
		return e.Event.Sender()
	}
	return e.Event.Room()
}

func (a *API) searchEvents(ctx context.Context, r *httpx.Request, q *searchRequest) (*searchResults, error) {
	page, err := a.o.Search.Search(ctx, q.query)
	if errors.Is(err, search.ErrBusy) {
		return nil, matrixerr.LimitExceeded(busyRetryAfter).With(err)
	}
	if err != nil {
		return nil, roomserver.MatrixError(err)
	}
	out := &searchResults{Count: page.Count, Highlights: append([]string{}, page.Highlights...), Results: make([]searchResult, len(page.Results))}
	if page.Next != nil {
		out.Next = page.Next.String()
	}
	events := make([]*store.Stored, len(page.Results))
	for i, result := range page.Results {
		events[i] = result.Event
		out.Results[i].Rank = result.Rank
	}
	if err := a.renderResults(ctx, r, out, events); err != nil {
		return nil, err
	}
	out.Groups = q.groups(events, out.Next)
	if q.Context != nil {
		for i, e := range events {
			if out.Results[i].Context, err = a.around(ctx, r, q, e); err != nil {
				return nil, err
			}
		}
	}
	if q.State {
		out.State, err = a.statesOf(ctx, r, events)
	}
	return out, err
}

func (a *API) renderResults(ctx context.Context, r *httpx.Request, out *searchResults, events []*store.Stored) error {
	return a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		list, err := a.render(tx, viewer(r), events)
		for i, e := range list {
			out.Results[i].Event = e
		}
		return err
	})
}

// groups sorts results into the groups that were asked for, the group of the first result first.
func (q *searchRequest) groups(events []*store.Stored, next string) map[string]map[string]*searchGroup {
	if len(q.Groupings.By) == 0 {
		return nil
	}
	out := map[string]map[string]*searchGroup{}
	for _, by := range q.Groupings.By {
		groups := map[string]*searchGroup{}
		for _, e := range events {
			value := groupOf(by.Key, e)
			g := groups[value]
			if g == nil {
				g = &searchGroup{Order: len(groups) + 1}
				groups[value] = g
				if next != "" {
					g.Next = groupToken{by.Key, value, next[strings.LastIndexByte(next, '.')+1:]}.String()
				}
			}
			g.Results = append(g.Results, e.ID)
		}
		out[by.Key] = groups
	}
	return out
}

// around returns what was said before and after a result.
func (a *API) around(ctx context.Context, r *httpx.Request, q *searchRequest, e *store.Stored) (*searchContext, error) {
	at, after := roomserver.Point(e.Ord), roomserver.After(e)
	h := roomserver.HistoryRequest{RoomID: e.Event.Room(), User: r.Caller.UserID, From: &at, Back: true, Local: true, Limit: around(q.Context.Before)}
	older, err := a.s.History(ctx, h)
	if err != nil {
		return nil, fail(err)
	}
	h.From, h.Back, h.Limit = &after, false, around(q.Context.After)
	newer, err := a.s.History(ctx, h)
	if err != nil {
		return nil, fail(err)
	}
	out := &searchContext{Start: older.End.String(), End: newer.End.String()}
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if out.Before, err = a.appendEvents(nil, tx, viewer(r), older.Events); err != nil {
			return err
		}
		if out.After, err = a.appendEvents(nil, tx, viewer(r), newer.Events); err != nil || !q.Context.Profile {
			return err
		}
		out.Profiles, err = a.profiles(tx, slices.Concat(older.Events, []*store.Stored{e}, newer.Events))
		return err
	})
	return out, err
}

func around(limit *int) int {
	if limit == nil {
		return defaultAround
	}
	return min(max(0, *limit), maxAround)
}

// profiles returns how the senders of events called themselves then.
func (a *API) profiles(tx *sqldb.Tx, events []*store.Stored) (map[string]map[string]string, error) {
	members, err := a.s.SenderMembers(tx, events)
	if err != nil {
		return nil, err
	}
	out := map[string]map[string]string{}
	for _, m := range members {
		profile := map[string]string{}
		for _, field := range []string{"displayname", "avatar_url"} {
			if text := m.Event.ContentString(field); text != "" {
				profile[field] = text
			}
		}
		user, _ := m.Event.Key()
		out[user] = profile
	}
	return out, nil
}

// statesOf returns the state of the rooms of results as the caller may see it.
func (a *API) statesOf(ctx context.Context, r *httpx.Request, events []*store.Stored) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	for _, e := range events {
		room := e.Event.Room()
		if out[room] != nil {
			continue
		}
		v, err := a.s.StateFor(ctx, room, r.Caller.UserID)
		if errors.Is(err, roomserver.ErrNotVisible) {
			continue
		}
		if err != nil {
			return nil, fail(err)
		}
		err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
			state, err := a.s.StateEvents(tx, v.State, nil)
			out[room] = a.appendPlain(nil, state)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
