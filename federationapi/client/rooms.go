package client

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tidwall/gjson"
)

const (
	maxEvent    = 256 << 10 // of one event in a large answer: an event and unsigned data
	joinLimit   = 384 << 20 // of an answer of send_join and state
	joinTotal   = 5 * time.Minute
	joinTimeout = 2 * time.Minute // until a large answer begins
)

// JoinSink takes the parts of a send_join or state answer as they are read. A function that is nil skips its part; an error
// ends the call. The raw events are unchecked; they may not even be valid JSON.
type JoinSink struct {
	State func(raw json.RawMessage) error
	Auth  func(raw json.RawMessage) error
	// Event is the join as the resident server signed it, where it did.
	Event func(raw json.RawMessage) error
	// Omitted hears that the state lacks members, and which servers are in the room. It is called last.
	Omitted func(servers []string) error
}

// Make asks for the template of a membership event of userID; kind is "join", "leave" or "knock". versions are the
// room versions that we know, for joins and knocks. An answer without a version means version 1.
func (c *Client) Make(ctx context.Context, kind, server, roomID, userID string, versions []string) (version string, template json.RawMessage, err error) {
	p := path("/_matrix/federation/v1/make_"+kind+"/", roomID, "/", userID)
	if kind != "leave" {
		p += "?" + url.Values{"ver": versions}.Encode()
	}
	var out struct {
		RoomVersion *string         `json:"room_version"`
		Event       json.RawMessage `json:"event"`
	}
	if err := c.get(ctx, server, call{name: "make_" + kind, path: p, hurry: true}, &out); err != nil {
		return "", nil, err
	}
	if len(out.Event) == 0 || out.Event[0] != '{' {
		return "", nil, &Error{Server: server, Kind: KindBadBody, Cause: badBody("the template has no event")}
	}
	if version = "1"; out.RoomVersion != nil {
		version = *out.RoomVersion
	}
	return version, out.Event, nil
}

// SendJoin sends a signed join (version 2 of the endpoint) and streams the answer into a sink. omit lets the server leave
// members out.
func (c *Client) SendJoin(ctx context.Context, server, roomID, eventID string, e json.RawMessage, omit bool, into JoinSink) error {
	p := path("/_matrix/federation/v2/send_join/", roomID, "/", eventID)
	if omit {
		p += "?omit_members=true"
	}
	var omitted bool
	var servers []string
	err := c.stream(ctx, server, call{name: "send_join", method: http.MethodPut, content: e, hurry: true, path: p}, map[string]part{
		"state": {list: into.State}, "auth_chain": {list: into.Auth}, "event": {one: into.Event},
		"members_omitted": {one: func(raw json.RawMessage) error {
			omitted = string(raw) == "true"
			return nil
		}},
		"servers_in_room": {limit: serversLimit, one: func(raw json.RawMessage) error {
			if json.Unmarshal(raw, &servers) != nil {
				return badBody("servers_in_room is no list of names")
			}
			return nil
		}},
	})
	if err == nil && omitted {
		err = into.Omitted(servers)
	}
	return err
}

// serversLimit bounds the names of the servers in a room, in bytes.
const serversLimit = 4 << 20

// part is what to do with one member of a large answer.
type part struct {
	list  func(raw json.RawMessage) error // for each item
	one   func(raw json.RawMessage) error // for the value
	limit int                             // bytes of the value; 0: those of an event
}

// stream makes a call with a large answer and hands its parts on while they arrive. A list part must be there.
func (c *Client) stream(ctx context.Context, server string, k call, parts map[string]part) error {
	k.limit, k.timeout, k.total = joinLimit, joinTimeout, joinTotal
	resp, err := c.do(ctx, server, k)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var sinkErr error
	if err := scanParts(newScanner(resp.Body), parts, &sinkErr); err != nil && sinkErr == nil {
		return fail(ctx, server, err)
	}
	return sinkErr
}

func scanParts(s *scanner, parts map[string]part, sinkErr *error) error {
	mine := func(sink func(json.RawMessage) error) func(json.RawMessage) error {
		return func(raw json.RawMessage) error {
			*sinkErr = sink(raw)
			return *sinkErr
		}
	}
	var found []string
	err := s.object(func(key string) error {
		found = append(found, key)
		switch p := parts[key]; {
		case p.list != nil:
			return s.array(maxEvent, mine(p.list))
		case p.one != nil:
			raw, err := s.value(cmp.Or(p.limit, maxEvent))
			if err != nil || string(raw) == "null" {
				return err
			}
			return mine(p.one)(slices.Clone(raw))
		}
		return s.skip()
	})
	for key, p := range parts {
		if err == nil && p.list != nil && !slices.Contains(found, key) {
			return badBody("the answer has no %s", key)
		}
	}
	return err
}

