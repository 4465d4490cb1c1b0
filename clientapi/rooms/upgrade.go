package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

func (a *API) upgrade(ctx context.Context, r *httpx.Request) (any, error) {
	var body struct {
		Version  string   `json:"new_version"`
		Creators []string `json:"additional_creators"`
	}
	if err := r.JSON(&body); err != nil {
		return nil, err
	}
	if body.Version == "" {
		return nil, matrixerr.MissingParam(`"new_version" is missing`)
	}
	v, ok := event.GetVersion(body.Version)
	if !ok {
		return nil, matrixerr.UnsupportedRoomVersion(body.Version)
	}
	if slices.ContainsFunc(body.Creators, func(id string) bool { return !event.ValidUserID(id) }) {
		return nil, matrixerr.InvalidParam(`"additional_creators" must be a list of user ids`)
	}
	room, err := a.joined(r)
	if err != nil {
		return nil, err
	}
	if err := a.s.AwaitMembers(ctx, room); err != nil { // whom to ban again
		return nil, err
	}
	old, err := a.readOld(ctx, room, r.Caller.UserID)
	if err != nil {
		return nil, err
	}
	next, err := a.replace(ctx, old, v, body.Creators)
	if err != nil {
		return nil, err
	}
	a.carryOver(ctx, r.Caller.UserID, next)
	return map[string]string{"replacement_room": next}, nil
}

// carryOver takes a user's settings for the room that another one replaces along
// to that one (client-server API, "Room Upgrades"). A join does not fail by it.
func (a *API) carryOver(ctx context.Context, user, room string) {
	if a.o.Replaced == nil {
		return
	}
	create, err := a.s.CurrentState(ctx, room, "m.room.create", "")
	if err == nil && create != nil {
		if old := create.Event.ContentString("predecessor.room_id"); event.ValidRoomID(old) {
			err = a.o.Replaced(ctx, user, old, room)
		}
	}
	if err != nil {
		a.o.Log.WithError(err).WithField("room", room).Warn("A user's settings for a replaced room could not be taken along")
	}
}

// oldRoom is what an upgrade reads of the room that it replaces.
type oldRoom struct {
	id, user string
	version  *event.Version
	last     string // id of the newest event
	public   bool
	powers   auth.Powers
	state    map[store.Tuple]json.RawMessage // contents
	order    []store.Tuple
}

func (o *oldRoom) content(typ string) json.RawMessage { return o.state[store.Tuple{Type: typ}] }

// readOld reads a room that a user may replace: one who may send its
// m.room.tombstone.
func (a *API) readOld(ctx context.Context, room, user string) (*oldRoom, error) {
	key, err := a.s.Room(ctx, room)
	if err != nil {
		return nil, fail(err)
	}
	o := &oldRoom{id: room, user: user, version: key.Version, state: map[store.Tuple]json.RawMessage{}}
	v, err := a.s.Current(ctx, room)
	if err != nil {
		return nil, fail(err)
	}
	if o.public, err = a.s.IsPublished(ctx, room); err != nil {
		return nil, fail(err)
	}
	newest, _, err := a.s.Timeline(ctx, room, 0, a.o.Hub.Published(), 1)
	if err != nil {
		return nil, fail(err)
	}
	for _, e := range newest {
		o.last = e.ID
	}
	return o, a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		if o.powers, err = a.s.Powers(tx, v); err != nil {
			return err
		}
		if o.powers.UserLevel(user) < o.powers.EventLevel("m.room.tombstone", true) {
			return matrixerr.Forbidden("Your power level does not let you upgrade this room.")
		}
		events, err := a.s.StateEvents(tx, v.State, nil)
		for _, e := range events {
			key, _ := e.Event.Key()
			t := store.Tuple{Type: e.Event.Type(), Key: key}
			o.state[t] = e.Event.ContentJSON()
			o.order = append(o.order, t)
		}
		return err
	})
}

// replace makes the new room and closes the old one (client-server API, "Room
// Upgrades"). The new room is made first: when that fails, nothing has changed.
func (a *API) replace(ctx context.Context, o *oldRoom, v *event.Version, creators []string) (string, error) {
	levels := o.newLevels(v, creators)
	q := roomserver.CreateRequest{
		Creator: o.user, Version: v.ID, Preset: "private_chat", Public: o.public,
		CreationContent: o.creation(v, creators), InitialState: o.transferred(v, levels),
	}
	next, err := a.s.Create(ctx, q)
	if err != nil {
		return "", failCreate(err)
	}
	if levels.lowered != nil {
		a.follow(ctx, next, o.user, "m.room.power_levels", levels.lowered)
	}
	a.moveAliases(ctx, o, next)
	_, err = a.sendState(ctx, o.id, o.user, "m.room.tombstone", map[string]string{"body": "This room has been replaced", "replacement_room": next})
	if err != nil {
		return "", failWrite(err)
	}
	a.closeOld(ctx, o)
	return next, nil
}

func (a *API) sendState(ctx context.Context, room, user, typ string, content any) (string, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return "", err
	}
	key := ""
	return a.s.Send(ctx, roomserver.SendRequest{RoomID: room, Sender: user, Type: typ, StateKey: &key, Content: raw})
}

