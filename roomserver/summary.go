package roomserver

import (
	"context"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// RoomSummary is what those outside a room may learn of it (client-server API,
// PublishedRoomsChunk and RoomSummary).
type RoomSummary struct {
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

	Encryption string   `json:"-"`
	Version    string   `json:"-"`
	Allowed    []string `json:"-"` // rooms whose members a restricted room admits
}

// Summary describes a room as its state has it now.
func (s *Server) Summary(ctx context.Context, roomID string) (sum RoomSummary, err error) {
	key, err := s.Room(ctx, roomID)
	if err != nil {
		return sum, err
	}
	v, err := s.Current(ctx, roomID)
	if err != nil {
		return sum, err
	}
	err = s.db.Read(ctx, func(tx *sqldb.Tx) error {
		sum, err = s.summarise(tx, key, v.State, v.Joined)
		return err
	})
	return sum, err
}

func (s *Server) summarise(tx *sqldb.Tx, key store.RoomKey, ref *store.Ref, joined int) (RoomSummary, error) {
	sum := RoomSummary{RoomID: key.ID, Version: key.Version.ID, Joined: joined, JoinRule: "invite"}
	for typ, take := range summaryFields {
		e, err := s.stateEvent(tx, ref, typ, "")
		if err != nil {
			return sum, err
		}
		if e != nil {
			take(&sum, e.Event)
		}
	}
	return sum, nil
}

// summaryFields is the state that a summary is made of.
var summaryFields = map[string]func(*RoomSummary, *event.Event){
	"m.room.create":          func(s *RoomSummary, e *event.Event) { s.RoomType = e.ContentString("type") },
	"m.room.name":            func(s *RoomSummary, e *event.Event) { s.Name = e.ContentString("name") },
	"m.room.topic":           func(s *RoomSummary, e *event.Event) { s.Topic = e.ContentString("topic") },
	"m.room.canonical_alias": func(s *RoomSummary, e *event.Event) { s.CanonicalAlias = e.ContentString("alias") },
	"m.room.avatar":          func(s *RoomSummary, e *event.Event) { s.AvatarURL = e.ContentString("url") },
	"m.room.encryption":      func(s *RoomSummary, e *event.Event) { s.Encryption = e.ContentString("algorithm") },
	"m.room.guest_access": func(s *RoomSummary, e *event.Event) {
		s.GuestCanJoin = e.ContentString("guest_access") == "can_join"
	},
	"m.room.history_visibility": func(s *RoomSummary, e *event.Event) {
		s.WorldReadable = auth.HistoryVisibility(e) == auth.WorldReadable
	},
	"m.room.join_rules": func(s *RoomSummary, e *event.Event) {
		s.JoinRule = auth.JoinRule(e)
		if s.JoinRule != "restricted" && s.JoinRule != "knock_restricted" {
			return
		}
		for _, allow := range e.ContentGet("allow").Array() {
			if room := allow.Get("room_id"); room.Type == gjson.String && len(s.Allowed) < maxAllowRooms {
				s.Allowed = append(s.Allowed, room.Str)
			}
		}
	},
}

// Open reports whether anybody may learn of the room: it lets people in, or ask
// to be, or is readable by all.
func (s RoomSummary) Open() bool {
	return s.WorldReadable || s.JoinRule == "public" || s.JoinRule == "knock" || s.JoinRule == "knock_restricted"
}

// Bounds of the search for those after whom a room is called.
const (
	heroChunk   = 32
	heroesTried = 2000 // member events that are looked at
)

// Heroes returns of a state's member events, given by number, up to limit of the
// first that are of members or invited, and of the first that are of others: a
// room without a name is called after them (client-server API, m.heroes). It
// sorts the numbers.
func (s *Server) Heroes(tx *sqldb.Tx, members []int64, limit int) (in, gone []*store.Stored, err error) {
	slices.Sort(members)
	for chunk := range slices.Chunk(members[:min(len(members), heroesTried)], heroChunk) {
		events, err := s.Store.InOrder(tx, chunk)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range events {
			to := &gone
			if m := auth.Membership(e.Event); m == auth.Join || m == auth.Invite {
				to = &in
			}
			if len(*to) < limit {
				*to = append(*to, e)
			}
		}
		if len(in) == limit {
			break
		}
	}
	return in, gone, nil
}
