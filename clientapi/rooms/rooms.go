// Package rooms owns the Client-Server endpoints about rooms: making and
// upgrading them, memberships, sending events, reading state and history.
package rooms

import (
	"context"
	"errors"
	"net/http"

	"github.com/sirupsen/logrus"

	"knock/internal/account"
	"knock/internal/appservice"
	"knock/internal/delayed"
	"knock/internal/httpx"
	"knock/internal/identity"
	"knock/internal/matrixerr"
	"knock/internal/search"
	"knock/internal/sqldb"
	"knock/internal/stream"
	"knock/roomserver"
	"knock/roomserver/event"
	"knock/roomserver/store"
)

// Options are what an API needs.
type Options struct {
	ServerName string
	Rooms      *roomserver.Server
	Services   *appservice.Services // nil: there are none
	DB         *sqldb.DB
	Hub        *stream.Hub
	Identity   *identity.Client // nil: addresses cannot be invited
	// SyncPosition returns the position of a token of /sync; false when it is
	// none. Nil where such tokens are not made.
	SyncPosition func(token string) (pos int64, ok bool)
	// Bundle returns what else events carry for a viewer, such as aggregations of
	// relations; it may be nil.
	Bundle func(tx *sqldb.Tx, v roomserver.Viewer, events []*store.Stored) (func(*store.Stored, *event.ClientOptions), error)
	// Related returns those of events that have children of any of the rel_types and senders, nil lists being any; it
	// may be nil.
	Related func(tx *sqldb.Tx, events []*store.Stored, relTypes, senders *[]string) ([]*store.Stored, error)
	// Check refuses an event whose relation to another one is not allowed; it may
	// be nil.
	Check func(ctx context.Context, q roomserver.SendRequest) error
	// Replaced is told of a user who came into a room that replaces another; it
	// may be nil.
	Replaced func(ctx context.Context, user, old, room string) error
	// Notices says whether a room is the one in which a user gets server notices; nil: there are none.
	Notices func(ctx context.Context, room, user string) (bool, error)
	// Accounts has what users noted of rooms; nil: nothing.
	Accounts *account.Service
	// Events answers GET /events for all rooms; nil: only those of one room are told.
	Events httpx.Handler
	// Delayed keeps events until they are due; nil: none are.
	Delayed *delayed.Service
	// Limit takes from the allowance of a class; it may be nil.
	Limit func(class, who string) *matrixerr.Error
	// Search finds texts; nil: searching is turned off.
	Search *search.Index
	Log    *logrus.Entry // nil: silent
}

// API serves rooms.
type API struct {
	o Options
	s *roomserver.Server
}

// New makes an API.
func New(o Options) *API {
	if o.Log == nil {
		l := logrus.New()
		l.SetLevel(logrus.PanicLevel)
		o.Log = logrus.NewEntry(l)
	}
	return &API{o: o, s: o.Rooms}
}

const (
	v1 = "/_matrix/client/v1/"
	v3 = "/_matrix/client/v3/"
)

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	rows := append(a.writeRoutes(), a.memberRoutes()...)
	rows = append(rows, a.adminRoutes()...)
	if a.o.Delayed != nil {
		rows = append(rows, a.delayedRoutes()...)
	}
	return append(rows, a.readRoutes()...)
}

func (a *API) writeRoutes() []httpx.Route {
	const room = v3 + "rooms/{roomId}/"
	return []httpx.Route{
		{Method: http.MethodPut, Path: room + "send/{eventType}/{txnId}", Handler: a.send, Auth: httpx.AuthGuestOK, Limit: "message", Spec: "Sending events to a room", Hot: true},
		{Method: http.MethodPut, Path: room + "state/{eventType}", Handler: a.putState, Auth: httpx.AuthGuestOK, Limit: "message", Spec: "Sending events to a room", Hot: true},
		{Method: http.MethodPut, Path: room + "state/{eventType}/{stateKey:.*}", Handler: a.putState, Auth: httpx.AuthGuestOK, Limit: "message", Spec: "Sending events to a room", Hot: true},
		{Method: http.MethodPut, Path: room + "redact/{eventId}/{txnId}", Handler: a.redact, Auth: httpx.AuthUser, Limit: "message", OptionalBody: true, Spec: "Redactions"},
		{Method: http.MethodPost, Path: v3 + "createRoom", Handler: a.create, Auth: httpx.AuthUser, NotSuspended: true, Limit: "create", Spec: "Creation"},
		{Method: http.MethodPost, Path: room + "upgrade", Handler: a.upgrade, Auth: httpx.AuthUser, NotSuspended: true, Limit: "create", Spec: "Room Upgrades"},
	}
}