// follow sends state that an upgrade can do without.
func (a *API) follow(ctx context.Context, room, user, typ string, content any) {
	if _, err := a.sendState(ctx, room, user, typ, content); err != nil {
		a.o.Log.WithError(err).WithField("room", room).WithField("type", typ).Info("A step of a room's upgrade was not possible")
	}
}

// creation is the content of the new m.room.create.
func (o *oldRoom) creation(v *event.Version, creators []string) map[string]json.RawMessage {
	predecessor := map[string]string{"room_id": o.id}
	if !v.DomainlessRoomIDs && o.last != "" {
		predecessor["event_id"] = o.last
	}
	content := map[string]json.RawMessage{"predecessor": encode(predecessor)}
	for _, key := range []string{"type", "m.federate"} {
		if value := gjson.GetBytes(o.content("m.room.create"), gjson.Escape(key)); value.Exists() {
			content[key] = json.RawMessage(value.Raw)
		}
	}
	if v.PrivilegedCreators && len(creators) > 0 {
		content["additional_creators"] = encode(creators)
	}
	return content
}

// encode is for maps and lists of plain values, which always have a JSON form.
func encode(v any) json.RawMessage {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("rooms: " + err.Error())
	}
	return raw
}

// transferable is the state that goes to the new room as it is. Events that
// mean something by their sender, and memberships other than bans, do not.
var transferable = []string{
	"m.room.server_acl", "m.room.encryption", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.related_groups", "m.room.policy",
}

// transferred lists the first state of the new room.
func (o *oldRoom) transferred(v *event.Version, levels newLevels) []roomserver.StateEvent {
	list := []roomserver.StateEvent{
		{Type: "m.room.power_levels", Content: levels.first},
		{Type: "m.room.join_rules", Content: o.joinRules(v)},
		{Type: "m.room.history_visibility", Content: o.or("m.room.history_visibility", `{"history_visibility":"shared"}`)},
		{Type: "m.room.guest_access", Content: o.or("m.room.guest_access", `{"guest_access":"forbidden"}`)},
	}
	for _, typ := range transferable {
		if content := o.content(typ); content != nil {
			list = append(list, roomserver.StateEvent{Type: typ, Content: content})
		}
	}
	space := gjson.GetBytes(o.content("m.room.create"), "type").Str == "m.space"
	for _, t := range o.order {
		content := o.state[t]
		child := space && t.Type == "m.space.child" && gjson.GetBytes(content, "via").IsArray()
		if o.banned(t) || child {
			list = append(list, roomserver.StateEvent{Type: t.Type, StateKey: t.Key, Content: content})
		}
	}
	return list
}

func (o *oldRoom) banned(t store.Tuple) bool {
	return t.Type == typeMember && gjson.GetBytes(o.state[t], "membership").Str == auth.Ban
}

func (o *oldRoom) or(typ, content string) json.RawMessage {
	if c := o.content(typ); c != nil {
		return c
	}
	return json.RawMessage(content)
}

// joinRules keeps the join rule where the new version knows it; else the room
// is by invite.
func (o *oldRoom) joinRules(v *event.Version) json.RawMessage {
	invite := json.RawMessage(`{"join_rule":"invite"}`)
	content := o.content("m.room.join_rules")
	switch gjson.GetBytes(content, "join_rule").Str {
	case "public", "invite", "private":
		return content
	case "knock":
		if v.Knock {
			return content
		}
	case "restricted":
		if v.Restricted {
			return content
		}
	case "knock_restricted":
		if v.KnockRestricted {
			return content
		}
	}
	return invite
}

// moveAliases takes the local aliases along, and the main address if it is one
// of them.
func (a *API) moveAliases(ctx context.Context, o *oldRoom, next string) {
	if err := a.s.MoveAliases(ctx, o.id, next); err != nil {
		a.o.Log.WithError(err).WithField("room", o.id).Warn("The aliases of an upgraded room could not be moved")
		return
	}
	content := o.content("m.room.canonical_alias")
	if content == nil {
		return
	}
	var c aliases
	_ = json.Unmarshal(content, &c) // what others wrote there may be of any shape
	if !a.s.IsLocal(c.Alias) {
		c.Alias = ""
	}
	c.Alt = slices.DeleteFunc(c.Alt, func(alias string) bool { return !a.s.IsLocal(alias) })
	if len(c.all()) > 0 {
		a.follow(ctx, next, o.user, "m.room.canonical_alias", c)
		a.follow(ctx, o.id, o.user, "m.room.canonical_alias", struct{}{})
	}
}

// closeOld keeps people from talking in the old room, and takes it out of the
// directory.
func (a *API) closeOld(ctx context.Context, o *oldRoom) {
	content := object{}
	if raw := o.content("m.room.power_levels"); raw != nil && json.Unmarshal(raw, &content) != nil {
		return
	}
	closed := max(50, content.int("users_default", 0)+1)
	for _, key := range []string{"events_default", "invite"} {
		content[key] = encode(max(closed, content.int(key, 0)))
	}
	a.follow(ctx, o.id, o.user, "m.room.power_levels", content)
	if !o.public {
		return
	}
	if err := a.s.Publish(ctx, o.id, false); err != nil {
		a.o.Log.WithError(err).WithField("room", o.id).Warn("An upgraded room could not be taken out of the directory")
	}
}
