package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/tidwall/gjson"

	"knock/internal/httpx"
	"knock/internal/matrixerr"
	"knock/internal/sqldb"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

const (
	typeMember    = "m.room.member"
	typeRedaction = "m.room.redaction"
)

func (a *API) send(ctx context.Context, r *httpx.Request) (any, error) {
	q := roomserver.SendRequest{
		RoomID: r.Vars["roomId"], Sender: r.Caller.UserID, Type: r.Vars["eventType"],
		Device: r.Caller.DeviceID, TxnID: r.Vars["txnId"], Path: "send",
	}
	return a.sendFrom(ctx, r, q)
}

// sendFrom takes the rest of an event from a request, and sends it now or, where the request asks for that, later.
func (a *API) sendFrom(ctx context.Context, r *httpx.Request, q roomserver.SendRequest) (any, error) {
	var err error
	if q.Sticky, err = stickyOf(r); err != nil {
		return nil, err
	}
	delay, later, err := delayOf(r)
	if err != nil {
		return nil, err
	}
	if later {
		return a.scheduleFrom(ctx, r, q, delay)
	}
	if q.Content, err = r.ObjectBytes(); err != nil {
		return nil, err
	}
	if q.TS, q.Dated, err = massaged(r); err != nil {
		return nil, err
	}
	id, err := a.Deliver(ctx, r.Caller, q)
	return eventID(id), err
}

// Deliver sends an event as its sender does who puts a message or state. It checks all but the shape of q.
func (a *API) Deliver(ctx context.Context, c httpx.Caller, q roomserver.SendRequest) (id string, err error) {
	if q.StateKey != nil {
		return a.putStateAs(ctx, c, q)
	}
	return a.sendMessage(ctx, c, q)
}

func (a *API) sendMessage(ctx context.Context, c httpx.Caller, q roomserver.SendRequest) (id string, err error) {
	if c.Suspended && q.Type != typeRedaction {
		return "", matrixerr.UserSuspended()
	}
	if q.Type == typeRedaction {
		q.Redacts = gjson.GetBytes(q.Content, "redacts").Str
		if err := a.mayRedact(ctx, c, q); err != nil {
			return "", err
		}
	}
	if a.o.Check != nil {
		if err := a.o.Check(ctx, q); err != nil {
			return "", err
		}
	}
	id, err = a.s.Send(ctx, q)
	return id, failWrite(err)
}

// massaged is the time that an application service gives an event, if it does (Application Service API, "Timestamp
// massaging").
func massaged(r *httpx.Request) (ts int64, given bool, err error) {
	text := r.Query("ts")
	if text == "" || r.Caller.AppService == "" {
		return 0, false, nil
	}
	const latest = 1<<53 - 1
	ts, err = strconv.ParseInt(text, 10, 64)
	if err != nil || ts < 0 || ts > latest {
		return 0, false, matrixerr.InvalidParam("Query parameter ts must be a time in milliseconds since 1970")
	}
	return ts, true, nil
}

const stickyParam = "org.matrix.msc4354.sticky_duration_ms"

