package roomserver

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"

	"knock/internal/sqldb"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// StateEvent is a piece of state to be set.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// CreateRequest asks for a new room (client-server API, POST /createRoom).
type CreateRequest struct {
	Creator            string
	Version            string // "" is the default
	Preset             string // "" follows Public
	Public             bool   // in the room directory
	Alias              string // the full alias, "" for none
	Name, Topic        string
	Invite             []string
	IsDirect           bool
	CreationContent    map[string]json.RawMessage
	PowerLevelOverride map[string]json.RawMessage
	InitialState       []StateEvent
	Also               func(tx *sqldb.Tx, roomID string) error // in the transaction that makes the room; its error undoes that
}

// Create makes a room, whole or not at all, and then invites. It returns the
// room's id, and an error beside it when the room stands but an invite failed.
func (s *Server) Create(ctx context.Context, q CreateRequest) (string, error) {
	if q.Version == "" {
		q.Version = s.DefaultVersion
	}
	v, ok := event.GetVersion(q.Version)
	if !ok {
		return "", ErrUnsupported
	}
	if q.Preset == "" {
		q.Preset = "private_chat"
		if q.Public {
			q.Preset = "public_chat"
		}
	}
	if q.Alias != "" {
		if _, err := s.LocalAlias(ctx, q.Alias); err == nil {
			return "", ErrAliasTaken
		}
	}
	for _, user := range q.Invite { // before the room stands: who invites will try again
		if s.blocked(user, q.Creator) {
			return "", fmt.Errorf("invite %s: %w", user, ErrBlocked)
		}
	}
	var r *room
	// Since version 12 two rooms that a user makes in the same millisecond would
	// have the same create event, and so the same id: the second tries again.
	err := s.retry(ctx, func() error {
		r = s.newRoom(v)
		b, err := s.createLocked(ctx, r, q)
		if err != nil {
			return err
		}
		return b.wait(ctx)
	})
	if err != nil {
		return "", err
	}
	if q.Alias != "" {
		s.aliasesChanged(0)
	}
	for _, user := range q.Invite {
		_, err := s.SetMembership(ctx, MembershipRequest{RoomID: r.key.ID, Sender: q.Creator, Target: user, Membership: "invite", IsDirect: q.IsDirect})
		if err != nil {
			return r.key.ID, fmt.Errorf("invite %s: %w", user, err)
		}
	}
	return r.key.ID, nil
}

func (s *Server) newRoom(v *event.Version) *room {
	r := &room{s: s, auths: map[string]*selection{}}
	r.key = store.RoomKey{NID: s.db.NextID(), Version: v}
	if !v.DomainlessRoomIDs {
		r.key.ID = "!" + randomID(18) + ":" + s.ServerName
	}
	r.pub.pending, r.pub.byID = map[int64]*store.Stored{}, map[string]*store.Stored{}
	r.pub.views = []View{{State: store.EmptyState()}}
	r.tip = tip{resident: true, state: store.EmptyState(), servers: map[string]int{}}
	return r
}

const idAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func randomID(n int) string {
	raw := make([]byte, n)
	rand.Read(raw)
	for i, c := range raw {
		raw[i] = idAlphabet[int(c)%len(idAlphabet)]
	}
	return string(raw)
}

func (s *Server) createLocked(ctx context.Context, r *room, q CreateRequest) (*batch, error) {
	for _, p := range s.Participants {
		if err := p.Load(ctx, r.key.NID); err != nil {
			return nil, err
		}
	}
	list, err := s.initialEvents(ctx, r.key.Version, q)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.begin()
	b.create = true
	for _, ev := range list {
		key := ev.StateKey
		e, err := b.build(ctx, SendRequest{Sender: q.Creator, Type: ev.Type, StateKey: &key, Content: ev.Content}, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ev.Type, err)
		}
		if ev.Type == "m.room.create" {
			r.key.ID = e.Room()
		}
	}
	if q.Alias != "" {
		alias := store.Alias{Alias: q.Alias, RoomID: r.key.ID, Creator: q.Creator}
		b.extra = append(b.extra, func(tx *sqldb.Tx) error { return s.insertAlias(tx, alias) })
	}
	if q.Public {
		b.extra = append(b.extra, func(tx *sqldb.Tx) error { return s.Store.Publish(tx, r.key.NID, true) })
	}
	if q.Also != nil {
		b.extra = append(b.extra, func(tx *sqldb.Tx) error { return q.Also(tx, r.key.ID) })
	}
	b.enqueue()
	return b, nil
}

func (s *Server) insertAlias(tx *sqldb.Tx, a store.Alias) error {
	ok, err := s.Store.InsertAlias(tx, a)
	if err == nil && !ok {
		err = ErrAliasTaken
	}
	return err
}

// initialEvents lists a new room's state events in the order that the
// specification gives.
func (s *Server) initialEvents(ctx context.Context, v *event.Version, q CreateRequest) ([]StateEvent, error) {
	create, creators := s.createContent(v, q)
	member, err := s.memberContent(ctx, q.Creator, MembershipRequest{Membership: "join"})
	if err != nil {
		return nil, err
	}
	list := []StateEvent{
		{Type: "m.room.create", Content: encode(create)},
		{Type: "m.room.member", StateKey: q.Creator, Content: member},
		{Type: "m.room.power_levels", Content: encode(powerLevels(v, q, creators))},
	}
	if q.Alias != "" {
		list = append(list, StateEvent{Type: "m.room.canonical_alias", Content: encode(map[string]string{"alias": q.Alias})})
	}
	list = append(list, presetState(q.Preset)...)
	list = override(list, q.InitialState)
	if q.Name != "" {
		list = override(list, []StateEvent{{Type: "m.room.name", Content: encode(map[string]string{"name": q.Name})}})
	}
	if q.Topic != "" {
		list = override(list, []StateEvent{{Type: "m.room.topic", Content: encode(topicContent(q.Topic))}})
	}
	return list, nil
}

