package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Event is an event as clients get it.
type Event struct {
	ID        string          `json:"event_id"`
	Type      string          `json:"type"`
	Sender    string          `json:"sender"`
	StateKey  *string         `json:"state_key"`
	Content   json.RawMessage `json:"content"`
	Redacts   string          `json:"redacts"`
	RoomID    string          `json:"room_id"`
	Timestamp int64           `json:"origin_server_ts"`
	Unsigned  struct {
		TransactionID string `json:"transaction_id"`
	} `json:"unsigned"`
}

// Text is a field of the content that is a string.
func (e Event) Text(field string) string {
	var content map[string]json.RawMessage
	var s string
	if json.Unmarshal(e.Content, &content) != nil || json.Unmarshal(content[field], &s) != nil {
		return ""
	}
	return s
}

// Key names a state event.
type Key struct{ Type, StateKey string }

// Room is what a client knows of a room.
type Room struct {
	Membership string // its user's
	Timeline   []Event
	State      map[Key]Event
	Typing     []string
	Receipts   map[string]string // user → event that they read last
	Unread     int
	Gaps       int    // how often the timeline was cut
	PrevBatch  string // where history before the first event of the timeline begins
}

// View is what a client knows.
type View struct {
	Since    string
	Rooms    map[string]*Room
	Presence map[string]string
	ToDevice []Event        // messages to the device
	Changed  map[string]int // user → how often their device list changed
}

// Room is never nil.
func (v *View) Room(id string) *Room {
	if v.Rooms == nil {
		v.Rooms = map[string]*Room{}
	}
	r := v.Rooms[id]
	if r == nil {
		r = &Room{State: map[Key]Event{}, Receipts: map[string]string{}}
		v.Rooms[id] = r
	}
	return r
}

type events struct{ Events []Event }

type syncedRoom struct {
	State       events
	InviteState events `json:"invite_state"`
	KnockState  events `json:"knock_state"`
	Timeline    struct {
		Events    []Event
		Limited   bool
		PrevBatch string `json:"prev_batch"`
	}
	Ephemeral events
	Unread    struct {
		Notifications int `json:"notification_count"`
	} `json:"unread_notifications"`
}

type synced struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct{ Join, Invite, Knock, Leave map[string]syncedRoom }
	Presence  events
	ToDevice  events                     `json:"to_device"`
	Lists     struct{ Changed []string } `json:"device_lists"`
}

const syncFilter = `{"room":{"timeline":{"limit":100}}}`

// Sync asks once for news, waits up to the given time for them, and adds them to the view.
func (c *Client) Sync(ctx context.Context, wait time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sync(ctx, wait)
}

func (c *Client) sync(ctx context.Context, wait time.Duration) error {
	query := url.Values{"filter": {syncFilter}, "timeout": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	if c.view.Since != "" {
		query.Set("since", c.view.Since)
	}
	var s synced
	if err := c.Call(ctx, http.MethodGet, V3("sync")+"?"+query.Encode(), nil, &s); err != nil {
		return err
	}
	c.view.take(&s)
	return nil
}

// Forget makes the next sync an initial one.
func (c *Client) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view = View{}
}

// Look shows what is known, without asking for news.
func (c *Client) Look(fn func(*View) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fn(&c.view)
}

// Until syncs, at least once, until seen has nothing to complain about; its last complaint is the error when ctx ends.
func (c *Client) Until(ctx context.Context, seen func(*View) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	complaint := errors.New("the first sync did not answer")
	for wait := time.Duration(0); ; wait = 2 * time.Second {
		if err := c.sync(ctx, wait); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("%s still waits: %w", c.UserID, complaint)
			}
			return err
		}
		if complaint = seen(&c.view); complaint == nil {
			return nil
		}
	}
}

func (v *View) take(s *synced) {
	v.Since = s.NextBatch
	if v.Presence == nil {
		v.Presence = map[string]string{}
	}
	for _, e := range s.Presence.Events {
		v.Presence[e.Sender] = e.Text("presence")
	}
	v.ToDevice = append(v.ToDevice, s.ToDevice.Events...)
	if v.Changed == nil {
		v.Changed = map[string]int{}
	}
	for _, user := range s.Lists.Changed {
		v.Changed[user]++
	}
	for membership, rooms := range map[string]map[string]syncedRoom{
		"join": s.Rooms.Join, "invite": s.Rooms.Invite, "knock": s.Rooms.Knock, "leave": s.Rooms.Leave} {
		for id, news := range rooms {
			v.Room(id).take(membership, news)
		}
	}
}

func (r *Room) take(membership string, s syncedRoom) {
	r.Membership, r.Unread = membership, s.Unread.Notifications
	for _, list := range [][]Event{s.InviteState.Events, s.KnockState.Events, s.State.Events, s.Timeline.Events} {
		for _, e := range list {
			if e.StateKey != nil {
				r.State[Key{e.Type, *e.StateKey}] = e
			}
		}
	}
	if s.Timeline.Limited {
		r.Gaps++
	}
	if len(r.Timeline) == 0 || s.Timeline.Limited {
		r.PrevBatch = s.Timeline.PrevBatch
	}
	r.Timeline = append(r.Timeline, s.Timeline.Events...)
	for _, e := range s.Ephemeral.Events {
		r.takeEphemeral(e)
	}
}

func (r *Room) takeEphemeral(e Event) {
	switch e.Type {
	case "m.typing":
		var content struct {
			UserIDs []string `json:"user_ids"`
		}
		if json.Unmarshal(e.Content, &content) == nil {
			r.Typing = content.UserIDs
		}
	case "m.receipt":
		var content map[string]map[string]map[string]json.RawMessage
		if json.Unmarshal(e.Content, &content) != nil {
			return
		}
		for event, kinds := range content {
			for _, users := range kinds {
				for user := range users {
					r.Receipts[user] = event
				}
			}
		}
	}
}

// Message is the event of the timeline with this text.
func (r *Room) Message(body string) (Event, bool) {
	for _, e := range r.Timeline {
		if e.Type == "m.room.message" && e.Text("body") == body {
			return e, true
		}
	}
	return Event{}, false
}

// Member is a user's membership; "" when there is none.
func (r *Room) Member(user string) string {
	return r.State[Key{"m.room.member", user}].Text("membership")
}
