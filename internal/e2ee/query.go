package e2ee

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"knock/internal/matrixerr"
	"knock/internal/sqldb"
)

// maxQuery bounds the users in one request.
const maxQuery = 20_000

// Answer is what is known of users (Client-Server API, POST /keys/query).
type Answer struct {
	DeviceKeys  map[string]map[string]json.RawMessage `json:"device_keys"`
	Master      map[string]json.RawMessage            `json:"master_keys"`
	SelfSigning map[string]json.RawMessage            `json:"self_signing_keys"`
	UserSigning map[string]json.RawMessage            `json:"user_signing_keys,omitempty"`
	Failures    Failures                              `json:"failures,omitempty"`
}

func newAnswer() *Answer {
	return &Answer{DeviceKeys: map[string]map[string]json.RawMessage{}, Master: map[string]json.RawMessage{},
		SelfSigning: map[string]json.RawMessage{}, UserSigning: map[string]json.RawMessage{}, Failures: Failures{}}
}

// device is what is stored of a device.
type device struct {
	keys json.RawMessage
	name string
}

// knownUsers is what is stored of users.
type knownUsers struct {
	devices map[string]map[string]device
	cross   map[string]map[usage]json.RawMessage
	names   map[string]map[string]string // of all devices of local users
}

// readKeys reads the devices with keys.
func readKeys(tx *sqldb.Tx, users []string) (map[string]map[string]device, error) {
	out := make(map[string]map[string]device, len(users))
	_, err := sqldb.Collect(tx, deviceKeysOf, func(r *sqldb.Rows) (_ struct{}, err error) {
		var user, id, keys, name []byte
		if err = r.Scan(&user, &id, &keys, &name); err != nil {
			return
		}
		if out[string(user)] == nil {
			out[string(user)] = map[string]device{}
		}
		out[string(user)][string(id)] = device{keys, string(name)}
		return
	}, users)
	return out, err
}

// readUsers reads what is stored of users, with the display names of local devices.
func (s *Service) readUsers(tx *sqldb.Tx, users []string) (*knownUsers, error) {
	if len(users) == 0 {
		return &knownUsers{}, nil
	}
	devices, err := readKeys(tx, users)
	if err != nil {
		return nil, err
	}
	names, err := s.o.Accounts.DeviceNames(tx, slices.DeleteFunc(slices.Clone(users), func(u string) bool { return !s.local(u) }))
	if err != nil {
		return nil, err
	}
	for user, byID := range names {
		for id, name := range byID {
			if d, ok := devices[user][id]; ok {
				d.name = name
				devices[user][id] = d
			}
		}
	}
	cross, err := readCross(tx, users)
	return &knownUsers{devices, cross, names}, err
}

func readCross(tx *sqldb.Tx, users []string) (map[string]map[usage]json.RawMessage, error) {
	out := map[string]map[usage]json.RawMessage{}
	_, err := sqldb.Collect(tx, crossKeysOf, func(r *sqldb.Rows) (_ struct{}, err error) {
		var user, data []byte
		var use int64
		if err = r.Scan(&user, &use, &data); err != nil {
			return
		}
		if out[string(user)] == nil {
			out[string(user)] = map[usage]json.RawMessage{}
		}
		out[string(user)][usage(use)] = data
		return
	}, users)
	return out, err
}

// fill adds what is stored of users to an answer. An empty list of devices stands for all.
func (k *knownUsers) fill(a *Answer, want map[string][]string) {
	for user, ids := range want {
		found := map[string]json.RawMessage{}
		for id, d := range k.devices[user] {
			if len(ids) == 0 || slices.Contains(ids, id) {
				found[id] = d.withName()
			}
		}
		a.DeviceKeys[user] = found
		for use, to := range map[usage]map[string]json.RawMessage{master: a.Master, selfSigning: a.SelfSigning} {
			if key, ok := k.cross[user][use]; ok {
				to[user] = key
			}
		}
	}
}

// withName is the keys with the display name beside them.
func (d device) withName() json.RawMessage {
	unsigned := map[string]string{}
	if d.name != "" {
		unsigned["device_display_name"] = d.name
	}
	out := append(slices.Clone(d.keys[:len(d.keys)-1]), `,"unsigned":`...)
	return append(append(out, encode(unsigned)...), '}')
}

