package spaces

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Types of a space and of its children.
const (
	typeSpace = "m.space"
	typeChild = "m.space.child"
)

// entry is a room in an answer: its RoomSummary with the children of a space.
type entry struct {
	RoomID         string   `json:"room_id"`
	Name           string   `json:"name,omitempty"`
	Topic          string   `json:"topic,omitempty"`
	CanonicalAlias string   `json:"canonical_alias,omitempty"`
	AvatarURL      string   `json:"avatar_url,omitempty"`
	JoinRule       string   `json:"join_rule,omitempty"`
	RoomType       string   `json:"room_type,omitempty"`
	RoomVersion    string   `json:"room_version,omitempty"`
	Encryption     string   `json:"encryption,omitempty"`
	Allowed        []string `json:"allowed_room_ids,omitempty"`
	Joined         int      `json:"num_joined_members"`
	WorldReadable  bool     `json:"world_readable"`
	GuestCanJoin   bool     `json:"guest_can_join"`
	Children       []child  `json:"children_state"`
}

// child is an m.space.child event, stripped, with its time.
type child struct {
	Type    string          `json:"type"`
	Key     string          `json:"state_key"`
	Content json.RawMessage `json:"content"`
	Sender  string          `json:"sender"`
	TS      int64           `json:"origin_server_ts"`
}

// Bounds of what is believed of one room.
const (
	maxAllowed  = 100
	maxChildren = 1000
	maxOrder    = 50 // bytes of an order
	maxVia      = 5
)

// valid reports whether a child event adds a room: a cleared one does not.
func (c child) valid() bool {
	return c.Type == typeChild && event.ValidRoomID(c.Key) && len(c.via()) > 0
}

// via are servers to ask about the child.
func (c child) via() (servers []string) {
	list := gjson.GetBytes(c.Content, "via")
	if !list.IsArray() {
		return nil
	}
	for _, v := range list.Array() {
		if v.Type == gjson.String && event.ValidServerName(v.Str) && len(servers) < maxVia {
			servers = append(servers, v.Str)
		}
	}
	return servers
}

func (c child) suggested() bool { return gjson.GetBytes(c.Content, "suggested").Type == gjson.True }

// order is the key that children are sorted by first; false when it is absent or not valid.
func (c child) order() (string, bool) {
	v := gjson.GetBytes(c.Content, "order")
	if v.Type != gjson.String || len(v.Str) > maxOrder {
		return "", false
	}
	for i := range len(v.Str) {
		if v.Str[i] < 0x20 || v.Str[i] > 0x7e {
			return "", false
		}
	}
	return v.Str, true
}

// compare orders the children of a space (Client-Server API, "Ordering of children within a space").
func compare(a, b child) int {
	x, hasX := a.order()
	y, hasY := b.order()
	if hasX != hasY {
		if hasX {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.TS, b.TS), cmp.Compare(a.Key, b.Key))
}

// local describes a room that this server is in; nil for others.
func (a *API) local(ctx context.Context, roomID string) (*entry, error) {
	if resident, err := a.s.IsResident(ctx, roomID); err != nil || !resident {
		return nil, err
	}
	key, err := a.s.Room(ctx, roomID)
	if err != nil {
		return nil, err
	}
	v, err := a.s.Current(ctx, roomID)
	if err != nil {
		return nil, err
	}
	e := &entry{RoomID: roomID, RoomVersion: key.Version.ID, Joined: v.Joined, Children: []child{}}
	return e, a.s.Store.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if err := a.describe(tx, v, e); err != nil || e.RoomType != typeSpace {
			return err
		}
		return a.addChildren(tx, v, e)
	})
}

// describe fills in what the state says.
func (a *API) describe(tx *sqldb.Tx, v roomserver.View, into *entry) error {
	into.JoinRule = "invite"
	for typ, set := range map[string]func(e *event.Event){
		"m.room.create":             func(e *event.Event) { into.RoomType = e.ContentString("type") },
		"m.room.name":               func(e *event.Event) { into.Name = e.ContentString("name") },
		"m.room.topic":              func(e *event.Event) { into.Topic = e.ContentString("topic") },
		"m.room.canonical_alias":    func(e *event.Event) { into.CanonicalAlias = e.ContentString("alias") },
		"m.room.avatar":             func(e *event.Event) { into.AvatarURL = e.ContentString("url") },
		"m.room.encryption":         func(e *event.Event) { into.Encryption = e.ContentString("algorithm") },
		"m.room.guest_access":       func(e *event.Event) { into.GuestCanJoin = e.ContentString("guest_access") == "can_join" },
		"m.room.history_visibility": func(e *event.Event) { into.WorldReadable = auth.HistoryVisibility(e) == auth.WorldReadable },
		"m.room.join_rules":         func(e *event.Event) { into.setJoinRule(e) },
	} {
		e, err := a.s.StateEvent(tx, v, typ, "")
		if err != nil {
			return err
		}
		if e != nil {
			set(e.Event)
		}
	}
	return nil
}

func (e *entry) setJoinRule(rules *event.Event) {
	e.JoinRule = auth.JoinRule(rules)
	if e.JoinRule != "restricted" && e.JoinRule != "knock_restricted" {
		return
	}
	for _, allow := range rules.ContentGet("allow").Array() {
		room := allow.Get("room_id")
		if allow.Get("type").Str == "m.room_membership" && event.ValidRoomID(room.Str) && len(e.Allowed) < maxAllowed {
			e.Allowed = append(e.Allowed, room.Str)
		}
	}
}

func (a *API) addChildren(tx *sqldb.Tx, v roomserver.View, into *entry) error {
	events, err := a.s.StateEvents(tx, v.State, func(t store.Tuple) bool { return t.Type == typeChild })
	if err != nil {
		return err
	}
	for _, e := range events {
		key, _ := e.Event.Key()
		into.Children = append(into.Children, child{Type: typeChild, Key: key, Content: e.Event.ContentJSON(), Sender: e.Event.Sender(), TS: e.TS})
	}
	into.sortChildren()
	return nil
}

// sortChildren leaves the valid children, in their order.
func (e *entry) sortChildren() {
	e.Children = slices.DeleteFunc(e.Children, func(c child) bool { return !c.valid() })
	slices.SortFunc(e.Children, compare)
	e.Children = e.Children[:min(len(e.Children), maxChildren)]
}

// suggested is the entry with its suggested children only, if that is wanted.
func (e entry) suggested(only bool) entry {
	if only {
		e.Children = slices.DeleteFunc(slices.Clone(e.Children), func(c child) bool { return !c.suggested() })
	}
	return e
}

// open reports whether everybody may look into a room, join it or knock.
func (e *entry) open() bool {
	if e.WorldReadable || e.JoinRule == "public" {
		return true
	}
	v, known := event.GetVersion(e.RoomVersion)
	switch e.JoinRule {
	case "knock":
		return !known || v.Knock
	case "knock_restricted":
		return !known || v.KnockRestricted
	}
	return false
}

// allows reports whether a restricted room lets members of others in, of one of which in tells that it holds.
func (e *entry) allows(in func(room string) bool) bool {
	v, known := event.GetVersion(e.RoomVersion)
	switch {
	case known && !v.Restricted, e.JoinRule != "restricted" && e.JoinRule != "knock_restricted":
		return false
	}
	return slices.ContainsFunc(e.Allowed, in)
}