// SendLeave sends a signed leave, through version 1 of the endpoint where the server does not know version 2.
func (c *Client) SendLeave(ctx context.Context, server, roomID, eventID string, e json.RawMessage) error {
	k := call{name: "send_leave", method: http.MethodPut, content: e, hurry: true}
	k.path = path("/_matrix/federation/v2/send_leave/", roomID, "/", eventID)
	_, err := c.bytes(ctx, server, k)
	if unsupported(err) {
		k.path = path("/_matrix/federation/v1/send_leave/", roomID, "/", eventID)
		_, err = c.bytes(ctx, server, k)
	}
	return err
}

// SendKnock sends a signed knock and returns the room's stripped state.
func (c *Client) SendKnock(ctx context.Context, server, roomID, eventID string, e json.RawMessage) (stripped []json.RawMessage, err error) {
	var out struct {
		State []json.RawMessage `json:"knock_room_state"`
	}
	err = c.get(ctx, server, call{
		name: "send_knock", method: http.MethodPut, content: e, hurry: true, limit: eventsLimit,
		path: path("/_matrix/federation/v1/send_knock/", roomID, "/", eventID),
	}, &out)
	return out.State, err
}

// Invite asks the invited user's server to sign an invite and returns it signed. Servers that do not know version 2
// of the endpoint are asked through version 1, which can only carry room versions 1 and 2.
func (c *Client) Invite(ctx context.Context, server, roomID, eventID, version string, e json.RawMessage, state []json.RawMessage) (json.RawMessage, error) {
	if state == nil {
		state = []json.RawMessage{}
	}
	var out struct {
		Event json.RawMessage `json:"event"`
	}
	err := c.get(ctx, server, call{
		name: "invite", method: http.MethodPut, hurry: true,
		path:    path("/_matrix/federation/v2/invite/", roomID, "/", eventID),
		content: map[string]any{"event": e, "room_version": version, "invite_room_state": state},
	}, &out)
	if unsupported(err) && (version == "1" || version == "2") {
		return c.inviteV1(ctx, server, roomID, eventID, e, state)
	}
	if err == nil && len(out.Event) == 0 {
		err = &Error{Server: server, Kind: KindBadBody, Cause: badBody("the answer has no event")}
	}
	return out.Event, err
}

func (c *Client) inviteV1(ctx context.Context, server, roomID, eventID string, e json.RawMessage, state []json.RawMessage) (json.RawMessage, error) {
	var whole map[string]json.RawMessage
	if err := json.Unmarshal(e, &whole); err != nil {
		return nil, err
	}
	unsigned, err := json.Marshal(map[string]any{"invite_room_state": state})
	if err != nil {
		return nil, err
	}
	whole["unsigned"] = unsigned
	var out []json.RawMessage // a number and an object
	err = c.get(ctx, server, call{
		name: "invite_v1", method: http.MethodPut, hurry: true, content: whole,
		path: path("/_matrix/federation/v1/invite/", roomID, "/", eventID),
	}, &out)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Event json.RawMessage `json:"event"`
	}
	if len(out) != 2 || json.Unmarshal(out[1], &answer) != nil || len(answer.Event) == 0 {
		return nil, &Error{Server: server, Kind: KindBadBody, Cause: badBody("the answer has no event")}
	}
	return answer.Event, nil
}

// pdus is the shape of answers that are a transaction.
type pdus struct {
	PDUs []json.RawMessage `json:"pdus"`
}

// Event fetches one event.
func (c *Client) Event(ctx context.Context, server, eventID string) (json.RawMessage, error) {
	var out pdus
	err := c.get(ctx, server, call{name: "event", path: path("/_matrix/federation/v1/event/", eventID)}, &out)
	if err == nil && len(out.PDUs) == 0 {
		err = &Error{Server: server, Kind: KindBadBody, Cause: badBody("the answer has no event")}
	}
	if err != nil {
		return nil, err
	}
	return out.PDUs[0], nil
}

