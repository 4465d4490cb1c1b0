package account

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"knock/internal/account"
	"knock/internal/httpx"
	"knock/internal/matrixerr"
)

func (a *API) profileRoutes() []httpx.Route {
	const spec, field = "Profiles", v3 + "/profile/{userId}/{keyName}"
	return []httpx.Route{
		{Method: "GET", Path: v3 + "/profile/{userId}", Handler: a.profile, Limit: limitLookup, Spec: spec},
		{Method: "GET", Path: field, Handler: a.profileField, Limit: limitLookup, Spec: spec},
		{Method: "PUT", Path: field, Handler: a.setProfileField, Auth: httpx.AuthGuestOK, NotSuspended: true, Limit: limitProfile,
			MaxBody: maxProfileBody, Spec: spec},
		{Method: "DELETE", Path: field, Handler: a.deleteProfileField, Auth: httpx.AuthGuestOK, NotSuspended: true, Limit: limitProfile,
			Spec: spec},
	}
}

// lookup finds a profile here or on the user's own server. field "" is all of it.
func (a *API) lookup(ctx context.Context, userID, field string) (map[string]json.RawMessage, error) {
	_, server, ok := strings.Cut(userID, ":")
	if !ok || !strings.HasPrefix(userID, "@") || server == "" || len(userID) > 255 {
		return nil, matrixerr.InvalidParam("This is not a user id such as @alice:example.org")
	}
	if server == a.accounts.ServerName() {
		return a.accounts.Profile(ctx, userID)
	}
	return a.remote.profile(ctx, server, userID, field)
}

func (a *API) profile(ctx context.Context, r *httpx.Request) (any, error) {
	return a.lookup(ctx, r.Vars["userId"], "")
}

func (a *API) profileField(ctx context.Context, r *httpx.Request) (any, error) {
	key := r.Vars["keyName"]
	if err := account.CheckProfileKey(key); err != nil {
		return nil, err
	}
	p, err := a.lookup(ctx, r.Vars["userId"], key)
	if err != nil {
		return nil, err
	}
	value, ok := p[key]
	if !ok {
		return nil, matrixerr.NotFound("This user's profile does not have this field")
	}
	return map[string]json.RawMessage{key: value}, nil
}

// mayEdit lets people change their own profile; guests only the display name (Client-Server API, "Guest access").
func mayEdit(r *httpx.Request) error {
	if r.Caller.Guest && r.Vars["keyName"] != account.FieldDisplayName {
		return matrixerr.GuestForbidden()
	}
	return own(r, "You can only change your own profile")
}

func (a *API) setProfileField(ctx context.Context, r *httpx.Request) (any, error) {
	if err := mayEdit(r); err != nil {
		return nil, err
	}
	key := r.Vars["keyName"]
	if err := account.CheckProfileKey(key); err != nil {
		return nil, err
	}
	var req map[string]json.RawMessage
	if err := r.JSON(&req); err != nil {
		return nil, err
	}
	value, ok := req[key]
	if !ok {
		return nil, matrixerr.MissingParam("The body must have the member " + key)
	}
	return nil, a.accounts.SetProfileField(ctx, r.Caller.UserID, key, value)
}

func (a *API) deleteProfileField(ctx context.Context, r *httpx.Request) (any, error) {
	if err := mayEdit(r); err != nil {
		return nil, err
	}
	return nil, a.accounts.DeleteProfileField(ctx, r.Caller.UserID, r.Vars["keyName"])
}

const (
	remoteLifetime   = time.Minute // how long a remote profile is believed
	remoteFailure    = 3 * time.Second
	maxRemote        = 5000
	maxRemoteProfile = 64 << 10 // bytes
	maxRemoteBytes   = 16 << 20
)

// remoteCache asks other servers for profiles, once for many who want the same, and not again for a minute; a failure is
// remembered for seconds, so that a server that is back is asked again.
type remoteCache struct {
	from   RemoteProfiles
	now    func() time.Time
	flight singleflight.Group
	mu     sync.Mutex
	m      map[string]remoteProfile
	bytes  int // of the fields in m
}

type remoteProfile struct {
	fields map[string]json.RawMessage
	err    error
	at     time.Time
}

func (p remoteProfile) size() (n int) {
	for k, v := range p.fields {
		n += len(k) + len(v)
	}
	return n
}

func newRemoteCache(from RemoteProfiles, now func() time.Time) *remoteCache {
	return &remoteCache{from: from, now: now, m: map[string]remoteProfile{}}
}

func (c *remoteCache) profile(ctx context.Context, server, userID, field string) (map[string]json.RawMessage, error) {
	if c.from == nil {
		return nil, matrixerr.NotFound("This server does not look up users of other servers")
	}
	key := field + "\x00" + userID
	if p, ok := c.cached(key); ok {
		return p.fields, p.err
	}
	v, _, _ := c.flight.Do(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		fields, err := c.from.Profile(ctx, server, userID, field)
		p := remoteProfile{wellFormed(fields), remoteError(err), c.now()}
		if err == nil && p.size() > maxRemoteProfile {
			p = remoteProfile{nil, errRemote(nil), p.at}
		}
		c.keep(key, p)
		return p, nil
	})
	p := v.(remoteProfile)
	return p.fields, p.err
}

func (c *remoteCache) cached(key string) (remoteProfile, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.m[key]
	lifetime := remoteLifetime
	if p.err != nil {
		lifetime = remoteFailure
	}
	return p, ok && c.now().Sub(p.at) < lifetime
}

func (c *remoteCache) keep(key string, p remoteProfile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= maxRemote || c.bytes+p.size() > maxRemoteBytes {
		clear(c.m)
		c.bytes = 0
	}
	c.bytes += p.size() - c.m[key].size()
	c.m[key] = p
}

// wellFormed leaves out the specification's fields that are no texts: clients rely on that.
func wellFormed(fields map[string]json.RawMessage) map[string]json.RawMessage {
	for _, name := range []string{account.FieldDisplayName, account.FieldAvatarURL, account.FieldTimeZone} {
		if value, ok := fields[name]; ok && (len(value) == 0 || value[0] != '"') {
			delete(fields, name)
		}
	}
	return fields
}

// remoteError passes on that there is no such profile or that it is not for us; anything else is the other server's
// failure.
func remoteError(err error) error {
	if err == nil {
		return nil
	}
	switch known := matrixerr.From(err); known.HTTP {
	case http.StatusNotFound, http.StatusForbidden:
		return known
	}
	return errRemote(err)
}

func errRemote(cause error) error {
	return matrixerr.Unknown(http.StatusBadGateway, "The user's own server could not be asked; try again later").With(cause)
}