// override adds state; what has a type and key that is there already takes its place.
func override(list, with []StateEvent) []StateEvent {
next:
	for _, ev := range with {
		for i := range list {
			if list[i].Type == ev.Type && list[i].StateKey == ev.StateKey {
				list[i].Content = ev.Content
				continue next
			}
		}
		list = append(list, ev)
	}
	return list
}

func encode(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("roomserver: %T cannot be encoded: %v", v, err)) // only maps and structs of plain values come here
	}
	return data
}

func topicContent(topic string) any {
	return map[string]any{"topic": topic, "m.topic": map[string]any{"m.text": []any{map[string]string{"body": topic, "mimetype": "text/plain"}}}}
}

func (s *Server) createContent(v *event.Version, q CreateRequest) (content map[string]json.RawMessage, creators []string) {
	content = map[string]json.RawMessage{}
	for key, value := range q.CreationContent {
		content[key] = value
	}
	content["room_version"] = encode(v.ID)
	delete(content, "creator")
	if !v.SenderIsCreator {
		content["creator"] = encode(q.Creator)
	}
	creators = []string{q.Creator}
	if v.PrivilegedCreators {
		var additional []string
		_ = json.Unmarshal(content["additional_creators"], &additional)
		if q.Preset == "trusted_private_chat" {
			additional = append(additional, q.Invite...)
		}
		if len(additional) > 0 {
			content["additional_creators"] = encode(dedupe(additional))
			creators = append(creators, additional...)
		}
	}
	return content, creators
}

func dedupe(list []string) []string {
	seen := map[string]bool{}
	out := list[:0:0]
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// powerLevels returns the content of a new room's power levels event. Creators
// of room version 12 rank above all and must not be listed.
func powerLevels(v *event.Version, q CreateRequest, creators []string) map[string]json.RawMessage {
	users := map[string]int{}
	tombstone := 100
	if v.PrivilegedCreators {
		tombstone = 150
	} else {
		for _, user := range creators {
			users[user] = 100
		}
		if q.Preset == "trusted_private_chat" {
			for _, user := range q.Invite {
				users[user] = 100
			}
		}
	}
	// Whom anybody may join, only moderators need to invite to.
	invite := 0
	if q.Preset == "public_chat" {
		invite = 50
	}
	content := map[string]json.RawMessage{}
	defaults := map[string]any{
		"ban": 50, "kick": 50, "redact": 50, "invite": invite, "events_default": 0, "state_default": 50, "users_default": 0,
		"historical": 100, "users": users,
		"events": map[string]int{
			"m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100, "m.room.history_visibility": 100,
			"m.room.name": 50, "m.room.power_levels": 100, "m.room.server_acl": 100, "m.room.tombstone": tombstone,
		},
	}
	for key, value := range defaults {
		content[key] = encode(value)
	}
	for key, value := range q.PowerLevelOverride {
		content[key] = value
	}
	return content
}

// presetState returns the join rules, history visibility and guest access of a preset. That guests are forbidden is what
// holds without an event too (m.room.guest_access), so public rooms go without one, as elsewhere.
func presetState(preset string) []StateEvent {
	shared := StateEvent{Type: "m.room.history_visibility", Content: encode(map[string]string{"history_visibility": "shared"})}
	if preset == "public_chat" {
		return []StateEvent{{Type: "m.room.join_rules", Content: encode(map[string]string{"join_rule": "public"})}, shared}
	}
	return []StateEvent{
		{Type: "m.room.join_rules", Content: encode(map[string]string{"join_rule": "invite"})}, shared,
		{Type: "m.room.guest_access", Content: encode(map[string]string{"guest_access": "can_join"})},
	}
}

// MembershipRequest asks for a change of a membership in a room that this
// server is in.
type MembershipRequest struct {
	RoomID, Sender, Target string
	Membership             string // "join", "invite", "leave", "ban", "knock"
	Reason                 string
	IsDirect               bool
	Content                map[string]json.RawMessage // beside what the server sets; goes before the profile
	Authoriser             string                     // who vouches for a join of a restricted room
	Device, TxnID          string
	TS                     int64 // origin_server_ts in ms; 0: now, unless Dated
	Dated                  bool
	Sticky                 *int64 // as of a SendRequest, like what follows
	Delay                  string
	Also                   func(tx *sqldb.Tx, eventID string) error
}

const authoriserKey = "join_authorised_via_users_server"

// memberContent returns the content of a member event of a user. Local users
// bring their profile, unless the content says something else for this room.
func (s *Server) memberContent(ctx context.Context, user string, q MembershipRequest) (json.RawMessage, error) {
	content := map[string]json.RawMessage{}
	if s.Profiles != nil && s.IsLocal(user) && (q.Membership == auth.Join || q.Membership == auth.Invite || q.Membership == auth.Knock) {
		name, avatar, err := s.Profiles.MemberProfile(ctx, user)
		if err != nil {
			return nil, err
		}
		if name != "" {
			content["displayname"] = encode(name)
		}
		if avatar != "" {
			content["avatar_url"] = encode(avatar)
		}
	}
	maps.Copy(content, q.Content)
	// Only servers say who vouches for a join; a client's word would be refused.
	delete(content, authoriserKey)
	if q.Authoriser != "" {
		content[authoriserKey] = encode(q.Authoriser)
	}
	content["membership"] = encode(q.Membership)
	if q.Reason != "" {
		content["reason"] = encode(q.Reason)
	}
	if q.IsDirect {
		content["is_direct"] = json.RawMessage("true")
	}
	return encode(content), nil
}
