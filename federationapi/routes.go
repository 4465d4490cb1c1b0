package federationapi

import "knock/internal/httpx"

// maxTransaction bounds the body of a transaction: 50 events of the largest size and as many large EDUs fit.
const maxTransaction = 10 << 20

// maxEventBody bounds bodies that are an event, or an invite with the state that comes along.
const maxEventBody = 4 << 20

// maxBinding bounds what an identity server tells of one address.
const maxBinding = 1 << 20

// Routes are the endpoints of the door. Those of keys and media belong to their owners.
func (a *API) Routes() []httpx.Route {
	const v1, v2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
	get := func(path, section string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: "GET", Path: v1 + path, Handler: h, Auth: httpx.AuthServer, Spec: "Server-Server: " + section}
	}
	put := func(path, section string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: "PUT", Path: path, Handler: h, Auth: httpx.AuthServer, MaxBody: maxEventBody, Spec: "Server-Server: " + section}
	}
	post := func(path, section string, h httpx.Handler) httpx.Route {
		return httpx.Route{Method: "POST", Path: v1 + path, Handler: h, Auth: httpx.AuthServer, Spec: "Server-Server: " + section}
	}
	transactions := put(v1+"/send/{txnId}", "Transactions", a.sendTransaction)
	transactions.MaxBody, transactions.Hot = maxTransaction, true
	bound := put(v1+"/3pid/onbind", "Third-party invites", a.onBind)
	bound.Auth, bound.Limit, bound.MaxBody = httpx.AuthNone, "invite", maxBinding
	version := get("/version", "Server discovery", a.version)
	version.Auth = httpx.AuthNone
	extremities := get("", "MSC4370 (forward extremities)", a.extremities)
	extremities.Path = "/_matrix/federation/unstable/org.matrix.msc4370/extremities/{roomId}"
	rows := append(append(a.encryptionRoutes(), a.policyRoutes()...), []httpx.Route{
		transactions,
		version,
		extremities,
		OpenIDRoute(a.o.Accounts),
		get("/make_join/{roomId}/{userId}", "Joining Rooms", a.makeJoin),
		put(v1+"/send_join/{roomId}/{eventId}", "Joining Rooms", a.sendJoinV1),
		put(v2+"/send_join/{roomId}/{eventId}", "Joining Rooms", a.sendJoin),
		get("/make_knock/{roomId}/{userId}", "Knocking upon a room", a.makeKnock),
		put(v1+"/send_knock/{roomId}/{eventId}", "Knocking upon a room", a.sendKnock),
		get("/make_leave/{roomId}/{userId}", "Leaving Rooms (Rejecting Invites)", a.makeLeave),
		put(v1+"/send_leave/{roomId}/{eventId}", "Leaving Rooms (Rejecting Invites)", a.sendLeaveV1),
		put(v2+"/send_leave/{roomId}/{eventId}", "Leaving Rooms (Rejecting Invites)", a.sendLeave),
		put(v1+"/exchange_third_party_invite/{roomId}", "Third-party invites", a.exchangeInvite),
		bound,
		put(v1+"/invite/{roomId}/{eventId}", "Inviting to a room", a.inviteV1),
		put(v2+"/invite/{roomId}/{eventId}", "Inviting to a room", a.invite),
		get("/event/{eventId}", "Retrieving events", a.event),
		get("/event_auth/{roomId}/{eventId}", "Retrieving event authorization information", a.eventAuth),
		get("/state/{roomId}", "Retrieving events", a.state),
		get("/state_ids/{roomId}", "Retrieving events", a.stateIDs),
		get("/backfill/{roomId}", "Backfilling and retrieving missing events", a.backfill),
		post("/get_missing_events/{roomId}", "Backfilling and retrieving missing events", a.missingEvents),
		get("/timestamp_to_event/{roomId}", "Retrieving events", a.timestampToEvent),
		get("/query/profile", "Querying for information", a.queryProfile),
		get("/query/directory", "Querying for information", a.queryDirectory),
		get("/query/{queryType}", "Querying for information", a.queryUnknown),
		get("/publicRooms", "Published Room Directory", a.publicRooms),
		post("/publicRooms", "Published Room Directory", a.searchPublicRooms),
	}...)
	for i := range rows {
		if rows[i].Auth == httpx.AuthServer {
			rows[i].Handler = a.bounded(rows[i].Handler)
		}
	}
	return rows
}