// Query tells a local user about the devices and cross-signing keys of users: user id → device ids (none: all). What is
// not stored here is asked of other servers at the same time, for no longer than timeout (0 is ten seconds).
// Errors: M_INVALID_PARAM.
func (s *Service) Query(ctx context.Context, asking string, want map[string][]string, timeout time.Duration) (*Answer, error) {
	if len(want) > maxQuery {
		return nil, matrixerr.InvalidParam("At most 20000 users can be queried at once")
	}
	a := newAnswer()
	var known *knownUsers
	stored := localOnly(s, want)
	elsewhere := map[string]map[string][]string{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) (err error) {
		if err = s.storedRemote(tx, want, stored, elsewhere); err != nil {
			return err
		}
		if known, err = s.readUsers(tx, keysOf(stored)); err != nil {
			return err
		}
		known.fill(a, stored)
		_, own := stored[asking]
		if key, ok := known.cross[asking][userSigning]; ok && own {
			a.UserSigning[asking] = key
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	a.Failures = s.queryServers(ctx, timeout, elsewhere, a)
	return a, s.addOwnSignatures(ctx, asking, a)
}

// storedRemote divides other servers' users: those whose lists are up to date here, and those to ask about. The lists
// that missed something are in both, in case that their server does not answer.
func (s *Service) storedRemote(tx *sqldb.Tx, want, stored map[string][]string, elsewhere map[string]map[string][]string) error {
	var remote []string
	for user := range want {
		if server := serverOf(user); server != "" && server != s.o.ServerName {
			remote = append(remote, user)
		}
	}
	if len(remote) == 0 {
		return nil
	}
	lists, err := readRemote(tx, remote)
	if err != nil {
		return err
	}
	for _, user := range remote {
		list, ok := lists[user]
		if ok {
			stored[user] = want[user]
		}
		if !ok || list.stale {
			server := serverOf(user)
			if elsewhere[server] == nil {
				elsewhere[server] = map[string][]string{}
			}
			elsewhere[server][user] = want[user]
		}
	}
	return nil
}

// queryServers asks other servers about users, and has the lists of those who share a room fetched for the next time.
func (s *Service) queryServers(ctx context.Context, timeout time.Duration, want map[string]map[string][]string, a *Answer) Failures {
	return askEach(s, ctx, timeout, want, func(ctx context.Context, server string, want map[string][]string) (func(), error) {
		for user, ids := range want {
			if ids == nil {
				want[user] = []string{}
			}
		}
		raw, err := s.o.Remote.QueryDeviceKeys(ctx, server, want)
		if err != nil {
			return nil, err
		}
		var got Answer
		if err := json.Unmarshal(raw, &got); err != nil {
			return nil, err
		}
		s.resyncs.add(keysOf(want)...)
		return func() { a.merge(want, &got) }, nil
	})
}

// merge takes what another server says of the users that it was asked about. Keys under a wrong id are left out.
func (a *Answer) merge(want map[string][]string, got *Answer) {
	for user, ids := range want {
		devices, ok := got.DeviceKeys[user]
		if ok {
			a.DeviceKeys[user] = map[string]json.RawMessage{}
		}
		for id, raw := range devices {
			if len(ids) > 0 && !slices.Contains(ids, id) {
				continue
			}
			if keys, err := parseDeviceKeys(raw, user, id); err == nil {
				a.DeviceKeys[user][id] = device{keys.encode(), remoteName(raw)}.withName()
			}
		}
		if k, err := parseCrossKey(got.Master[user], user, master); err == nil {
			a.Master[user] = k.encode()
		}
		if k, err := parseCrossKey(got.SelfSigning[user], user, selfSigning); err == nil {
			a.SelfSigning[user] = k.encode()
		}
	}
}

func remoteName(raw json.RawMessage) string {
	var o struct {
		Unsigned struct {
			Name string `json:"device_display_name"`
		} `json:"unsigned"`
	}
	if json.Unmarshal(raw, &o) != nil || len(o.Unsigned.Name) > maxID {
		return ""
	}
	return o.Unsigned.Name
}

// addOwnSignatures adds the signatures of the asking user on others' master keys: nobody else sees them.
func (s *Service) addOwnSignatures(ctx context.Context, asking string, a *Answer) error {
	if len(a.Master) == 0 || !s.local(asking) {
		return nil
	}
	return s.db.Read(ctx, func(tx *sqldb.Tx) error {
		_, err := sqldb.Collect(tx, signaturesBy, func(r *sqldb.Rows) (_ struct{}, err error) {
			var user, public, keyID, signature []byte
			if err = r.Scan(&user, &public, &keyID, &signature); err != nil {
				return
			}
			k, bad := parseCrossKey(a.Master[string(user)], string(user), master)
			if bad == nil && k.public == string(public) {
				k.sign(asking, string(keyID), string(signature))
				a.Master[string(user)] = k.encode()
			}
			return
		}, asking, keysOf(a.Master))
		return err
	})
}

// QueryLocal answers another server's POST /user/keys/query (Server-Server API, "End-to-End Encryption").
func (s *Service) QueryLocal(ctx context.Context, want map[string][]string) (*Answer, error) {
	if len(want) > maxQuery {
		return nil, matrixerr.InvalidParam("At most 20000 users can be queried at once")
	}
	a := newAnswer()
	want = localOnly(s, want)
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		known, err := s.readUsers(tx, keysOf(want))
		if err == nil {
			known.fill(a, want)
		}
		return err
	})
	return a, err
}

// Devices is the answer to GET /user/devices/{userId} (Server-Server API, "Device Management").
type Devices struct {
	UserID      string          `json:"user_id"`
	Stream      int64           `json:"stream_id"`
	Devices     []DeviceInfo    `json:"devices"`
	Master      json.RawMessage `json:"master_key,omitempty"`
	SelfSigning json.RawMessage `json:"self_signing_key,omitempty"`
}

// DeviceInfo is one device in Devices.
type DeviceInfo struct {
	ID   string          `json:"device_id"`
	Keys json.RawMessage `json:"keys"`
	Name string          `json:"device_display_name,omitempty"`
}

// LocalDevices answers another server's GET /user/devices/{userId}. Errors: M_NOT_FOUND.
func (s *Service) LocalDevices(ctx context.Context, userID string) (*Devices, error) {
	if !s.local(userID) {
		return nil, matrixerr.NotFound("This user does not live on this server")
	}
	out := &Devices{UserID: userID, Devices: []DeviceInfo{}}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		known, err := s.readUsers(tx, []string{userID})
		if err != nil {
			return err
		}
		for _, id := range keysOf(known.devices[userID]) {
			d := known.devices[userID][id]
			out.Devices = append(out.Devices, DeviceInfo{id, d.keys, d.name})
		}
		out.Master, out.SelfSigning = known.cross[userID][master], known.cross[userID][selfSigning]
		streams, err := sqldb.Collect(tx, listStream, scanNumber, userID)
		if len(streams) > 0 {
			out.Stream = streams[0]
		}
		return err
	})
	return out, err
}
