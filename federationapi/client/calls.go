package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Version asks for the name and version of a server's software.
func (c *Client) Version(ctx context.Context, server string) (name, version string, err error) {
	var out struct {
		Server struct{ Name, Version string }
	}
	err = c.get(ctx, server, call{name: "version", path: "/_matrix/federation/v1/version", hurry: true, unsigned: true}, &out)
	return clip(out.Server.Name, 255), clip(out.Server.Version, 255), err
}

const keysLimit = 128 << 10

// ServerKeys fetches the keys that a server publishes, as it signed them. They are unchecked.
func (c *Client) ServerKeys(ctx context.Context, server string) (json.RawMessage, error) {
	return c.bytes(ctx, server, call{
		name: "server_keys", path: "/_matrix/key/v2/server", limit: keysLimit, timeout: 10 * time.Second, hurry: true, unsigned: true, keys: true,
	})
}

// QueryKeys asks a notary for keys of other servers: server name → key id → the time (ms) until which the key should
// be valid. The answers are unchecked.
func (c *Client) QueryKeys(ctx context.Context, notary string, want map[string]map[string]int64) ([]json.RawMessage, error) {
	type criteria struct {
		Until int64 `json:"minimum_valid_until_ts"`
	}
	query := make(map[string]map[string]criteria, len(want))
	for server, keys := range want {
		query[server] = make(map[string]criteria, len(keys))
		for id, until := range keys {
			query[server][id] = criteria{until}
		}
	}
	var out struct {
		Keys []json.RawMessage `json:"server_keys"`
	}
	err := c.get(ctx, notary, call{
		name: "query_keys", method: http.MethodPost, path: "/_matrix/key/v2/query", hurry: true, unsigned: true, keys: true,
		limit: min(int64(len(want)+1)*keysLimit, eventsLimit), content: map[string]any{"server_keys": query},
	}, &out)
	return out.Keys, err
}

// Transaction is what a server sends to another one: at most 50 PDUs and 100 EDUs.
type Transaction struct {
	Origin string            `json:"origin"`
	TS     int64             `json:"origin_server_ts"`
	PDUs   []json.RawMessage `json:"pdus"`
	EDUs   []EDU             `json:"edus,omitempty"`
}

// EDU is one ephemeral data unit.
type EDU struct {
	Type    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// SendTransaction sends a transaction. refused holds the other server's reason for each PDU that it refused.
func (c *Client) SendTransaction(ctx context.Context, server, txnID string, t *Transaction) (refused map[string]string, err error) {
	if t.PDUs == nil {
		t.PDUs = []json.RawMessage{}
	}
	var out struct {
		PDUs map[string]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	err = c.get(ctx, server, call{
		name: "send", method: http.MethodPut, path: path("/_matrix/federation/v1/send/", txnID), content: t,
		timeout: 2 * time.Minute, strict: true,
	}, &out)
	if err != nil {
		return nil, err
	}
	refused = map[string]string{}
	for id, result := range out.PDUs {
		if result.Error != "" {
			refused[id] = clip(result.Error, 1000)
		}
	}
	return refused, nil
}

// QueryProfile asks for a user's profile, or for one field of it when field is not "". The answer is a JSON object.
func (c *Client) QueryProfile(ctx context.Context, server, userID, field string) (map[string]json.RawMessage, error) {
	query := url.Values{"user_id": {userID}}
	if field != "" {
		query.Set("field", field)
	}
	var out map[string]json.RawMessage
	err := c.get(ctx, server, call{
		name: "query_profile", path: "/_matrix/federation/v1/query/profile?" + query.Encode(), timeout: 10 * time.Second, hurry: true,
	}, &out)
	return out, err
}

// Alias asks which room an alias names, and which servers may know that room (query/directory).
func (c *Client) Alias(ctx context.Context, server, alias string) (roomID string, servers []string, err error) {
	var out struct {
		RoomID  string   `json:"room_id"`
		Servers []string `json:"servers"`
	}
	query := url.Values{"room_alias": {alias}}
	err = c.get(ctx, server, call{
		name: "query_directory", path: "/_matrix/federation/v1/query/directory?" + query.Encode(), hurry: true,
	}, &out)
	return out.RoomID, out.Servers, err
}

// PublicRoomsQuery asks for a part of a server's room directory.
type PublicRoomsQuery struct {
	Limit              int
	Since              string
	Filter             json.RawMessage // nil: none
	IncludeAllNetworks bool
	ThirdPartyInstance string
}

// PublicRooms returns a server's answer about its public rooms, a JSON object as in the Client-Server API. With a
// filter it is asked by POST.
func (c *Client) PublicRooms(ctx context.Context, server string, q PublicRoomsQuery) (json.RawMessage, error) {
	k := call{name: "public_rooms", path: "/_matrix/federation/v1/publicRooms", hurry: true, limit: 8 << 20}
	if q.Filter == nil {
		k.path += "?" + q.values().Encode()
	} else {
		k.method, k.content = http.MethodPost, q.body()
	}
	var out json.RawMessage
	err := c.get(ctx, server, k, &out)
	if err == nil && (len(out) == 0 || out[0] != '{') {
		err = &Error{Server: server, Kind: KindBadBody, Cause: badBody("not a JSON object")}
	}
	return out, err
}

func (q PublicRoomsQuery) values() url.Values {
	v := url.Values{}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Since != "" {
		v.Set("since", q.Since)
	}
	if q.IncludeAllNetworks {
		v.Set("include_all_networks", "true")
	}
	if q.ThirdPartyInstance != "" {
		v.Set("third_party_instance_id", q.ThirdPartyInstance)
	}
	return v
}

func (q PublicRoomsQuery) body() map[string]any {
	b := map[string]any{"filter": q.Filter}
	if q.Limit > 0 {
		b["limit"] = q.Limit
	}
	if q.Since != "" {
		b["since"] = q.Since
	}
	if q.IncludeAllNetworks {
		b["include_all_networks"] = true
	}
	if q.ThirdPartyInstance != "" {
		b["third_party_instance_id"] = q.ThirdPartyInstance
	}
	return b
}

// Hierarchy asks for a room and the rooms below it (Server-Server API, "Spaces"). The answer is a JSON object, unchecked.
func (c *Client) Hierarchy(ctx context.Context, server, roomID string, suggestedOnly bool) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.get(ctx, server, call{name: "hierarchy", hurry: true, limit: 8 << 20,
		path: path("/_matrix/federation/v1/hierarchy/", roomID) + "?suggested_only=" + strconv.FormatBool(suggestedOnly)}, &out)
	return out, err
}

// UserDevices asks for a user's devices and keys. The answer is a JSON object, unchecked.
func (c *Client) UserDevices(ctx context.Context, server, userID string) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.get(ctx, server, call{
		name: "user_devices", path: path("/_matrix/federation/v1/user/devices/", userID), limit: 8 << 20,
	}, &out)
	return out, err
}