// stickyOf is for how long an event is to be sticky (MSC4354), nil for not at all.
func stickyOf(r *httpx.Request) (*int64, error) {
	text := r.Query(stickyParam)
	if text == "" {
		return nil, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil || ms < 0 || ms > event.MaxSticky {
		return nil, matrixerr.InvalidParam("Query parameter " + stickyParam + " must be a number of milliseconds from 0 to 3600000")
	}
	return &ms, nil
}

func eventID(id string) any { return map[string]string{"event_id": id} }

func (a *API) redact(ctx context.Context, r *httpx.Request) (any, error) {
	content, err := r.ObjectBytes()
	if err != nil {
		return nil, err
	}
	if reason := gjson.GetBytes(content, "reason"); reason.Exists() && reason.Type != gjson.String {
		return nil, matrixerr.BadJSON(`"reason" must be a string`)
	}
	q := roomserver.SendRequest{
		RoomID: r.Vars["roomId"], Sender: r.Caller.UserID, Type: typeRedaction, Content: content, Redacts: r.Vars["eventId"],
		Device: r.Caller.DeviceID, TxnID: r.Vars["txnId"], Path: "redact",
	}
	if err := a.mayRedact(ctx, r.Caller, q); err != nil {
		return nil, err
	}
	id, err := a.s.Send(ctx, q)
	return eventID(id), failWrite(err)
}

// mayRedact checks what the auth rules leave to those who apply a redaction:
// whether its sender may redact its target (client-server API, "Redactions").
// Those who are suspended may redact what they sent themselves.
func (a *API) mayRedact(ctx context.Context, c httpx.Caller, q roomserver.SendRequest) error {
	if q.Redacts == "" {
		return matrixerr.BadJSON(`A redaction needs "redacts", the id of the event to redact`)
	}
	if !a.o.Hub.IsJoined(q.Sender, q.RoomID) {
		return notIn
	}
	v, err := a.s.Current(ctx, q.RoomID)
	if err != nil {
		return fail(err)
	}
	return a.o.DB.Read(ctx, func(tx *sqldb.Tx) error {
		target, err := a.redacted(tx, q)
		if err != nil {
			return err
		}
		if target != nil && (target.IsState("m.room.create", "") || target.IsState("m.room.server_acl", "")) {
			return matrixerr.Forbidden("Events of type " + target.Type() + " cannot be redacted: the room would stop working.")
		}
		if target != nil && target.Sender() == q.Sender {
			return nil
		}
		if c.Suspended {
			return matrixerr.UserSuspended()
		}
		powers, err := a.s.Powers(tx, v)
		if err == nil && powers.UserLevel(q.Sender) < powers.Redact() {
			err = matrixerr.Forbidden("Your power level does not let you redact what others sent.")
		}
		return err
	})
}

// redacted returns the event that a redaction names; nil when this server does
// not have it: others may, so a redaction of it is sent all the same.
func (a *API) redacted(tx *sqldb.Tx, q roomserver.SendRequest) (*event.Event, error) {
	room, err := a.s.Store.RoomTx(tx, q.RoomID)
	if err != nil {
		return nil, err
	}
	e, err := a.s.Store.EventByID(tx, q.Redacts)
	if errors.Is(err, store.ErrNotFound) || err == nil && e.Room != room.NID {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return e.Event, nil
}

func (a *API) putState(ctx context.Context, r *httpx.Request) (any, error) {
	key := r.Vars["stateKey"]
	return a.sendFrom(ctx, r, roomserver.SendRequest{RoomID: r.Vars["roomId"], Sender: r.Caller.UserID, Type: r.Vars["eventType"], StateKey: &key})
}

func (a *API) putStateAs(ctx context.Context, c httpx.Caller, q roomserver.SendRequest) (id string, err error) {
	if c.Suspended && q.Type != typeMember {
		return "", matrixerr.UserSuspended()
	}
	send := a.s.Send
	switch q.Type {
	case "m.room.create":
		return "", errCreate
	case "m.room.power_levels":
		if err := a.checkLevels(ctx, q.Sender, q.RoomID, q.Content); err != nil {
			return "", err
		}
	case "m.room.canonical_alias":
		if err := a.checkAliases(ctx, q.Sender, q.RoomID, q.Content); err != nil {
			return "", err
		}
	case typeMember:
		send = func(ctx context.Context, q roomserver.SendRequest) (string, error) { return a.sendMember(ctx, c, q) }
	}
	id, err = send(ctx, q)
	return id, failWrite(err)
}

var errCreate = matrixerr.InvalidParam("A room is created once: m.room.create cannot be sent")

// sendMember sends a membership event that the client composed. Those who are suspended may leave.
func (a *API) sendMember(ctx context.Context, c httpx.Caller, q roomserver.SendRequest) (string, error) {
	var content map[string]json.RawMessage
	if err := httpx.Unmarshal(q.Content, &content); err != nil {
		return "", err
	}
	var membership string
	if json.Unmarshal(content["membership"], &membership) != nil || store.ParseMembership(membership) == store.NoMembership {
		return "", matrixerr.BadJSON(`"membership" must be "join", "invite", "leave", "ban" or "knock"`)
	}
	if !event.ValidUserID(*q.StateKey) {
		return "", matrixerr.InvalidParam("The state key of a membership must be a user id")
	}
	m := roomserver.MembershipRequest{RoomID: q.RoomID, Sender: q.Sender, Target: *q.StateKey, Membership: membership, Content: content, TS: q.TS, Dated: q.Dated,
		Sticky: q.Sticky, Delay: q.Delay, Also: q.Also}
	if c.Suspended && (membership != "leave" || m.Target != m.Sender) {
		return "", matrixerr.UserSuspended()
	}
	if membership == "leave" && m.Target == m.Sender {
		row, err := a.s.Membership(ctx, m.RoomID, m.Target)
		if err == nil {
			err = a.mayLeave(ctx, row, m.RoomID, m.Target)
		}
		if err != nil {
			return "", err
		}
	}
	if membership == "join" && m.Target == m.Sender && !a.o.Hub.IsJoined(m.Sender, m.RoomID) {
		return a.joinByState(ctx, m)
	}
	return a.s.SetMembership(ctx, m)
}

// joinByState joins as POST /join does, which may take another server's help.
func (a *API) joinByState(ctx context.Context, m roomserver.MembershipRequest) (string, error) {
	room, err := a.s.Join(ctx, roomserver.JoinRequest{RoomIDOrAlias: m.RoomID, User: m.Target, Content: m.Content,
		Joined: func(ctx context.Context, room string) { a.carryOver(ctx, m.Target, room) }})
	if err != nil {
		return "", failJoin(err)
	}
	e, err := a.s.CurrentState(ctx, room, typeMember, m.Target)
	if err != nil {
		return "", err
	}
	return e.ID, nil
}
