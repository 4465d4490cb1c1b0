// Package calls owns what clients ask before they call each other: the relays for calls between two people (TURN), and
// the services for calls of many (MatrixRTC).
package calls

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"

	"knock/internal/httpx"
)

// Options say what there is for calls.
type Options struct {
	TURN    TURN
	LiveKit []string         // URLs of the services that authorise users at a LiveKit server, the preferred first
	Now     func() time.Time // nil: time.Now
}

// TURN is the relay for calls between two people. Its users have either passwords made of a shared secret, good for a
// while, or all the same name and password.
type TURN struct {
	URIs     []string // such as turn:turn.example.org:3478?transport=udp; none: there is no relay
	Secret   string   // that the relay knows too; "" gives User and Password
	User     string
	Password string
	TTL      time.Duration // how long an answer is good, in whole seconds
	Guests   bool          // guests may use it too
}

// API serves the endpoints.
type API struct{ o Options }

// New makes an API.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &API{o}
}

// Transport is a service for calls of many (MSC4143), of type livekit (MSC4195).
type Transport struct {
	Type string `json:"type"`
	URL  string `json:"livekit_service_url"`
}

// Transports are the services of the options, the preferred first; never nil.
func (o Options) Transports() []Transport {
	list := make([]Transport, len(o.LiveKit))
	for i, url := range o.LiveKit {
		list[i] = Transport{"livekit", url}
	}
	return list
}

// Routes is the route table.
func (a *API) Routes() []httpx.Route {
	rows := []httpx.Route{{Method: http.MethodGet, Path: "/_matrix/client/v3/voip/turnServer", Handler: a.turnServer, Auth: httpx.AuthGuestOK,
		Spec: "Voice over IP"}}
	for _, path := range []string{"/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", "/_matrix/client/v1/rtc/transports"} {
		rows = append(rows, httpx.Route{Method: http.MethodGet, Path: path, Handler: a.transports, Auth: httpx.AuthUser, Spec: "MSC4143"})
	}
	return rows
}

// turnServer answers with an empty object where there is no relay for the caller: clients then try without one, and ask
// again later.
func (a *API) turnServer(_ context.Context, r *httpx.Request) (any, error) {
	t := a.o.TURN
	if len(t.URIs) == 0 || r.Caller.Guest && !t.Guests {
		return struct{}{}, nil
	}
	name, password := t.User, t.Password
	if t.Secret != "" {
		name, password = a.credentials(r.Caller.UserID)
	}
	return map[string]any{"username": name, "password": password, "uris": t.URIs, "ttl": int64(t.TTL / time.Second)}, nil
}

// credentials are a name and a password as a relay with a shared secret checks them (draft-uberti-behave-turn-rest): the
// name says when it ends, and the password signs it.
func (a *API) credentials(user string) (name, password string) {
	name = strconv.FormatInt(a.o.Now().Add(a.o.TURN.TTL).Unix(), 10) + ":" + user
	mac := hmac.New(sha1.New, []byte(a.o.TURN.Secret))
	mac.Write([]byte(name))
	return name, base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func (a *API) transports(context.Context, *httpx.Request) (any, error) {
	return map[string]any{"rtc_transports": a.o.Transports()}, nil
}
