package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/auth"
	"knock/roomserver/store"
)

func (a *API) state(ctx context.Context, r *httpx.Request) (any, error) {
	v, err := a.wholeView(ctx, r)
	if err != nil {
		return nil, err
	}
	var body []byte
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		events, err := a.s.StateEvents(tx, v.State, nil)
		body = a.appendPlain(nil, events)
		return err
	})
	return httpx.Raw(body), err
}

func (a *API) stateEvent(ctx context.Context, r *httpx.Request) (any, error) {
	format := r.Query("format")
	if format != "" && format != "content" && format != "event" {
		return nil, matrixerr.InvalidParam(`Query parameter format must be "content" or "event"`)
	}
	view := a.view
	if r.Vars["eventType"] == typeMember && r.Vars["stateKey"] != r.Caller.UserID {
		view = a.wholeView
	}
	v, err := view(ctx, r)
	if err != nil {
		return nil, err
	}
	var body []byte
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		e, err := a.s.StateEvent(tx, v, r.Vars["eventType"], r.Vars["stateKey"])
		if err != nil {
			return err
		}
		if e == nil {
			return matrixerr.NotFound("The room has no such state.")
		}
		if format != "event" {
			body = e.Event.ContentJSON()
			return nil
		}
		list, err := a.s.Render(tx, viewer(r), []*store.Stored{e}, true, nil)
		if err == nil {
			body = list[0]
		}
		return err
	})
	return httpx.Raw(body), err
}

// memberFilter says which memberships /members returns: those that are wanted,
// or are not the unwanted one.
type memberFilter struct{ want, not string }

func parseMemberFilter(r *httpx.Request) (memberFilter, error) {
	f := memberFilter{r.Query("membership"), r.Query("not_membership")}
	for _, name := range []string{f.want, f.not} {
		if name != "" && store.ParseMembership(name) == store.NoMembership {
			return f, matrixerr.InvalidParam(`Query parameters membership and not_membership must be "join", "invite", "knock", "leave" or "ban"`)
		}
	}
	return f, nil
}

func (f memberFilter) passes(e *store.Stored) bool {
	m := auth.Membership(e.Event)
	return f == memberFilter{} || f.want != "" && m == f.want || f.not != "" && m != f.not
}

func (a *API) members(ctx context.Context, r *httpx.Request) (any, error) {
	filter, err := parseMemberFilter(r)
	if err != nil {
		return nil, err
	}
	v, err := a.wholeView(ctx, r)
	if err != nil {
		return nil, err
	}
	if at := r.Query("at"); at != "" && a.o.Hub.IsJoined(r.Caller.UserID, r.Vars["roomId"]) {
		if v, err = a.viewAt(ctx, r, at); err != nil {
			return nil, err
		}
	}
	var body []byte
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		members, err := a.memberEvents(tx, v)
		members = slices.DeleteFunc(members, func(e *store.Stored) bool { return !filter.passes(e) })
		body = append(a.appendPlain([]byte(`{"chunk":`), members), '}')
		return err
	})
	return httpx.Raw(body), err
}

func (a *API) memberEvents(tx *sqldb.Tx, v roomserver.View) ([]*store.Stored, error) {
	return a.s.StateEvents(tx, v.State, func(t store.Tuple) bool { return t.Type == typeMember })
}

// viewAt returns the state at a token.
func (a *API) viewAt(ctx context.Context, r *httpx.Request, token string) (v roomserver.View, err error) {
	room := r.Vars["roomId"]
	if p, ok := roomserver.ParsePoint(token); ok {
		return a.viewAtPoint(ctx, room, r.Caller.UserID, p)
	}
	if a.o.SyncPosition != nil {
		if pos, ok := a.o.SyncPosition(token); ok {
			return a.viewAtPos(ctx, room, r.Caller.UserID, pos)
		}
	}
	return v, matrixerr.InvalidParam("Query parameter at is not a token of this server")
}

// viewAtPos returns the state at a position; that after the newest event of that time, where the room's members were not
// all known then.
func (a *API) viewAtPos(ctx context.Context, room, user string, pos int64) (v roomserver.View, err error) {
	if !a.s.MembersMissing(room, pos) {
		v, err = a.s.View(ctx, room, pos)
		return v, fail(err)
	}
	p, err := a.s.PointAt(ctx, room, pos)
	if err != nil {
		return v, fail(err)
	}
	return a.viewAtPoint(ctx, room, user, p)
}

func (a *API) viewAtPoint(ctx context.Context, room, user string, p roomserver.Point) (v roomserver.View, err error) {
	key, err := a.s.Room(ctx, room)
	if err != nil {
		return v, fail(err)
	}
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		ref, last, err := a.s.StateAtPoint(tx, key.NID, p)
		v.State = ref
		if err != nil || last == nil {
			return err
		}
		seen, err := a.s.Visible(tx, user, []*store.Stored{last})
		if err == nil && len(seen) == 0 {
			err = matrixerr.Forbidden("You may not see the members of that time.")
		}
		return err
	})
	return v, err
}

// profile is what /joined_members says of a member. Clients expect an avatar_url
// of everybody.
type profile struct {
	DisplayName json.RawMessage `json:"display_name,omitempty"`
	AvatarURL   json.RawMessage `json:"avatar_url"`
}

func (a *API) joinedMembers(ctx context.Context, r *httpx.Request) (any, error) {
	room, err := a.joined(r)
	if err != nil {
		return nil, err
	}
	if err := a.s.AwaitMembers(ctx, room); err != nil {
		return nil, err
	}
	v, err := a.s.Current(ctx, room)
	if err != nil {
		return nil, fail(err)
	}
	joined := make(map[string]profile, v.Joined)
	err = a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		members, err := a.memberEvents(tx, v)
		for _, e := range members {
			if auth.Membership(e.Event) == auth.Join {
				user, _ := e.Event.Key()
				p := profile{text(e, "displayname"), text(e, "avatar_url")}
				if p.AvatarURL == nil {
					p.AvatarURL = json.RawMessage(`""`)
				}
				joined[user] = p
			}
		}
		return err
	})
	return map[string]any{"joined": joined}, err
}

// text returns a member of an event's content if it is a string.
func text(e *store.Stored, key string) json.RawMessage {
	if raw := e.Event.ContentField(key); len(raw) > 0 && raw[0] == '"' {
		return raw
	}
	return nil
}