func (a *API) memberRoutes() []httpx.Route {
	const room, spec = v3 + "rooms/{roomId}/", "Room membership"
	post := func(path string, h httpx.Handler, auth httpx.Auth, limit string) httpx.Route {
		return httpx.Route{Method: http.MethodPost, Path: path, Handler: h, Auth: auth, Limit: limit, OptionalBody: true, Spec: spec}
	}
	active := func(path string, h httpx.Handler, auth httpx.Auth, limit string) httpx.Route {
		row := post(path, h, auth, limit)
		row.NotSuspended = true
		return row
	}
	return []httpx.Route{
		active(v3+"join/{roomIdOrAlias}", a.join, httpx.AuthGuestOK, "join"),
		active(room+"join", a.join, httpx.AuthGuestOK, "join"),
		active(v3+"knock/{roomIdOrAlias}", a.knock, httpx.AuthUser, "join"),
		post(room+"leave", a.leave, httpx.AuthGuestOK, ""),
		post(room+"forget", a.forget, httpx.AuthUser, ""),
		active(room+"invite", a.invite, httpx.AuthUser, "invite"),
		active(room+"kick", a.kick, httpx.AuthUser, "message"),
		active(room+"ban", a.ban, httpx.AuthUser, "message"),
		active(room+"unban", a.unban, httpx.AuthUser, "message"),
		{Method: http.MethodGet, Path: v3 + "joined_rooms", Handler: a.joinedRooms, Auth: httpx.AuthUser, Spec: spec},
	}
}

func (a *API) readRoutes() []httpx.Route {
	const room, spec = v3 + "rooms/{roomId}/", "Getting events for a room"
	get := func(path string, h httpx.Handler, hot bool) httpx.Route {
		return httpx.Route{Method: http.MethodGet, Path: path, Handler: h, Auth: httpx.AuthGuestOK, Spec: spec, Hot: hot}
	}
	return []httpx.Route{
		{Method: http.MethodPost, Path: v3 + "search", Handler: a.search, Auth: httpx.AuthUser, Spec: "Server Side Search"},
		get(room+"messages", a.messages, true),
		get(room+"state", a.state, false),
		get(room+"state/{eventType}", a.stateEvent, false),
		get(room+"state/{eventType}/{stateKey:.*}", a.stateEvent, false),
		get(room+"members", a.members, false),
		get(room+"joined_members", a.joinedMembers, false),
		get(room+"event/{eventId}", a.event, false),
		get(room+"context/{eventId}", a.context, false),
		get(v1+"rooms/{roomId}/timestamp_to_event", a.timestampToEvent, false),
		get(room+"initialSync", a.initialSync, false),
		get(v3+"events/{eventId}", a.anyEvent, false),
		{Method: http.MethodGet, Path: v3 + "events", Handler: a.events, Auth: httpx.AuthGuestOK, Spec: "Room Previews", Waits: true},
	}
}

// notIn is the answer about rooms that the caller is not in, whether or not they exist.
var notIn = matrixerr.Forbidden("You are not in this room.")

// fail maps errors of the room server for endpoints under rooms/{roomId}, which
// do not tell unknown rooms from those of others.
func fail(err error) error {
	if errors.Is(err, roomserver.ErrUnknownRoom) {
		return notIn.With(err)
	}
	return roomserver.MatrixError(err)
}

// failWrite is fail for events that the caller composed.
func failWrite(err error) error {
	if errors.Is(err, roomserver.ErrBadRequest) {
		return matrixerr.BadJSON("The content makes no valid event: numbers must be whole and within ±(2^53−1), and fields of the right type.").With(err)
	}
	var refused *matrixerr.Error
	if errors.As(err, &refused) && refused.Code == "M_INCOMPATIBLE_ROOM_VERSION" { // what an invited user's server says to ours
		return matrixerr.New(http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", "The invited user's server does not support this room's version").With(err)
	}
	return fail(err)
}

// view returns the state of a room that the caller may see.
func (a *API) view(ctx context.Context, r *httpx.Request) (roomserver.View, error) {
	v, err := a.s.StateFor(ctx, r.Vars["roomId"], r.Caller.UserID)
	return v, fail(err)
}

// wholeView is view once all members of the room are known.
func (a *API) wholeView(ctx context.Context, r *httpx.Request) (roomserver.View, error) {
	v, err := a.view(ctx, r)
	if err != nil || !a.s.MembersMissing(r.Vars["roomId"], a.o.Hub.Published()) {
		return v, err
	}
	if err := a.s.AwaitMembers(ctx, r.Vars["roomId"]); err != nil {
		return v, err
	}
	return a.view(ctx, r)
}

// joined returns the room of the path if the caller is in it.
func (a *API) joined(r *httpx.Request) (string, error) {
	room := r.Vars["roomId"]
	if !a.o.Hub.IsJoined(r.Caller.UserID, room) {
		return "", notIn
	}
	return room, nil
}

func viewer(r *httpx.Request) roomserver.Viewer {
	return roomserver.Viewer{User: r.Caller.UserID, Device: r.Caller.DeviceID}
}