// keysAnswer bounds answers with the keys of many devices.
const keysAnswer = 32 << 20

// QueryDeviceKeys asks for the device and cross-signing keys of users: user id → device ids, none for all. The answer
// is a JSON object, unchecked.
func (c *Client) QueryDeviceKeys(ctx context.Context, server string, want map[string][]string) (json.RawMessage, error) {
	return c.askForKeys(ctx, server, "query_device_keys", "query", map[string]any{"device_keys": want})
}

// ClaimKeys asks for one-time keys: user id → device id → algorithm. The answer is a JSON object, unchecked.
func (c *Client) ClaimKeys(ctx context.Context, server string, want map[string]map[string]string) (json.RawMessage, error) {
	return c.askForKeys(ctx, server, "claim_keys", "claim", map[string]any{"one_time_keys": want})
}

func (c *Client) askForKeys(ctx context.Context, server, name, what string, body any) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.get(ctx, server, call{
		name: name, method: http.MethodPost, path: "/_matrix/federation/v1/user/keys/" + what, content: body, limit: keysAnswer, hurry: true,
	}, &out)
	return out, err
}

// PolicySignature asks a policy server to sign an event (Server-Server API, "Policy Servers") and returns its signature
// in base64, "" when it answers without one, as experimental servers refuse. unstable asks in the form of MSC4284; so
// are those that do not know the specification's.
func (c *Client) PolicySignature(ctx context.Context, server string, unstable bool, e json.RawMessage) (string, error) {
	const stableForm, unstableForm = "/_matrix/policy/v1/sign", "/_matrix/policy/unstable/org.matrix.msc4284/sign"
	var out map[string]map[string]string
	ask := func(path string) error {
		return c.get(ctx, server, call{name: "policy_sign", method: http.MethodPost, path: path, content: e, hurry: true}, &out)
	}
	var err error
	if !unstable {
		err = ask(stableForm)
	}
	if unstable || unsupportedPolicy(err) {
		err = ask(unstableForm)
	}
	return out[server]["ed25519:policy_server"], err
}

// unsupportedPolicy is stricter than unsupported: a plain 400 may be a refusal.
func unsupportedPolicy(err error) bool {
	var e *Error
	return unsupported(err) && errors.As(err, &e) && e.Code != http.StatusBadRequest
}