// EventAuth fetches the auth chain of an event.
func (c *Client) EventAuth(ctx context.Context, server, roomID, eventID string) ([]json.RawMessage, error) {
	var out struct {
		Chain []json.RawMessage `json:"auth_chain"`
	}
	err := c.get(ctx, server, call{
		name: "event_auth", path: path("/_matrix/federation/v1/event_auth/", roomID, "/", eventID), limit: eventsLimit,
	}, &out)
	return out.Chain, err
}

// MissingEvents fetches at most limit events between earliest and latest (get_missing_events).
func (c *Client) MissingEvents(ctx context.Context, server, roomID string, earliest, latest []string, limit int, minDepth int64) ([]json.RawMessage, error) {
	var out struct {
		Events []json.RawMessage `json:"events"`
	}
	err := c.get(ctx, server, call{
		name: "get_missing_events", method: http.MethodPost, limit: eventsLimit, timeout: time.Minute,
		path: path("/_matrix/federation/v1/get_missing_events/", roomID),
		content: map[string]any{
			"earliest_events": list(earliest), "latest_events": list(latest), "limit": limit, "min_depth": minDepth,
		},
	}, &out)
	return first(out.Events, limit), err
}

// StateIDs fetches the ids of a room's state before an event, and of its auth chain.
func (c *Client) StateIDs(ctx context.Context, server, roomID, eventID string) (state, auth []string, err error) {
	var out struct {
		State []string `json:"pdu_ids"`
		Auth  []string `json:"auth_chain_ids"`
	}
	err = c.get(ctx, server, call{
		name: "state_ids", limit: eventsLimit, timeout: joinTimeout,
		path: path("/_matrix/federation/v1/state_ids/", roomID) + "?" + url.Values{"event_id": {eventID}}.Encode(),
	}, &out)
	return out.State, out.Auth, err
}

// State streams a room's state before an event, and its auth chain, into a sink. The answer may be as large as a join's.
func (c *Client) State(ctx context.Context, server, roomID, eventID string, into JoinSink) error {
	return c.stream(ctx, server, call{
		name: "state", path: path("/_matrix/federation/v1/state/", roomID) + "?" + url.Values{"event_id": {eventID}}.Encode(),
	}, map[string]part{"pdus": {list: into.State}, "auth_chain": {list: into.Auth}})
}

// Extremities asks for a server's forward extremities of a room (MSC4370). One that does not know the question says the
// same in the template of a leave of userID, a user of ours in the room.
func (c *Client) Extremities(ctx context.Context, server, roomID, userID string) ([]string, error) {
	var out struct {
		Prev []string `json:"prev_events"`
	}
	err := c.get(ctx, server, call{name: "extremities", path: path("/_matrix/federation/unstable/org.matrix.msc4370/extremities/", roomID)}, &out)
	if err == nil || !unsupported(err) {
		return out.Prev, err
	}
	_, template, err := c.Make(ctx, "leave", server, roomID, userID, nil)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, prev := range gjson.GetBytes(template, "prev_events").Array() {
		if prev.IsArray() { // room versions 1 and 2: the id and hashes
			prev = prev.Get("0")
		}
		ids = append(ids, prev.Str)
	}
	return ids, nil
}

// Backfill fetches at most limit events, from and what is before them.
func (c *Client) Backfill(ctx context.Context, server, roomID string, from []string, limit int) ([]json.RawMessage, error) {
	var out pdus
	query := url.Values{"v": from, "limit": {strconv.Itoa(limit)}}
	err := c.get(ctx, server, call{
		name: "backfill", limit: eventsLimit, timeout: time.Minute, hurry: true,
		path: path("/_matrix/federation/v1/backfill/", roomID) + "?" + query.Encode(),
	}, &out)
	return first(out.PDUs, limit), err
}

// EventAtTime asks for the first event at or after a time in milliseconds, or the last at or before it, and returns its
// id and time.
func (c *Client) EventAtTime(ctx context.Context, server, roomID string, ts int64, forward bool) (eventID string, at int64, err error) {
	query := url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {"b"}}
	if forward {
		query.Set("dir", "f")
	}
	var out struct {
		Event string `json:"event_id"`
		TS    int64  `json:"origin_server_ts"`
	}
	err = c.get(ctx, server, call{name: "timestamp_to_event", hurry: true,
		path: path("/_matrix/federation/v1/timestamp_to_event/", roomID) + "?" + query.Encode()}, &out)
	return out.Event, out.TS, err
}

// list makes sure that an empty list is sent as one.
func list(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}

func first(events []json.RawMessage, n int) []json.RawMessage {
	return events[:min(len(events), max(n, 0))]
}
